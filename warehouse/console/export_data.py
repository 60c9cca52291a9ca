"""What one file shows of an example: its tokens, a lens over it, the attention of some heads. JSON, for the page in `console/src/export/`.

In: a run, an example, which heads. Out: a dictionary of columns and small pictures; numbers to five significant digits.
"""

from __future__ import annotations

import base64
import datetime
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from warehouse.analysis.lens_matrix import lens_matrix
from warehouse.analysis.token_strip import sequence_text, token_strip
from warehouse.catalog.ask import asker
from warehouse.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warehouse.catalog.ask import Ask
    from warehouse.storage.trace_store import TraceStore
    from warehouse.warehouse import Warehouse

PICTURE = 256
"""The most cells of a picture of attention in a row and in a column: those of a longer text are the largest of several."""
_LENS_TOP = 3
"""How many tokens are named a layer and position."""
_LIKELY = 2
"""How many heads each of `_MASSES` chooses."""
_MASSES = ("induction_mass", "previous_token_mass")
"""What heads are chosen by where none is named."""
_DIGITS = 5

_HEADS = """
SELECT layer, head, entropy, first_token_mass, previous_token_mass, induction_mass FROM heads
WHERE run_id = ? AND example_id = ? AND seq = ? AND side = ?
"""


class Head(NamedTuple):
    """An attention head."""

    layer: int
    head: int


def example_data(
    wh: Warehouse, run: str, example: str, seq: int = 0, heads: Sequence[Head] | None = None
) -> dict[str, Any]:
    """Return what is shown of an example.

    Args:
        wh: The warehouse.
        run: The run.
        example: The example's id.
        seq: Which sequence of it.
        heads: Whose attention is shown; None: a few that attend to earlier copies or to the token before more than all others.

    Returns:
        What the page takes: `strip` and `lens` as columns, `heads` with their pictures as base64.
    """
    ask, store = asker(wh), wh.run(run)
    side = store.check_side(None)
    lens = lens_matrix(ask, run, example, seq, _LENS_TOP) if side == "dec" else None
    strip = token_strip(ask, store, example, seq)
    known = _known_heads(ask, run, example, seq, side)
    chosen, rule = (list(heads), "as asked for") if heads is not None else _striking(known)
    return {
        "example_id": example,
        "seq": seq,
        "text": sequence_text(ask, store, example, seq),
        "strip": _columns(strip),
        "lens": None if lens is None else {"run": lens.lens_run, "columns": _columns(lens.rows)},
        "heads": [_picture(store, example, seq, head, known.get(head, {})) for head in chosen],
        "heads_in_all": _count_heads(store, side),
        "heads_rule": rule,
    }


def run_data(wh: Warehouse, run: str) -> dict[str, Any]:
    """Return what a reader of the file should know of the run."""
    about = asker(wh)(
        "SELECT run_id, kind, model, weights_hash, dtype, dataset, split, created_at FROM runs WHERE run_id = ?", run
    )
    return {name: _plain(value) for name, value in about.to_pylist()[0].items()}


def check_head(store: TraceStore, head: Head) -> None:
    """Check that a run's model has a head.

    Raises:
        NotFoundError: It has not.
    """
    stack = store.meta.model.stack(store.check_side(None))
    if head.layer >= stack.n_layers:
        raise NotFoundError("layer", head.layer, range(stack.n_layers))
    if head.head >= stack.n_heads:
        raise NotFoundError("head", head.head, range(stack.n_heads))


def _count_heads(store: TraceStore, side: str) -> int:
    stack = store.meta.model.stack(side)
    return stack.n_layers * stack.n_heads


def _known_heads(ask: Ask, run: str, example: str, seq: int, side: str) -> dict[Head, dict[str, Any]]:
    """Return what the newest run with a table `heads` tells of each head on a sequence."""
    told_by = ask(
        "SELECT run_id FROM runs WHERE list_contains(tables, 'heads') AND (run_id = ? OR (kind = 'heads' AND list_contains(parents, ?))) "
        "ORDER BY created_at DESC, run_id DESC LIMIT 1",
        run, run,
    )["run_id"].to_pylist()  # fmt: skip
    rows = ask(_HEADS, told_by[0], example, seq, side).to_pylist() if told_by else []
    return {Head(row.pop("layer"), row.pop("head")): row for row in rows}


def _striking(known: dict[Head, dict[str, Any]]) -> tuple[list[Head], str]:
    """Return the heads with the largest of each of `_MASSES`, and the rule in words."""
    if not known:
        return [], "no run tells which heads matter here: name some with --heads"
    chosen: list[Head] = []
    for mass in _MASSES:
        told = [(row[mass], head) for head, row in known.items() if row[mass] is not None]
        chosen += [head for _, head in sorted(told, key=lambda x: (-x[0], x[1]))[:_LIKELY]]
    return list(dict.fromkeys(chosen)), f"the {_LIKELY} with the largest induction mass and previous-token mass each"


def _picture(store: TraceStore, example: str, seq: int, head: Head, about: dict[str, Any]) -> dict[str, Any]:
    """Return the attention of a head as a picture."""
    picture = store.attn_matrix(example, head.layer, head.head, seq=seq).pooled(PICTURE)
    return {
        "layer": head.layer,
        "head": head.head,
        "shape": list(picture.values.shape),
        "cell": list(picture.cell),
        "scale": float(picture.scale),
        "bytes": base64.b64encode(picture.values.tobytes()).decode("ascii"),
        "about": _plain(about),
    }


def _columns(table: pa.Table) -> list[list[Any]]:
    """Return a table as name, kind and values of each column."""
    return [[name, _kind(table[name].type), _plain(table[name].to_pylist())] for name in table.column_names]


def _kind(kind: pa.DataType) -> str:
    """Return what the page calls a type."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "truth" if pa.types.is_boolean(kind) else "text" if pa.types.is_string(kind) else "other"


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, numbers shortened; an infinity becomes the text that `Number` reads."""
    if isinstance(value, float):
        if math.isfinite(value):
            return float(f"{value:.{_DIGITS}g}")
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
