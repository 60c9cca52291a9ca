"""StoredAttention: q, k and attention of a run by layer and head, and which formula makes one of the other.

In goes the key of a tensor of attention and a sequence. Out come its heads, grouped ones repeated for each of their query heads
(`_heads`), attention as a whole (`derived_attn`, `_attn`), or a matrix that is read in part (`attn_matrix`). `TraceStore` builds on
this.
"""

from __future__ import annotations

import numpy as np

from warehouse.errors import NotFoundError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import readable
from warehouse.storage.attention import (
    pair_range,
    per_query_head,
    probabilities,
    select_heads,
    triangle_side,
    unpack_rows,
)
from warehouse.storage.attention_matrix import FEWEST, AttentionMatrix
from warehouse.storage.model_info import LayerAttention
from warehouse.storage.stored_tensors import StoredTensors


class StoredAttention(StoredTensors):
    """Attention of a published run, stored or derived from its q and k."""

    def attn_matrix(
        self,
        example_id: str,
        layer: int,
        head: int | None = None,
        *,
        seq: int = 0,
        side: str | None = None,
        kind: str = "self",
    ) -> AttentionMatrix:
        """Return attention of a layer, to be read in part: what `attn` has, without the whole of it in memory.

        Example:
            store.attn_matrix(example, 12, 3).tile(rows=range(40, 41))  # what token 40 looks at
            store.attn_matrix(example, 12, 3).pooled(512)  # a picture of at most 512 by 512 bytes

        Args:
            example_id: The example.
            layer: The layer.
            head: The query head; None for all.
            seq: Which sequence of the example.
            side: The stack of the model.
            kind: `self`, or `cross` for the decoder's attention over the S tokens of the encoder.

        Returns:
            The matrix, (T, S) of one head, (H, T, S) of all.
        """
        side = self.check_side(side)
        key = Key(side, self._prefix(side, kind) + "attn", layer)
        self._check("layer", layer, self.meta.model.stack(side).n_layers)
        heads, stored = (None if head is None else slice(head, head + 1)), key in self._sites
        matrix = (self._stored_matrix if stored else self._derived_matrix)(key, heads, example_id, seq)
        if head is None:
            return matrix
        return AttentionMatrix(matrix.shape[1:], matrix.causal, matrix.read)

    def _stored_matrix(self, key: Key, heads: slice | None, example_id: str, seq: int) -> AttentionMatrix:
        """Return stored attention of some heads, or of all, as (H, T, S)."""
        pairs, kind = self.rows(key, example_id, seq), self._sites[key].rows  # (pairs, H)
        if heads is not None:
            self._check("head", heads.start, pairs.shape[1])
            pairs = pairs[:, heads]
        width = self._source_tokens(key, example_id, seq)
        if kind != sites.CROSS:
            width = triangle_side(len(pairs)) if kind == sites.TRIANGLE else round(len(pairs) ** 0.5)
        queries = width if kind != sites.CROSS else len(pairs) // width if width else 0

        def read(some: range) -> np.ndarray:
            of = pair_range(kind, some, width)
            return unpack_rows(pairs[of.start : of.stop], kind, some, width)

        return AttentionMatrix((pairs.shape[1], queries, width), kind == sites.TRIANGLE, read)

    def _derived_matrix(self, key: Key, heads: slice | None, example_id: str, seq: int) -> AttentionMatrix:
        """Return attention of some heads, or of all, from q and k, as (H, T, S)."""
        formula = self._formula(key)
        names = [key._replace(site=sites.beside(key.site, x)) for x in ("q", "k")]
        if heads is None:
            q, k = (self._heads(x, None, example_id, seq) for x in names)
        else:
            q, k = (self._heads(x, heads.start, example_id, seq)[None] for x in names)
            formula = select_heads(formula, heads)
        k = k.astype(np.float32)
        n = q.shape[1]

        def read(some: range) -> np.ndarray:
            first = max(0, min(some.start, n - FEWEST))
            last = max(some.stop, min(n, first + FEWEST))
            return probabilities(q[:, first:last], k, formula, first)[:, some.start - first : some.stop - first]

        return AttentionMatrix((len(q), n, k.shape[1]), formula.causal, read)

    def _heads(self, key: Key, head: int | None, example_id: str, seq: int) -> np.ndarray:
        """Return q, k or v of one query head, (T, d_head), or of all, (H, T, d_head)."""
        rows = self.rows(key, example_id, seq)  # (T, heads, d)
        if head is not None:
            return rows[:, self.own_head(key, head)]
        return per_query_head(rows.swapaxes(0, 1), self._query_heads(key))

    def own_head(self, key: Key, head: int) -> int:
        """Return which head of a stored tensor a query head reads: its own, or the K/V head of its group.

        Raises:
            UsageError: The tensor has no heads, or not that many.
        """
        shape = self.row_shape(key)
        if len(shape) != 2:
            raise UsageError(f"{key.site} has no heads.")
        n = self._query_heads(key)
        self._check("head", head, n)
        return head * shape[0] // n

    def _query_heads(self, key: Key) -> int:
        """Count a layer's query heads; where heads are grouped, k and v do not show them, but q or the model may."""
        q = self._sites.get(key._replace(site=sites.beside(key.site, "q")))
        stack = self.meta.model.stack(key.side)
        return readable.query_heads(stack, key.layer, self._sites[key].row_shape[0], q.row_shape[0] if q else None)

    def _attn(self, key: Key, head: int | None, example_id: str, seq: int) -> np.ndarray:
        """Return attention of one layer, (H, T, S), or of one head of it, (T, S)."""
        if key in self._sites:
            heads = None if head is None else slice(head, head + 1)
            stored = self._stored_matrix(key, heads, example_id, seq)
            whole = stored.read(range(stored.shape[-2]))
            return whole if head is None else whole[0]
        return self.derived_attn(key, example_id, seq, head)

    def derived_attn(self, key: Key, example_id: str, seq: int = 0, head: int | None = None) -> np.ndarray:
        """Compute attention from the stored q and k, whether it is stored itself or not.

        Args:
            key: The attention: `attn` or `cross.attn` of a layer.
            example_id: The example.
            seq: Which of its sequences.
            head: The query head; None for all.

        Returns:
            float32 (H, T, S), or (T, S) of one head.
        """
        formula = self._formula(key)
        keys = [key._replace(site=key.site.removesuffix("attn") + x) for x in ("q", "k")]
        q, k = (self._heads(x, head, example_id, seq) for x in keys)
        if head is None:
            return probabilities(q, k, formula)
        return probabilities(q[None], k[None], select_heads(formula, slice(head, head + 1)))[0]

    def _formula(self, key: Key) -> LayerAttention:
        """Return how q and k of a layer become attention.

        Raises:
            UsageError: Attention of this model does not follow from q and k, or the layer has none.
        """
        assert key.layer is not None
        stack = self.meta.model.stack(key.side)
        formulas = stack.cross_attention if key.site == "cross.attn" else stack.attention
        if formulas is None:
            if not {(key.side, "q"), (key.side, "k")} <= self._stored:
                self._refuse(key)
            raise UsageError(
                f"Run '{self.meta.run_id}': this model's attention does not follow from q and k. Capture attn itself."
            )
        formula = formulas[key.layer]
        if formula is None:
            self._refuse(key)
        return formula

    def _source_tokens(self, key: Key, example_id: str, seq: int) -> int:
        """Count the encoder's tokens that cross attention is over; 0 for self attention, whose pairs show its width."""
        if self._sites[key].rows == sites.CROSS:
            return len(self.encodings(example_id, seq, side="enc")["input_ids"])
        return 0

    def _check(self, what: str, index: int, count: int) -> None:
        """Check the number of a layer or head.

        Raises:
            UsageError: The model has no such layer or head.
        """
        if not 0 <= index < count:
            raise UsageError(f"{what} {index}: {self.meta.model.name} has {what}s 0 to {count - 1}.")

    def _prefix(self, side: str, kind: str) -> str:
        """Return the prefix of the sites of a kind of attention.

        Raises:
            NotFoundError: There is no such kind.
            UsageError: The model has no cross attention on that side.
        """
        if kind not in ("self", "cross"):
            raise NotFoundError("kind of attention", kind, ("self", "cross"))
        if kind == "self":
            return ""
        if side == "enc" or self.meta.model.encoder is None:
            raise UsageError(
                f"Run '{self.meta.run_id}' has no cross attention on that side: only the decoder of an encoder-decoder has."
            )
        return "cross."
