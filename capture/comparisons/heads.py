"""How much each attention head changed between two models: rows of `head_changes`.

Attention of both comes from what the runs have stored, or from their q and k, at a sample of the tokens that both read. A row of
attention is a distribution over the tokens before; two are compared by the Jensen-Shannon divergence (Lin 1991), from 0 to ln 2
nats, in which attention sinks take part as one more place to look at. With v and the models' own output projections, what each head writes
to the residual stream is compared too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from capture.comparisons.jackknife import interval
from capture.comparisons.options import Options
from capture.comparisons.run_pair import SIDE, RunPair
from capture.comparisons.sample import Sample
from capture.comparisons.shared_tokens import SharedTokens
from warehouse.schema.sites import Key
from warehouse.storage.parquet import to_table
from warehouse.storage.trace_store import TraceStore

_BLOCK = 64
"""Rows of attention that are made together."""

Writes = tuple[list[np.ndarray | None], list[np.ndarray | None]]
"""For each layer of both models, the weights from the outputs of its heads to the residual stream, (H, d, D); None: not known."""


def head_layers(pair: RunPair, options: Options) -> list[int]:
    """Return the layers whose heads can be compared: both runs tell their attention, and they have the same number of heads.

    Args:
        pair: The runs.
        options: Which layers are asked for, by number.

    Returns:
        The layers.
    """
    depth = min(store.meta.model.stack(SIDE).n_layers for store in pair.stores)
    numbers = {int(word) for word in options.layers.split(",") if word.strip().isdecimal()}
    n = pair.a.meta.model.stack(SIDE).n_layers
    numbers |= {layer for word, layer in (("mid", n // 2), ("last", n - 1)) if word in options.layers.split(",")}
    wanted = range(depth) if "all" in options.layers.split(",") else sorted(i for i in numbers if i < depth)
    return [
        layer
        for layer in wanted
        if all(_tells_attention(store, layer) for store in pair.stores)
        and len({store.meta.model.stack(SIDE).heads_of(layer) for store in pair.stores}) == 1
    ]


def why_no_heads(pair: RunPair, options: Options) -> str | None:
    """Say why heads cannot be compared, as far as the runs know; None: they can."""
    if head_layers(pair, options):
        return None
    stacks = [store.meta.model.stack(SIDE) for store in pair.stores]
    if stacks[0].n_heads != stacks[1].n_heads:
        return f"the models have {stacks[0].n_heads} and {stacks[1].n_heads} heads in a layer"
    without = next(
        s for s in pair.stores if not any(_tells_attention(s, i) for i in range(s.meta.model.stack(SIDE).n_layers))
    )
    return f"Run '{without.meta.run_id}' has stored neither attention nor q and k. Capture it again with --capture qkv"


def _tells_attention(store: TraceStore, layer: int) -> bool:
    stack = store.meta.model.stack(SIDE)
    derived = all(store.has(Key(SIDE, site, layer)) for site in ("q", "k"))
    formula = stack.attention[layer] if stack.attention else None
    return store.has(Key(SIDE, "attn", layer)) or (derived and formula is not None)


def can_write(pair: RunPair, layers: list[int]) -> bool:
    """Tell whether both runs have stored v, from which what heads write follows."""
    return all(store.has(Key(SIDE, "v", layer)) for store in pair.stores for layer in layers)


def head_changes(pair: RunPair, sample: Sample, layers: list[int], writes: Writes | None) -> pa.Table:
    """Return the rows of `head_changes`.

    Args:
        pair: The runs.
        sample: The tokens whose rows of attention are compared.
        layers: The layers, from `head_layers`.
        writes: The models' output projections; None: what heads write is not compared.

    Returns:
        A row a head.
    """
    rows: list[dict[str, Any]] = []
    names = {"source_run_id": pair.names[0], "other_run_id": pair.names[1]}
    for layer in layers:
        projections = None if writes is None else (writes[0][layer], writes[1][layer])
        sums = _Sums(sample, pair.a.meta.model.stack(SIDE).heads_of(layer))
        start = 0
        for piece in sample.pieces:
            if piece.same_tokens:
                sums.add(start, *_compare(pair, piece, layer, projections))
            start += len(piece.positions)
        rows += [names | {"layer": layer} | row for row in sums.rows()]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return to_table("head_changes", columns)


class _Sums:
    """Sums over the sampled tokens of each group, by head."""

    def __init__(self, sample: Sample, heads: int) -> None:
        self._sample = sample
        groups = len(sample.bounds) - 1
        self._totals = np.zeros((4, groups, heads))
        """Divergence, changed rows, squares of the change of what is written, and of what was."""
        self._counts, self._examples, self._writes = np.zeros(groups), set[str](), True

    def add(self, start: int, example: str, values: np.ndarray, writes: bool) -> None:
        """Add values (4, H, n) of an example's tokens, of which the first is number `start` of the sample."""
        group = np.searchsorted(self._sample.bounds, np.arange(start, start + values.shape[2]), "right") - 1
        for g in np.unique(group):
            self._totals[:, g] += values[:, :, group == g].sum(2)
            self._counts[g] += (group == g).sum()
        self._examples.add(example)
        self._writes &= writes

    def rows(self) -> list[dict[str, Any]]:
        """Return the columns that are computed, a head each."""
        used = self._counts > 0
        totals, counts = self._totals[:, used], self._counts[used]
        n = counts.sum()
        js, changed = totals[0].sum(0) / n, totals[1].sum(0) / n
        low = high = np.full(len(js), np.nan)
        if self._sample.by_example and len(counts) > 1:
            left_out = (totals[0].sum(0) - totals[0]) / (n - counts)[:, None]
            low, high = interval(js, left_out, counts)
        change, was = totals[2].sum(0), totals[3].sum(0)
        return [
            {
                "head": head,
                "js": float(js[head]),
                "js_low": None if np.isnan(low[head]) else max(0.0, float(low[head])),
                "js_high": None if np.isnan(high[head]) else float(high[head]),
                "top_changed": float(changed[head]),
                "write_change": float(np.sqrt(change[head] / was[head])) if self._writes and was[head] > 0 else None,
                "n_tokens": int(n),
                "n_examples": len(self._examples),
            }
            for head in range(len(js))
        ]


def _compare(
    pair: RunPair, piece: SharedTokens, layer: int, projections: tuple[np.ndarray | None, np.ndarray | None] | None
) -> tuple[str, np.ndarray, bool]:
    """Compare the heads of a layer at some tokens of a sequence: the example, values (4, H, n), and whether writes are among them."""
    both = [_rows(store, piece, layer) for store in pair.stores]
    width = min(rows.shape[2] for rows in both)
    p, q = (rows[:, :, :width] for rows in both)
    values = np.zeros((4, *p.shape[:2]))
    values[0] = jensen_shannon(p, q)
    values[1] = p.argmax(2) != q.argmax(2)
    if projections is None or any(w is None for w in projections):
        return piece.example_id, values, False
    written = []
    for store, rows, weight in zip(pair.stores, both, projections, strict=True):
        assert weight is not None
        v = store.qkv(piece.example_id, "v", layer, seq=piece.seq, side=SIDE).astype(np.float32)
        written.append(np.matmul(np.matmul(rows, v[:, : rows.shape[2]]), weight))
    values[2] = ((written[1] - written[0]) ** 2).sum(2)
    values[3] = (written[0] ** 2).sum(2)
    return piece.example_id, values, True


def _rows(store: TraceStore, piece: SharedTokens, layer: int) -> np.ndarray:
    """Return rows of attention at a sequence's sampled tokens, (H, n, S)."""
    matrix = store.attn_matrix(piece.example_id, layer, seq=piece.seq, side=SIDE)
    parts = []
    at = 0
    while at < len(piece.positions):
        first = int(piece.positions[at])
        end = int(np.searchsorted(piece.positions, first + _BLOCK))
        block = matrix.tile(range(first, int(piece.positions[end - 1]) + 1))
        parts.append(block[:, piece.positions[at:end] - first])
        at = end
    return np.concatenate(parts, axis=1)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of distributions over places, nats.

    Args:
        p: (…, S) probabilities that sum to 1, or to less: what is missing is one more place.
        q: The same of the other.

    Returns:
        (…), from 0 to ln 2.
    """
    p, q = (np.concatenate([x, np.maximum(0, 1 - x.sum(-1, keepdims=True))], -1, dtype=np.float64) for x in (p, q))
    middle = (p + q) / 2
    total = np.zeros(p.shape[:-1])
    for x in (p, q):
        ratio = np.divide(x, middle, out=np.ones_like(x), where=x > 0)
        total += (x * np.log(ratio)).sum(-1) / 2
    return np.maximum(total, 0)
