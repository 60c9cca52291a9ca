"""Means over a sequence's tokens, from a recording: one row a sequence, where every token's row would be too much to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from capture.sequences.encoding import SideTokens
from warehouse.schema.sites import MEAN, Key


def recorded(key: Key) -> Key:
    """The tensor, a row a token, that a mean is over."""
    return key._replace(site=key.site.removeprefix(MEAN))


def is_mean(key: Key) -> bool:
    return key.site.startswith(MEAN)


def counted(is_response: np.ndarray | None, is_special: np.ndarray) -> np.ndarray:
    """(T,) bool, the tokens that a mean is over: those of the response, special ones (its end) left out, or of the whole
    sequence where nothing was generated. Special ones count where there are no others.
    """
    mine = np.ones(len(is_special), bool) if is_response is None or not is_response.any() else is_response
    plain = mine & ~is_special
    return plain if plain.any() else mine


def means(rows: np.ndarray, lengths: Iterable[int], masks: Iterable[np.ndarray]) -> np.ndarray:
    """(N, *row_shape), sequences end to end, `lengths` tokens each, and a mask (T,) of each → (B, *row_shape) float32."""
    found, start = [], 0
    for n, mask in zip(lengths, masks, strict=True):
        found.append(rows[start : start + n][mask].mean(0, dtype=np.float32))
        start += n
    return np.stack(found)


def fill(into: Mapping[Key, np.ndarray], tensors: Mapping[Key, np.ndarray], parts: list[Mapping[str, SideTokens]]) -> None:
    """Computes the means `into`, of the sequences that `tensors` holds."""
    masks = {
        side: [counted(p[side].is_response, p[side].is_special) for p in parts] for side in {key.side for key in into}
    }
    for key, array in into.items():
        array[:] = means(tensors[recorded(key)], [len(m) for m in masks[key.side]], masks[key.side])
