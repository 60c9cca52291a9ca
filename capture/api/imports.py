"""Other tools' files as runs, for Python and the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.api.arguments import check_loaded, existing_run, in_python_terms
from warehouse.errors import UsageError
from warehouse.progress import ProgressBar
from warehouse.storage import paths
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def import_traces(
    path: str | Path,
    *,
    run: str,
    format: str = "auto",
    tokens: str | Path | None = None,
    layers: Sequence[int] | None = None,
    tokenizer: str | None = None,
    model: Loaded | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Make a run of tensors that another tool wrote. Nothing in a file is executed.

    Example:
        run = capture.import_traces("cache.safetensors", tokenizer="gpt2", run="cached")

    Args:
        path: An activation cache of TransformerLens or what nnsight saved (.pt, .safetensors, .npz), hidden states of vLLM, or a folder of
            those or of padded Zarr stores; vectors of traits (a GGUF control vector, or .pt files with their metadata), or a trait
            pipeline's all_layers.pt.
        run: The new run's name.
        format: `transformer-lens`, `nnsight`, `vllm`, `zarr`, `trait-means`, `trait-vectors`, `control-vector`; `auto`: what it looks like.
        tokens: A file of token ids, for tensors that come without.
        layers: The layers that a vLLM server saved, as it counts them.
        tokenizer: The model whose tokenizer made the ids; None: tokens are the texts that the file has, or their ids.
        model: The model that vectors of traits are of; None: it is not at hand, and they are not projected on or steered with.
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
    loaded = None if model is None else check_loaded(model)
    manifest = import_file(
        str(path), format, ids, layers, tokenizer, None if loaded is None else lambda: loaded, home, run
    )
    return TraceStore(paths.run_dir(home, manifest.run_id))


def import_file(
    path: str,
    format: str,
    tokens: str | None,
    layers: Sequence[int] | None,
    tokenizer: str | None,
    load: Callable[[], Loaded] | None,
    root: AnyPath,
    run: str,
    note: Callable[[str], None] | None = None,
) -> Manifest:
    """Open a file of another tool, and publish it as a run; the arguments are those of `import_traces`.

    Args:
        path: The file or folder.
        format: What it is.
        tokens: A file of token ids.
        layers: The layers that a server saved.
        tokenizer: The model whose tokenizer made the ids.
        load: Loads the model that vectors are of; None: none is named.
        root: The warehouse's folder.
        run: The new run's name.
        note: Receives lines for the user.

    Returns:
        The manifest of the run.

    Raises:
        UsageError: An option is not for what the file holds.
    """
    from capture.imports import import_run, trait_files
    from capture.imports.opened import open_traces
    from capture.imports.trait_files import TraitFile
    from capture.model.loading import load_tokenizer

    traces = open_traces(path, format, tokens, layers)
    if isinstance(traces, TraitFile):
        if tokenizer is not None:
            raise UsageError("--tokenizer is for files with tokens: vectors of traits have none.")
        return trait_files.run(traces, path, None if load is None else load(), root=root, run_id=run)
    if load is not None:
        raise UsageError("--model is for vectors of traits: a file of tensors is not compared with a model.")
    known: Any = None if tokenizer is None else load_tokenizer(tokenizer, note or (lambda _: None))
    with ProgressBar("texts", traces.count, note) as bar:
        return import_run.run(traces, path, known, root=root, run_id=run, report=lambda n, of: bar.show(n, of, run))
