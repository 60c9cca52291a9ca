"""int8 codes of feature tensors: a centre and a scale for each dimension, and what they cannot hold as it was.

A coded tensor NAME lies in its shard as plain safetensors, beside six companions:

    NAME                  I8 (n, *row_shape)      the codes, -127 to 127
    NAME.centre           F32 row_shape           a value is centre + scale * code, in float32
    NAME.scale            F32 row_shape
    NAME.exact            F16 (k, *row_shape)     whole rows as they were recorded: every sequence's first, and such as have many outliers
    NAME.exact_rows       I64 (k,)                the numbers of these rows, ascending
    NAME.outliers         F16 (m,)                single values as they were recorded, whose codes would be out of range
    NAME.outlier_places   I64 (m,)                row * (values of a row) + dimension, ascending

`exact` and `outliers` have the dtype that the model's tensors were recorded in: BF16 where that is bfloat16, F32 where float16 cannot
hold some value. A code's value is at most half a scale from the recorded one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

CODED = "I8"
"""safetensors' name of the codes' dtype: what the manifest and the tensor index call a coded tensor."""

COMPANIONS = ("centre", "scale", "exact", "exact_rows", "outliers", "outlier_places")

LARGEST = 127
"""The largest code; the smallest is its negative."""
OUTSIDE = 0.0005
"""The part of a dimension's values that its range leaves out, as outliers: 10 bytes each, where a narrower range makes all codes finer."""
_SAMPLE = 1 << 13
"""Rows, evenly spread over a shard, that ranges are read from."""
_PIECE = 1 << 16
"""Values that are coded at a time, so that they stay in the processor's cache."""
_TINY = np.float32(1e-30)
"""The scale of a dimension that is the same in all rows."""


def companion(tensor: str, name: str) -> str:
    """Return the name of a coded tensor's companion in its shard."""
    return f"{tensor}.{name}"


class Encoder:
    """Codes the rows of one tensor of a shard: iterate for the codes, then ask for the companions."""

    def __init__(self, rows: np.ndarray, first_rows: np.ndarray) -> None:
        """Choose the ranges.

        Args:
            rows: (n, *row_shape) as recorded, finite; may be a memory map, which is read a piece at a time.
            first_rows: The numbers of the rows that stay exact in any case, ascending.
        """
        self._rows, self._first = rows.reshape(len(rows), -1), first_rows
        self._row_shape = rows.shape[1:]
        low, high = _ranges(self._rows, first_rows)
        with np.errstate(over="ignore", invalid="ignore"):
            self.centre, spread = (low + high) / 2, high - low
        usable = np.isfinite(self.centre) & np.isfinite(spread)  # else all are outliers
        self.centre = np.where(usable, self.centre, np.float32(0))
        self.scale = np.where(usable, np.maximum(spread / (2 * LARGEST), _TINY), _TINY)
        self._exact_rows: list[np.ndarray] = []
        self._places: list[np.ndarray] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the codes of all rows, in order, a piece (k, *row_shape) int8 at a time."""
        n, width = self._rows.shape
        most = (
            width * self._rows.dtype.itemsize // (self._rows.dtype.itemsize + 8)
        )  # more outliers than this take more than the row
        step = max(1, _PIECE // max(1, width))
        for start in range(0, n, step):
            codes = self._rows[start : start + step].astype(np.float32)
            with np.errstate(over="ignore"):
                codes -= self.centre
                codes /= self.scale
            np.rint(codes, out=codes)
            outside = np.abs(codes) > LARGEST
            exact = np.zeros(len(codes), bool)
            exact[_within(self._first, start, start + step) - start] = True
            if outside.any():
                exact |= outside.sum(1) > most
                outside[exact] = False
                np.clip(codes, -LARGEST, LARGEST, out=codes)
                self._places.append(np.flatnonzero(outside) + start * width)
            codes[exact] = 0
            self._exact_rows.append(np.flatnonzero(exact) + start)
            yield codes.astype(np.int8).reshape(-1, *self._row_shape)

    def companions(self) -> dict[str, np.ndarray]:
        """Return the companions by their names in `COMPANIONS`, once all codes have been taken."""
        rows, places = (np.concatenate([np.zeros(0, np.int64), *x]) for x in (self._exact_rows, self._places))
        return {
            "centre": self.centre.reshape(self._row_shape),
            "scale": self.scale.reshape(self._row_shape),
            "exact": np.ascontiguousarray(self._rows[rows]).reshape(-1, *self._row_shape),
            "exact_rows": rows,
            "outliers": self._rows[places // self._rows.shape[1], places % self._rows.shape[1]],
            "outlier_places": places,
        }


def _ranges(rows: np.ndarray, first_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper end of every dimension's range, (D,) float32, from a sample of the rows."""
    chosen = np.setdiff1d(np.arange(len(rows)), first_rows, assume_unique=True)
    if not len(chosen):
        return np.zeros(rows.shape[1], np.float32), np.zeros(rows.shape[1], np.float32)
    n = min(len(chosen), _SAMPLE)
    sample = np.ascontiguousarray(rows[chosen[np.arange(n) * len(chosen) // n]].T).astype(np.float32)
    cut = int(n * OUTSIDE / 2)
    sample.partition((cut, n - 1 - cut), axis=1)
    return sample[:, cut], sample[:, n - 1 - cut]


def _within(ascending: np.ndarray, start: int, end: int) -> np.ndarray:
    """Return the numbers from `start` to `end` among ascending ones."""
    return ascending[np.searchsorted(ascending, start) : np.searchsorted(ascending, end)]


@dataclass(frozen=True)
class CodedRows:
    """What makes values of a coded tensor's codes as they are read."""

    shape: tuple[int, ...]
    """(n, *row_shape)"""
    parts: Mapping[str, np.ndarray]
    """The companions, by their names in `COMPANIONS`."""

    def fault(self) -> str | None:
        """Say why the companions cannot be of these codes, if so."""
        (n, *dimensions), p = self.shape, self.parts
        row = tuple(dimensions)
        kinds = {x: p[x].dtype for x in COMPANIONS}
        if not (
            kinds["centre"] == kinds["scale"] == np.float32
            and kinds["exact_rows"] == kinds["outlier_places"] == np.int64
            and kinds["exact"] == kinds["outliers"] not in (np.int64, np.int8)
        ):
            return "has companions of other dtypes"
        whole = (
            p["centre"].shape == p["scale"].shape == row
            and p["exact"].shape == (*p["exact_rows"].shape, *row)
            and p["outliers"].shape == p["outlier_places"].shape == (p["outliers"].size,)
        )
        if not whole:
            return "has companions of other shapes"
        for numbers, end in ((p["exact_rows"], n), (p["outlier_places"], n * self._width)):
            if len(numbers) and not (numbers[0] >= 0 and numbers[-1] < end and (np.diff(numbers) > 0).all()):
                return "has companions of other rows"
        return None

    def decode(self, codes: np.ndarray, start: int) -> np.ndarray:
        """Return rows that follow each other, float32, from their codes and the number of the first."""
        out, width, end = self._values(codes), self._width, start + len(codes)
        exact, places = self.parts["exact_rows"], self.parts["outlier_places"]
        first, last = np.searchsorted(exact, (start, end))
        a, b = np.searchsorted(places, (start * width, end * width))
        out.reshape(-1)[places[a:b] - start * width] = self.parts["outliers"][a:b]
        out[exact[first:last] - start] = self.parts["exact"][first:last]
        return out

    def decode_chosen(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return any rows, float32, from their codes and their numbers."""
        out, width = self._values(codes), self._width
        places = self.parts["outlier_places"]
        first, last = np.searchsorted(places, rows * width), np.searchsorted(places, (rows + 1) * width)
        counts = last - first
        at = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        row = np.repeat(np.arange(len(rows)), counts)
        out.reshape(len(rows), width)[row, places[at] % width] = self.parts["outliers"][at]
        exact = self.parts["exact_rows"]
        found = np.searchsorted(exact, rows)
        is_exact = np.flatnonzero(np.append(exact, -1)[found] == rows)
        out[is_exact] = self.parts["exact"][found[is_exact]]
        return out

    @property
    def _width(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64))

    def _values(self, codes: np.ndarray) -> np.ndarray:
        out = codes.astype(np.float32)
        out *= self.parts["scale"]
        out += self.parts["centre"]
        return out
