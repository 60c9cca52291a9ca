"""Attention of one layer of a sequence, read in part: some rows and columns, or all of it as a small picture.

In go the rows of a matrix, as `StoredAttention` makes them: stored, or derived from q and k. Out come tiles, exactly as float32
(`AttentionMatrix.tile`), or max-pooled to a size and as bytes (`AttentionMatrix.pooled`). Rows are made a block at a time, so that
the matrix of a long sequence is never there as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from warehouse.errors import UsageError

_BLOCK = 1 << 18
"""Probabilities that are held at a time, about."""
FEWEST = 64
"""Queries that attention is derived for at least: libraries for linear algebra add up a product of fewer in another order."""


@dataclass(frozen=True)
class AttentionTile:
    """A part of attention as bytes, each the square root of a cell's largest probability in steps of a 255th of `scale`'s.

    The square root gives small probabilities more steps: a byte tells `p` to within `(√(p/scale) + 1/510) · scale/255`.
    """

    values: np.ndarray
    """uint8 (h, w) of one head, (H, h, w) of all."""
    scale: np.ndarray
    """float32 () of one head, (H,) of all: the head's largest probability in this part, which is the byte 255."""
    rows: range
    """The queries that it is of."""
    cols: range
    """The keys."""
    cell: tuple[int, int]
    """Queries and keys that a byte is the maximum over; those at the end may be over fewer."""

    def decode(self) -> np.ndarray:
        """Return the probabilities that the bytes stand for, float32: `(byte / 255)² · scale`."""
        parts = self.values.astype(np.float32) / np.float32(255)
        return parts * parts * self.scale[..., None, None]


@dataclass(frozen=True)
class AttentionMatrix:
    """Attention of one layer, of one head or of all, of which a part is read at a time."""

    shape: tuple[int, ...]
    """(T, S) of one head, (H, T, S) of all: T queries, S keys."""
    causal: bool
    """Whether no query sees a key after it."""
    read: Callable[[range], np.ndarray]
    """Makes the rows of some queries: float32 (heads, queries, S)."""

    def tile(self, rows: range | None = None, cols: range | None = None) -> np.ndarray:
        """Return a part of the matrix.

        A row is made from all that its query sees, whatever part of it is returned. Stored attention has the bits of
        `TraceStore.attn`. So has derived attention up to the order in which the library for linear algebra adds the products
        of q and k, which may differ where it is given fewer rows.

        Args:
            rows: The queries; None for all.
            cols: The keys; None for all.

        Returns:
            float32 (rows, cols), or (H, rows, cols).

        Raises:
            UsageError: The sequence has no such tokens.
        """
        rows, cols = self._check(rows, -2), self._check(cols, -1)
        out = np.zeros((self._heads, len(rows), len(cols)), np.float32)
        for block, part in self._blocks(rows, cols):
            out[:, block.start - rows.start : block.stop - rows.start] = part
        return out.reshape(*self.shape[:-2], len(rows), len(cols))

    def pooled(self, size: int, rows: range | None = None, cols: range | None = None) -> AttentionTile:
        """Return a part of the matrix as a picture of at most `size` by `size` cells.

        Args:
            size: The most cells in a row and in a column.
            rows: The queries; None for all.
            cols: The keys; None for all.

        Returns:
            The picture; a cell is the largest probability in it, so that no peak is lost.

        Raises:
            UsageError: The sequence has no such tokens, or the size is below 1.
        """
        if size < 1:
            raise UsageError(f"size {size}: a picture has at least one cell.")
        rows, cols = self._check(rows, -2), self._check(cols, -1)
        high, wide = (max(1, -(-len(x) // size)) for x in (rows, cols))
        best = np.zeros((self._heads, -(-len(rows) // high), -(-len(cols) // wide)), np.float32)
        for block, part in self._blocks(rows, cols):
            first, last = (i - rows.start for i in (block.start, block.stop - 1))
            cells = slice(first // high, last // high + 1)
            edges = [max(i * high - first, 0) for i in range(cells.start, cells.stop)]
            pooled = _pool_columns(np.maximum.reduceat(part, edges, axis=1), wide)
            np.maximum(best[:, cells], pooled, out=best[:, cells])
        scale = best.max(axis=(1, 2), initial=0)
        parts = np.divide(best, scale[:, None, None], out=np.zeros_like(best), where=scale[:, None, None] > 0)
        values = np.rint(np.sqrt(parts) * 255).astype(np.uint8)
        if len(self.shape) == 2:
            return AttentionTile(values[0], scale[0], rows, cols, (high, wide))
        return AttentionTile(values, scale, rows, cols, (high, wide))

    @property
    def _heads(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1

    def _blocks(self, rows: range, cols: range) -> Iterator[tuple[range, np.ndarray]]:
        """Yield parts with a few rows each, in order, but for those that are 0 because they lie before all of their keys."""
        step = max(FEWEST, _BLOCK // max(1, self._heads * self.shape[-1]))
        for start in range(rows.start, rows.stop, step) if cols else ():
            block = range(start, min(start + step, rows.stop))
            if not self.causal or block.stop > cols.start:
                yield block, self.read(block)[:, :, cols.start : cols.stop]

    def _check(self, asked: range | None, axis: int) -> range:
        """Return which tokens are asked for.

        Raises:
            UsageError: The sequence does not have them.
        """
        n, what = self.shape[axis], "rows" if axis == -2 else "columns"
        if asked is None:
            return range(n)
        if asked.step != 1 or not 0 <= asked.start <= asked.stop <= n:
            raise UsageError(f"{what} {asked.start} to {asked.stop}: attention has {what} 0 to {n} here.")
        return asked


def _pool_columns(x: np.ndarray, wide: int) -> np.ndarray:
    """Return the largest of every `wide` columns of (H, n, S), those at the end of fewer."""
    best = x[:, :, ::wide].copy()
    for i in range(1, min(wide, x.shape[2])):
        some = x[:, :, i::wide]
        left = best[:, :, : some.shape[2]]
        np.maximum(left, some, out=left)
    return best
