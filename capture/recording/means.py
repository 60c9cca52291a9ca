"""Means over a sequence's tokens, from a recording: one row a sequence, where a row a token would be too much to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from capture.sequences.sequence import SideTokens
from warehouse.schema.sites import MEAN, Key


def recorded_key(key: Key) -> Key:
    """Return the tensor, a row a token, that a mean is over."""
    return key._replace(site=key.site.removeprefix(MEAN))


def is_mean(key: Key) -> bool:
    """Return whether a tensor is a mean over tokens."""
    return key.site.startswith(MEAN)


def token_mask(is_response: np.ndarray | None, is_special: np.ndarray) -> np.ndarray:
    """Return which tokens of a sequence a mean is over.

    They are those of the response, or of the whole sequence where nothing was generated, without special tokens (such as the
    response's end) unless there are no others.

    Args:
        is_response: (T,) bool, or None where nothing was generated.
        is_special: (T,) bool.

    Returns:
        (T,) bool.
    """
    candidates = np.ones(len(is_special), bool) if is_response is None or not is_response.any() else is_response
    plain = candidates & ~is_special
    return plain if plain.any() else candidates


def sequence_means(rows: np.ndarray, lengths: Iterable[int], masks: Iterable[np.ndarray]) -> np.ndarray:
    """Average rows over the tokens of each sequence.

    Args:
        rows: (N, *row_shape), B sequences end to end.
        lengths: How many tokens each sequence has.
        masks: The tokens (T,) of each that count.

    Returns:
        (B, *row_shape) float32.
    """
    averages, start = [], 0
    for n, mask in zip(lengths, masks, strict=True):
        averages.append(rows[start : start + n][mask].mean(0, dtype=np.float32))
        start += n
    return np.stack(averages)


def fill(
    into: Mapping[Key, np.ndarray], tensors: Mapping[Key, np.ndarray], parts: list[Mapping[str, SideTokens]]
) -> None:
    """Compute the means of a batch's sequences.

    Args:
        into: Arrays (B, *row_shape) to write each mean to.
        tensors: The recorded tensors, (N, *row_shape) each.
        parts: The tokens of the B sequences, by side.
    """
    masks = {
        side: [token_mask(p[side].is_response, p[side].is_special) for p in parts]
        for side in {key.side for key in into}
    }
    for key, array in into.items():
        array[:] = sequence_means(tensors[recorded_key(key)], [len(m) for m in masks[key.side]], masks[key.side])
