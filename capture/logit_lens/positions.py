"""Which positions of a run a lens reads, in the order and the portions in which it reads them.

Positions are counted, grouped by whole sequences into the shards of the new run (`group_positions`), and cut into slices of which the
logits fit in memory (`slice_positions`). Everything is read from the run's table `tokens`; states and models are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from capture.logit_lens.options import Options
from capture.sequences import partition
from warehouse.errors import UsageError
from warehouse.storage.chosen_examples import keeps_tensors_sql
from warehouse.storage.grouping import group_by_size
from warehouse.storage.trace_store import TraceStore

_SHARD_ROWS = 1 << 15
"""Rows of `logit_lens` in a shard, where an interrupted lens can resume, unless one sequence has more."""


class SequencePositions(NamedTuple):
    """The n positions of one sequence that are read, or a part of them."""

    example_id: str
    seq: int
    positions: np.ndarray
    next_ids: np.ndarray
    """(n,) each; -1 where no token comes next."""
    ends: bool
    """Whether they include the last position of the sequence that is read."""


_TOKENS_SQL = """
    SELECT
        example_id, seq, pos, is_response, lead(token_id) OVER sequence AS next_id, lead(is_context) OVER sequence AS next_again
    FROM tokens WHERE side = 'dec' AND {kept}
    WINDOW sequence AS (PARTITION BY example_id, seq ORDER BY pos)
"""
"""A next token that is only context was predicted in an earlier sequence, and is not predicted here."""


def _position_condition(text: str) -> tuple[list[int], str]:
    """Parse `Options.positions` into numbers and a condition on `_TOKENS_SQL` with a `?` for them; raises UsageError."""
    named = {"all": "true", "last": "next_id IS NULL", "response": "is_response"}
    if text in named:
        return [], f"{named[text]} AND len(?) = 0"
    try:
        numbers = [int(n) for n in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or max(numbers) >= 1 << 31:
        raise UsageError(f"--positions {text[:80]}: write all, last, response, or numbers as in 0,1,5.")
    return numbers, "list_contains(?, pos)"


def _position_query(store: TraceStore, options: Options) -> tuple[list[int], str]:
    """Return numbers, and SQL with a `?` for them that has a row for every position to read."""
    places, condition = _position_condition(options.positions)
    tokens = _TOKENS_SQL.format(kept=keeps_tensors_sql(store.keep_every))
    query = f"SELECT * FROM ({tokens}) WHERE {condition}"
    if options.shard:
        i, n = partition.parse_part(options.shard)
        query += f" QUALIFY (dense_rank() OVER (ORDER BY example_id, seq) - 1) % {n} = {i - 1}"
    return places, query


def count_positions(store: TraceStore, options: Options) -> int:
    """Count the positions that a lens reads; raises UsageError where there is none."""
    places, query = _position_query(store, options)
    [(count,)] = store.query(f"SELECT count(*) FROM ({query})", [places]).fetchall()
    if count:
        return int(count)
    if options.shard:
        raise UsageError(f"Part {options.shard} of run '{store.meta.run_id}' has none of its tokens: use fewer parts.")
    if options.positions == "response":
        raise UsageError(
            f"Run '{store.meta.run_id}' is of kind {store.meta.kind}: the model generated none of its tokens. Use --positions all"
        )
    raise UsageError(f"Run '{store.meta.run_id}' has no tokens at --positions {options.positions}.")


def group_positions(store: TraceStore, options: Options, n_layers: int) -> Iterator[list[SequencePositions]]:
    """Return whole sequences in groups, one group a shard of the new run, each with its positions to read."""
    places, query = _position_query(store, options)
    answer = store.query(
        "SELECT example_id, seq, list(pos ORDER BY pos), list(coalesce(if(next_again, NULL, next_id), -1) ORDER BY pos) "
        f"FROM ({query}) GROUP BY ALL ORDER BY example_id, seq",
        [places],
    )
    rows = chain.from_iterable(iter(lambda: answer.fetchmany(256), []))
    sequences = (
        SequencePositions(example_id, seq, np.array(positions), np.array(next_ids), True)
        for example_id, seq, positions, next_ids in rows
    )
    return group_by_size(sequences, lambda s: len(s.positions) * n_layers, _SHARD_ROWS)


def slice_positions(shard: list[SequencePositions], most: int) -> Iterator[list[SequencePositions]]:
    """Cut a group into slices of at most `most` positions; a sequence may span several."""
    pieces: list[SequencePositions] = []
    room = most
    for p in shard:
        start = 0
        while start < len(p.positions):
            end = min(len(p.positions), start + room)
            part = p._replace(
                positions=p.positions[start:end], next_ids=p.next_ids[start:end], ends=end == len(p.positions)
            )
            pieces.append(part)
            start, room = end, room - len(part.positions)
            if not room:
                yield pieces
                pieces, room = [], most
    if pieces:
        yield pieces
