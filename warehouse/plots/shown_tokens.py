"""Which tokens a picture is of: a run, an example by the beginning of its id, a sequence of it, and a window of positions.

`open_run` and `open_tokens` take what a caller named and return it, checked; every function of this package begins with one of
them. `rows` asks the warehouse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from warehouse.errors import UsageError
from warehouse.plots.canvas import label
from warehouse.storage.manifest import Manifest
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

Run = str | TraceStore
"""A run as a caller names it."""


@dataclass(frozen=True)
class ShownTokens:
    """The tokens of a sequence that a picture shows."""

    store: TraceStore
    example_id: str
    seq: int
    positions: Sequence[int]
    """The positions that are shown."""
    sequence: list[str]
    """All tokens of the sequence. One that is a part of a character is the whole character here, and later parts of it are `·`."""

    @property
    def tokens(self) -> list[str]:
        """The tokens that are shown."""
        return [self.sequence[pos] for pos in self.positions]

    @property
    def labels(self) -> list[str]:
        """The same as labels of an axis."""
        return [label(token) for token in self.tokens]

    @property
    def facts(self) -> list[str]:
        """What a title says of them."""
        facts = [*run_facts(self.store.meta), f"example {self.example_id}"]
        if self.seq:
            facts.append(f"sequence {self.seq}")
        first, last, n = self.positions[0], self.positions[-1], len(self.positions)
        if n < len(self.sequence):
            which = f"tokens {first} to {last}" if last - first == n - 1 else f"{n} tokens"
            facts.append(f"{which} of {len(self.sequence)}")
        return facts

    def only(self, positions: Sequence[int]) -> ShownTokens:
        """Return some of them."""
        return replace(self, positions=positions)


def run_facts(meta: Manifest) -> list[str]:
    """Return what a title says of a run."""
    name = meta.model.name
    return [Path(name).name if Path(name).is_absolute() else name, f"run {meta.run_id}"]


def open_run(wh: Warehouse, run: Run) -> TraceStore:
    """Open a run, unless it is open; NotFoundError lists the nearest names."""
    return run if isinstance(run, TraceStore) else wh.run(run)


def open_tokens(
    store: TraceStore, example: str | None, seq: int, positions: range | None, most: int | None
) -> ShownTokens:
    """Find the tokens that a picture shows.

    Args:
        store: The run.
        example: The example's id, or the beginning of it; None for the run's first with tokens.
        seq: Which sequence of the example.
        positions: The positions; None for the first `most`.
        most: How many tokens the picture can show; None: as many as there are.

    Returns:
        The tokens.

    Raises:
        UsageError: The run has no texts, the example's id is ambiguous, or there are no such positions, or too many.
    """
    run_id, kind = store.meta.run_id, store.meta.kind
    if not store.meta.counts.rows.get("tokens"):
        of = f" Name the run that it was made from: {store.meta.parents[0]}." if store.meta.parents else ""
        raise UsageError(f"Run '{run_id}' is of kind {kind}: it has no texts of its own.{of}")
    if example is None:
        first = "SELECT example_id FROM examples WHERE n_tokens > 0 ORDER BY idx LIMIT 1"
        ((example,),) = store.query(first).fetchall()
    example_id = store.find_example(example)
    read = store.encodings(example_id, seq)
    n = len(read["tokens"])
    if not n:
        raise UsageError(f"Example {example_id}, seq {seq} has no tokens.")
    chosen = range(n)[:most] if positions is None else range(positions.start, min(positions.stop, n))
    if not chosen or chosen.start < 0:
        raise UsageError(f"Example {example_id}, seq {seq} has positions 0 to {n - 1}.")
    if most is not None and len(chosen) > most:
        raise UsageError(f"This picture can show {most} tokens, not {len(chosen)}: name fewer positions.")
    return ShownTokens(store, example_id, seq, chosen, _whole_characters(store, example_id, seq, read))


def _whole_characters(store: TraceStore, example_id: str, seq: int, read: dict[str, Any]) -> list[str]:
    """Return a sequence's tokens, with those that are parts of a character replaced as `ShownTokens.sequence` says."""
    tokens: list[str] = list(read["tokens"])
    if store.meta.model.encoder is not None or not any("\ufffd" in token for token in tokens):
        return tokens  # offsets of an encoder-decoder's tokens may be those of another text, the target
    found = "SELECT text FROM {} WHERE example_id = ?"
    answer = store.query(found.format("prompts") + " AND seq = ?", [example_id, seq]).fetchall()
    ((text,),) = answer or store.query(found.format("examples"), [example_id]).fetchall()
    before = 0
    for i, (start, end) in enumerate(read["offset_mapping"]):
        if "\ufffd" in tokens[i] and start >= 0:
            tokens[i] = text[max(start, before) : end] or "·"
        before = max(before, end)
    return tokens


def rows(wh: Warehouse, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask the warehouse; each `?` of the query stands for a value."""
    return wh.attempt(lambda: wh.cursor().execute(query, list(values)).fetchall())


def parse_layers(layers: str | int | Sequence[int]) -> list[int] | None:
    """Return layers as a list; None for `all`.

    Raises:
        UsageError: They are another text, or none.
    """
    if layers == "all":
        return None
    chosen = [layers] if isinstance(layers, int) else [] if isinstance(layers, str) else list(layers)
    if not chosen:
        raise UsageError(f"layers {layers!r}: 'all' or numbers.")
    return chosen
