"""The card of an exported data set: README.md with YAML front matter, as Hugging Face's hub and `datasets` read it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from warehouse.errors import on_one_line
from warehouse.schema.tables import STORED
from warehouse.storage.paths import run_id_of
from warehouse.storage.trace_store import TraceStore

_PREFERRED = ("next_token", "responses", "mcq_predictions", "examples")
"""Tables of which the first that there is, is what `load_dataset` loads without a name."""


def dataset_card(store: TraceStore, rows: Mapping[str, int], *, n_examples: int | None, tensors: bool) -> str:
    """Return the text of the card.

    Args:
        store: The run.
        rows: The tables that are in the folder, and their rows.
        n_examples: How many examples were chosen; None: all of the run.
        tensors: Whether the run's tensors are in the folder.

    Returns:
        Markdown.
    """
    meta, run = store.meta, run_id_of(store.path)
    data = ", ".join(filter(None, (meta.data.dataset, meta.data.config, meta.data.split)))
    of = "all" if n_examples is None else f"{n_examples:,} of {meta.counts.examples:,}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(meta.versions.items()))
    about = {
        "run": f"{run}, of kind {meta.kind}",
        "model": f"{meta.model.name} ({meta.model.architecture}{f', revision {meta.model.revision}' if meta.model.revision else ''})",
        "weights": f"xxh3-128 {meta.model.weights_hash}, computed in {meta.model.dtype}",
        "data": data,
        "examples": of,
        "tensors": "in `blobs/`: this folder is a run, which `warehouse.TraceStore` opens"
        if tensors
        else "not in here",
        "made": f"{meta.created_at:%Y-%m-%d}, with {versions}",
    }
    lines = [
        *_front_matter(store, rows),
        f"# {_cell(run)}",
        "",
        "What happened inside a language model while it read texts, as tables: written by "
        "[trace-warehouse](https://pypi.org/project/trace-warehouse/).",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {_cell(text)} |" for name, text in about.items()),
        "",
        "The texts keep the licence of the data that they come from. Rows of two tables belong together where `example_id`, `seq` and `pos` are "
        "the same:",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("FOLDER OR OWNER/NAME", "{_default(rows)}", split="train")',
        "```",
    ]
    for name, n in rows.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{n:,} rows; one row is {STORED[name].row}.",
            "",
            "| column | type | |",
            "| --- | --- | --- |",
        ]
        lines += [f"| `{c.name}` | {c.sql} | {_cell(c.comment)} |" for c in STORED[name].file_columns]
    return "\n".join(lines) + "\n"


def _front_matter(store: TraceStore, rows: Mapping[str, int]) -> list[str]:
    """Return the lines of the front matter; JSON strings are YAML strings, whatever a name holds."""
    lines = [
        "---",
        f"pretty_name: {json.dumps(run_id_of(store.path))}",
        "tags:",
        "- trace-warehouse",
        "- interpretability",
        "configs:",
    ]
    for name in rows:
        lines += [f"- config_name: {name}"] + ["  default: true"] * (name == _default(rows))
        lines += ["  data_files:", "  - split: train", f"    path: {name}/*.parquet"]
    return [*lines, "---", ""]


def _default(rows: Mapping[str, int]) -> str:
    return next((name for name in _PREFERRED if name in rows), next(iter(rows)))


def _cell(text: str) -> str:
    """Return a text that stays in its cell."""
    return on_one_line(text).replace("|", "\\|").replace("<", "&lt;")
