"""Which sequences of a run are exported: those of all examples, of some by id, or of those for which a condition holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from warehouse.activations.filters import condition
from warehouse.catalog.ask import asker
from warehouse.errors import UsageError, first_line
from warehouse.schema.quoting import sql_text
from warehouse.storage.paths import run_id_of
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

_AT_ONCE = 64
"""Examples whose tokens are asked for at once."""


@dataclass(frozen=True)
class ExportedSequence:
    """A sequence, and what the model read."""

    example_id: str
    seq: int
    token_ids: list[int]
    tokens: list[str]
    """Each decoded on its own."""
    n_response_tokens: int
    """How many of them, at the end, the model generated."""

    @property
    def name(self) -> str:
        """The beginning of the names of files about it, which is the same in every export."""
        return f"{self.example_id}-{self.seq}"

    @property
    def n_prompt_tokens(self) -> int:
        """How many tokens the model was given."""
        return len(self.tokens) - self.n_response_tokens


def choose_examples(
    wh: Warehouse, store: TraceStore, examples: Sequence[str] = (), where: str | None = None
) -> list[str]:
    """Return the ids of the examples that are exported, sorted.

    Args:
        wh: The warehouse.
        store: The run.
        examples: Ids, or beginnings of ids; none: all examples.
        where: A SQL condition on the columns of the table `examples`; None: none.

    Returns:
        The ids of the examples that are named, and for which the condition holds.

    Raises:
        UsageError: No example is left, or the condition is wrong.
    """
    run = run_id_of(store.path)
    named = {store.find_example(e) for e in examples}
    among = f" AND example_id IN ({', '.join(map(sql_text, sorted(named)))})" if named else ""
    query = f"SELECT example_id FROM examples WHERE run_id = ?{among} AND ({condition(where)}) ORDER BY example_id"
    try:
        found: list[str] = asker(wh)(query, run)["example_id"].to_pylist()
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError) as e:
        raise UsageError(f"--where fails on the table examples: {first_line(e)}") from None
    if not found:
        why = f"no example of run '{run}' fits --where {where}" if where else f"run '{run}' has no examples"
        raise UsageError(f"There is nothing to export: {why}.")
    return found


def exported_side(store: TraceStore) -> str:
    """Return the stack of the model whose tokens are exported: the decoder, or the encoder where nothing else was recorded."""
    side, recorded = store.check_side(None), {s.side for s in store.meta.sites}
    return side if not recorded or side in recorded else recorded.pop()


def sequences(store: TraceStore, examples: Sequence[str], side: str) -> Iterator[ExportedSequence]:
    """Yield the sequences of examples that have tokens, in the order of their ids.

    Args:
        store: The run.
        examples: The examples, sorted.
        side: The stack of the model that read them.

    Yields:
        Each sequence; the tokens of a few examples are held at a time.
    """
    for start in range(0, len(examples), _AT_ONCE):
        some = list(examples[start : start + _AT_ONCE])
        rows = store.query(
            "SELECT example_id, seq, [x.token_id FOR x IN rows], [x.token FOR x IN rows], "
            "len([x FOR x IN rows IF x.is_response]) "
            "FROM (SELECT example_id, seq, list_sort(list(struct_pack(pos, token_id, token, is_response))) AS rows "
            "FROM tokens WHERE side = ? AND example_id BETWEEN ? AND ? AND example_id IN (SELECT unnest(?)) GROUP BY ALL) "
            "ORDER BY example_id, seq",
            [side, some[0], some[-1], some],
        ).fetchall()
        for row in rows:
            yield ExportedSequence(*row)
