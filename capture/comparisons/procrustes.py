"""How alike the states of two layers are up to a rotation: orthogonal Procrustes.

Both sets of states of the same tokens are centred and scaled to Frobenius norm 1. The similarity is the largest that a rotation of
the one can give their inner product, ‖XᵀY‖_* (the nuclear norm): the cosine of the angular shape distance of Williams, Kunz, Kornblith
and Linderman 2021 ("Generalized Shape Metrics on Neural Representations"). The Procrustes distance of Ding, Denain and Steinhardt
2021 ("Grounding Representation Similarity Through Statistical Testing") is 2 - 2 times it. 1: a rotated and scaled copy.

A rotation is fitted to the tokens at hand, so that unrelated states are far from 0 where tokens are not many more than dimensions:
`chance` says how far, from the same states with the tokens of one side shuffled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Similarity(NamedTuple):
    """The Procrustes similarity of two layers."""

    full: float
    left_out: np.ndarray
    """(G,): without each group, the rotation of all tokens kept: to first order what a rotation of its own would give, as the best one
    moves the inner product by nothing to first order."""
    chance: float
    """The similarity where the other layer's tokens are shuffled."""


def procrustes(x: np.ndarray, y: np.ndarray, bounds: np.ndarray, shuffled: np.ndarray) -> Similarity | None:
    """Compute the Procrustes similarity of two layers.

    Args:
        x: States of n tokens, (n, D).
        y: Of the same tokens in the other layer, (n, E).
        bounds: Where each group of tokens begins, and the number of tokens: (G + 1,).
        shuffled: A permutation of the tokens.

    Returns:
        The similarity; None where a layer's states are all alike.
    """
    x, y = (v.astype(np.float32) - v.mean(0, dtype=np.float64).astype(np.float32) for v in (x, y))
    norms = [float(np.sqrt(np.einsum("nd,nd->", v, v, dtype=np.float64))) for v in (x, y)]
    if min(norms) <= 0:
        return None
    x, y = (v / np.float32(norm) for v, norm in zip((x, y), norms, strict=True))
    u, s, vt = np.linalg.svd(x.T @ y, full_matrices=False)
    chance = np.linalg.svd(x.T @ y[shuffled], compute_uv=False).sum()
    rotated = x @ (u @ vt)
    inner = np.einsum("nd,nd->n", rotated, y, dtype=np.float64)
    lengths = [np.einsum("nd,nd->n", v, v, dtype=np.float64) for v in (x, y)]
    starts = bounds[:-1]
    sums = [np.add.reduceat(v, starts, axis=0, dtype=np.float64) for v in (rotated, y)]
    left = (bounds[-1] - np.diff(bounds)).astype(np.float64)
    # States less the mean of those that are left: their sum is minus that of the group, as all sum to 0.
    products = inner.sum() - np.add.reduceat(inner, starts) - np.einsum("gd,gd->g", *sums) / left
    x_squares, y_squares = (
        squares.sum() - np.add.reduceat(squares, starts) - np.einsum("gd,gd->g", total, total) / left
        for squares, total in zip(lengths, (np.add.reduceat(x, starts, axis=0, dtype=np.float64), sums[1]), strict=True)
    )
    both = np.sqrt(np.maximum(x_squares * y_squares, 0))
    left_out = np.divide(products, both, out=np.full_like(both, np.nan), where=both > 0)
    return Similarity(min(1.0, float(s.sum(dtype=np.float64))), np.minimum(left_out, 1), min(1.0, float(chance)))
