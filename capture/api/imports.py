"""Other tools' files as runs, for Python and the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from capture.api.arguments import existing_run, in_python_terms
from warehouse.progress import ProgressBar
from warehouse.storage import paths
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore


@in_python_terms
def import_traces(
    path: str | Path,
    *,
    run: str,
    format: str = "auto",
    tokens: str | Path | None = None,
    layers: Sequence[int] | None = None,
    tokenizer: str | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Make a run of tensors that another tool wrote. Nothing in a file is executed.

    Example:
        run = capture.import_traces("cache.safetensors", tokenizer="gpt2", run="cached")

    Args:
        path: An activation cache of TransformerLens or what nnsight saved (.pt, .safetensors, .npz), hidden states of vLLM, or a folder of
            those or of padded Zarr stores.
        run: The new run's name.
        format: `transformer-lens`, `nnsight`, `vllm`, `zarr`; `auto`: what it looks like.
        tokens: A file of token ids, for tensors that come without.
        layers: The layers that a vLLM server saved, as it counts them.
        tokenizer: The model whose tokenizer made the ids; None: tokens are the texts that the file has, or their ids.
        root: The warehouse's folder; None: `$TRACES_HOME`, else `./runs`.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run.

    Raises:
        UsageError: The file is none of these, is damaged, or does not say which tokens it is of.
        RunExistsError: The new run exists already.
    """
    home = paths.find_root(root)
    if (existing := existing_run(home, run, skip_existing)) is not None:
        return existing
    ids = None if tokens is None else str(tokens)
    manifest = import_file(str(path), format, ids, layers, tokenizer, home, run)
    return TraceStore(paths.run_dir(home, manifest.run_id))


def import_file(
    path: str,
    format: str,
    tokens: str | None,
    layers: Sequence[int] | None,
    tokenizer: str | None,
    root: AnyPath,
    run: str,
    note: Callable[[str], None] | None = None,
) -> Manifest:
    """Open a file of another tool, and publish it as a run; the arguments are those of `import_traces`.

    Returns:
        The manifest of the run.
    """
    from capture.imports import import_run
    from capture.imports.opened import open_traces
    from capture.model.loading import load_tokenizer

    traces = open_traces(path, format, tokens, layers)
    known: Any = None if tokenizer is None else load_tokenizer(tokenizer, note or (lambda _: None))
    with ProgressBar("texts", traces.count, note) as bar:
        return import_run.run(traces, path, known, root=root, run_id=run, report=lambda n, of: bar.show(n, of, run))
