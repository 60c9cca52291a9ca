"""The tokens that two runs both read after the same text, sequence by sequence: what of the two can be compared.

In: two captured runs. Out: `SharedTokens`, in the order of the runs. Two runs with one tokenizer share the tokens that their
sequences begin with, up to the first that differs: what comes after it was read after another text. With other tokenizers they
share the ends of the spans of characters that both cut alike (`warehouse.analysis.token_alignment`), where both models have read
the same text too. Everything is read from the tables `tokens` and `next_token`; states and models are not known here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from capture.comparisons.run_pair import RunPair
from warehouse.analysis.token_alignment import Alignment, Token, align
from warehouse.analysis.token_strip import sequence_text
from warehouse.errors import UsageError
from warehouse.schema.quoting import sql_text
from warehouse.storage.chosen_examples import keeps_tensors_sql
from warehouse.storage.grouping import group_by_size
from warehouse.storage.trace_store import TraceStore

SIDE = "dec"

_SHARD_ROWS = 1 << 15
"""Tokens in a shard of the new run, where an interrupted comparison can resume, unless one sequence has more."""
_LISTS = ("token_id", "loss", "is_context")
_TEXT_LISTS = ("token", "char_start", "char_end", "is_special")
_SEQUENCES_SQL = """
    SELECT example_id, seq, {lists}
    FROM (
        SELECT t.example_id, t.seq, list_sort(list(struct_pack(
            pos := t.pos, token_id := t.token_id, loss := n.loss, is_context := coalesce(t.is_context, false), token := t.token,
            char_start := t.char_start, char_end := t.char_end, is_special := t.is_special
        ))) AS rows
        FROM tokens AS t
        LEFT JOIN next_token AS n ON n.example_id = t.example_id AND n.seq = t.seq AND n.pos = t.pos
        WHERE t.side = 'dec' AND {kept} AND {portion}
        GROUP BY t.example_id, t.seq
    )
    ORDER BY example_id, seq
"""
_PORTION = 1 << 20
"""Tokens that are read at a time, about."""


class SharedTokens(NamedTuple):
    """The n tokens of one sequence that both runs share."""

    example_id: str
    seq: int
    positions: np.ndarray
    """(n,), ascending."""
    other_positions: np.ndarray
    """(n,), where they stand in the other run."""
    losses: np.ndarray
    """(n,) float32, nats: what the text up to the next of these tokens costs the first model; NaN where that is not known."""
    other_losses: np.ndarray
    """(n,), the same of the other model."""
    same_tokens: bool
    """Whether both read the same tokens up to here, so that their attention can be compared."""


def shared_tokens(pair: RunPair) -> Iterator[SharedTokens]:
    """Return what two runs share of every sequence, sorted by example and sequence; those that share nothing are left out."""
    mark = _share_tokens if pair.same_tokenizer else _share_spans
    a, b = (_sequences(store, pair) for store in (pair.a, pair.b))
    left, right = next(a, None), next(b, None)
    while left is not None and right is not None:
        mine, theirs = (left["example_id"], left["seq"]), (right["example_id"], right["seq"])
        if mine == theirs:
            shared = mark(pair, left, right)
            if len(shared.positions):
                yield shared
        if mine <= theirs:
            left = next(a, None)
        if theirs <= mine:
            right = next(b, None)


def count_shared(pair: RunPair) -> tuple[int, int]:
    """Count what two runs share.

    Returns:
        The numbers of sequences and of tokens.

    Raises:
        UsageError: They share none.
    """
    sequences = tokens = 0
    for shared in shared_tokens(pair):
        sequences += 1
        tokens += len(shared.positions)
    if not tokens:
        a, b = pair.names
        raise UsageError(
            f"Runs '{a}' and '{b}' have the same examples and no token after the same text: their texts differ from the first "
            "token on. Capture both from the same data with the same options."
        )
    return sequences, tokens


def group_shared(pair: RunPair) -> Iterator[list[SharedTokens]]:
    """Return what is shared in groups, one group a shard of the new run."""
    return group_by_size(shared_tokens(pair), lambda s: len(s.positions), _SHARD_ROWS)


def slice_shared(shard: list[SharedTokens], most: int) -> Iterator[list[SharedTokens]]:
    """Cut a group into slices of at most `most` tokens; a sequence may span several."""
    pieces: list[SharedTokens] = []
    room = most
    for s in shard:
        start = 0
        while start < len(s.positions):
            end = min(len(s.positions), start + room)
            at = slice(start, end)
            part = s._replace(
                positions=s.positions[at],
                other_positions=s.other_positions[at],
                losses=s.losses[at],
                other_losses=s.other_losses[at],
            )
            pieces.append(part)
            start, room = end, room - (end - start)
            if not room:
                yield pieces
                pieces, room = [], most
    if pieces:
        yield pieces


def _sequences(store: TraceStore, pair: RunPair) -> Iterator[dict[str, Any]]:
    """Yield the sequences of a run that have tensors, sorted: ids, losses and marks as arrays, texts as lists."""
    names = _LISTS if pair.same_tokenizer else _LISTS + _TEXT_LISTS
    lists = ", ".join(f"[x.{name} FOR x IN rows] AS {name}" for name in names)
    kept = keeps_tensors_sql(store.keep_every).replace("example_id", "t.example_id")
    for portion in _portions(store):
        query = _SEQUENCES_SQL.format(lists=lists, kept=kept, portion=portion)
        table = store.query(query).to_arrow_table().combine_chunks()
        columns = {name: _rows_of(table[name]) for name in _LISTS}
        texts = {name: table[name].to_pylist() for name in names if name not in _LISTS}
        keys = zip(table["example_id"].to_pylist(), table["seq"].to_pylist(), strict=True)
        for i, (example_id, seq) in enumerate(keys):
            arrays = {name: rows[i] for name, rows in columns.items()} | {name: rows[i] for name, rows in texts.items()}
            yield {"example_id": example_id, "seq": seq} | arrays


def _portions(store: TraceStore) -> Iterator[str]:
    """Yield conditions on `t.example_id` that divide a run into parts of about `_PORTION` tokens, in order."""
    examples = max(1, store.meta.counts.examples)
    each = max(1, examples * _PORTION // max(1, store.meta.counts.tokens))
    ids = store.query("SELECT DISTINCT example_id FROM tokens ORDER BY ALL").to_arrow_table()["example_id"]
    for start in range(0, len(ids), each):
        low, high = ids[start].as_py(), ids[min(start + each, len(ids)) - 1].as_py()
        yield f"t.example_id BETWEEN {sql_text(low)} AND {sql_text(high)}"


def _rows_of(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Return a column of lists as arrays; NULL among floats becomes NaN."""
    lists = column.combine_chunks()
    chunks = [lists] if isinstance(lists, pa.ListArray) else lists.chunks
    rows: list[np.ndarray] = []
    for chunk in chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        offsets = chunk.offsets.to_numpy()
        rows += [values[start:end] for start, end in itertools.pairwise(offsets)]
    return rows


def _share_tokens(pair: RunPair, a: dict[str, Any], b: dict[str, Any]) -> SharedTokens:
    """Share the tokens that both sequences begin with."""
    ids, others = a["token_id"], b["token_id"]
    n = min(len(ids), len(others))
    differs = np.flatnonzero(ids[:n] != others[:n])
    n = int(differs[0]) if len(differs) else n
    positions = np.arange(n)
    losses, other_losses = (_without_last(side["loss"][:n]) for side in (a, b))
    # A token that the next window reads again is predicted there; the last of those is what its own first token follows.
    again = np.append(a["is_context"][1:n], False)[:n]
    at = positions[~again.astype(bool)]
    return SharedTokens(a["example_id"], a["seq"], at, at, losses[at], other_losses[at], True)


def _without_last(losses: np.ndarray) -> np.ndarray:
    """Return losses without the last, which is of a token that is not shared."""
    known: np.ndarray = losses.astype(np.float32)
    known[-1:] = np.nan
    return known


def _share_spans(pair: RunPair, a: dict[str, Any], b: dict[str, Any]) -> SharedTokens:
    """Share the ends of the spans that both sequences cut alike, or the tokens that both begin with where those are the same."""
    n = min(len(a["token_id"]), len(b["token_id"]))
    if n and np.array_equal(a["token_id"][:n], b["token_id"][:n]) and a["token"][:n] == b["token"][:n]:
        return _share_tokens(pair, a, b)
    key = (a["example_id"], a["seq"])
    texts = [sequence_text(_ask_of(store), store, *key, SIDE) for store in (pair.a, pair.b)]
    found = align(_tokens(a), _tokens(b), *texts)
    ends = [(s.a[-1], s.b[-1]) for s in found.segments]
    at, other = (np.array([end[side] for end in ends], np.int64) for side in (0, 1))
    again = [
        bool(a["is_context"][s.a[0]]) for s in found.segments[1:]
    ] + [False]  # fmt: skip
    keep = ~np.array(again[: len(ends)], bool)
    losses = _span_losses(found, a["loss"], 0)[keep], _span_losses(found, b["loss"], 1)[keep]
    return SharedTokens(*key, at[keep], other[keep], *losses, False)


def _span_losses(found: Alignment, loss: np.ndarray, side: int) -> np.ndarray:
    """Return for each segment what the next one costs, (n,): NaN where tokens of none lie between, or the last."""
    costs = np.full(len(found.segments), np.nan, np.float32)
    spans: Sequence[tuple[int, ...]] = [(s.a, s.b)[side] for s in found.segments]
    for i in range(len(spans) - 1):
        following = np.array(spans[i + 1])
        if following[0] == spans[i][-1] + 1:
            costs[i] = loss[following - 1].sum()
    return costs


def _tokens(sequence: dict[str, Any]) -> list[Token]:
    columns = (sequence[name] for name in ("token_id", "token", "char_start", "char_end", "is_special"))
    return [Token(int(i), token, start, end, special) for i, token, start, end, special in zip(*columns, strict=True)]


def _ask_of(store: TraceStore) -> Any:
    return lambda query, *values: store.query(query, list(values)).to_arrow_table()
