"""How a capture is run, by a command or from Python: with its progress shown, under a name that is free."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from capture.api.arguments import check_loaded, existing_run
from capture.api.progress import Say, capture_progress
from capture.data.example import Source
from capture.sequences import partition
from warehouse.errors import UsageError
from warehouse.progress import has_screen
from warehouse.storage import paths
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

Texts = Source | Iterable[str]
"""What a capture reads: a source, as `open_file` and its like give one, or texts."""


def screen_note(text: str) -> None:
    """Print a line on standard error where somebody looks on."""
    if has_screen():
        print(text, file=sys.stderr)


def as_source(data: Texts, open_list: Callable[[list[str]], Source] | None = None) -> Source:
    """Return what a capture reads as a source.

    Args:
        data: A source, or texts.
        open_list: Makes a source of texts; None: as `open_texts` does.

    Returns:
        The source.

    Raises:
        UsageError: It is neither; the message says what to write.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        raise UsageError(
            "Give a list of texts, [text], or a source: capture.open_file(path), capture.open_dataset(name), "
            "capture.open_prompt_sets(name)."
        )
    if hasattr(data, "columns") or isinstance(data, dict):
        raise UsageError("Give the column with the texts, as in frame['text'], or capture.open_texts(texts, labels=…).")
    if open_list is None:
        from capture.data.memory import open_texts

        open_list = open_texts
    return open_list(list(data))


def run_job(
    job: Any,
    loaded: Any,
    source: Source,
    options: Any,
    *,
    root: AnyPath,
    run_id: str | None,
    say: Say = None,
) -> Manifest:
    """Run a capture with its progress shown.

    Args:
        job: The module of the kind of capture.
        loaded: The model.
        source: What is read.
        options: The kind's own options.
        root: The warehouse's folder.
        run_id: The run's name; None: one made from model and data.
        say: Receives lines for the user; None: they appear where somebody looks on.

    Returns:
        The manifest of the published run.
    """
    total = partition.Partition(options.shard).count(options.limit)
    with capture_progress(total, say) as (report, note):
        manifest: Manifest = job.run(loaded, source, options, root=root, run_id=run_id, report=report, note=note)
    return manifest


def capture_run(
    job: Any,
    model: Any,
    data: Texts,
    options: Any,
    root: str | AnyPath | None,
    run: str | None,
    skip_existing: bool,
    open_list: Callable[[list[str]], Source] | None = None,
) -> TraceStore:
    """Run a capture for Python.

    Args:
        job: The module of the kind of capture.
        model: A loaded model.
        data: What is read.
        options: The kind's own options.
        root: The warehouse's folder; None: the usual one.
        run: The run's name; None: one made from model and data.
        skip_existing: Whether a run of that name is returned as it is, if there is one.
        open_list: Makes a source of texts; None: as `open_texts` does.

    Returns:
        The run.
    """
    loaded, folder = check_loaded(model), paths.find_root(root)
    name = run and partition.part_run_name(run, options.shard)
    if (existing := existing_run(folder, name, skip_existing)) is not None:
        return existing
    source = as_source(data, open_list)
    manifest = run_job(job, loaded, source, options, root=folder, run_id=name)
    return TraceStore(paths.run_dir(folder, manifest.run_id))
