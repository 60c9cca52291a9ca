"""Linear centred kernel alignment of layers, debiased, with what it takes to leave out groups of examples.

CKA (Kornblith, Norouzi, Lee and Hinton 2019, "Similarity of Neural Network Representations Revisited") compares the Gram matrices of
two sets of states of the same tokens: HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), 1 where one set is a rotated and scaled copy of the
other. With fewer tokens than some times the width its plain estimate is far above 0 for unrelated states. Here HSIC is a U-statistic,
as that of Song, Smola, Gretton, Bedo and Borgwardt 2012 ("Feature Selection via Dependence Maximization", HSIC_1), which Nguyen,
Raghu and Kornblith 2021 use:

    mean of K_ij L_ij + mean of K_ij L_qr - 2 · mean of K_ij L_iq

where HSIC_1 takes the means over tokens i, j, q, r that are all different. Tokens of one text are alike, in both models, so that pairs
of them make few texts more similar than many: here the four are of different *groups of examples*, and with groups of one token
each it is HSIC_1. Gram matrices of all layers are made a group of rows at a time, so that all pairs of layers cost little
more than the matrices themselves, and sums by group are all that leaving out a group needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Alignments(NamedTuple):
    """CKA of pairs of layers; NaN where a layer's states are all alike, or there are too few groups: 4, and 5 to leave one out."""

    full: np.ndarray
    """(A, B)"""
    left_out: np.ndarray
    """(G, A, B): without each group."""


class _Sums(NamedTuple):
    """Sums of the Gram matrices of some layers over the tokens j of each group, for each token i of another; 0 in i's own group."""

    rows: np.ndarray
    """(A, n, G) float64."""
    blocks: np.ndarray
    """(A, G, G): the same, summed over i."""


def debiased_cka(a: Sequence[np.ndarray], b: Sequence[np.ndarray], bounds: np.ndarray) -> Alignments:
    """Compute the debiased linear CKA of all pairs of layers.

    Args:
        a: States of the same n tokens in the layers of one model, (n, D) each.
        b: In those of the other, of any width.
        bounds: Where each group of tokens begins, and the number of tokens: (G + 1,).

    Returns:
        CKA of all tokens, and without each group.
    """
    layers = [_centred(x) for x in (*a, *b)]
    n_a, groups = len(a), len(bounds) - 1
    sums, cross, own = _sum_products(layers, n_a, bounds)
    kept = [_alignment(sums, cross, own, n_a, bounds, g) for g in (None, *range(groups))]
    return Alignments(kept[0], np.stack(kept[1:]))


def _centred(x: np.ndarray) -> np.ndarray:
    """Return states less their mean, scaled so that their mean squared length is 1: float32 sums of products then stay exact enough."""
    x = x.astype(np.float32)
    x -= x.mean(0, dtype=np.float64).astype(np.float32)
    length = np.sqrt(np.einsum("nd,nd->", x, x, dtype=np.float64) / len(x))
    if length > 0:
        x /= np.float32(length)
    return x


def _gram_rows(x: np.ndarray, start: int, end: int) -> np.ndarray:
    """Return a group's rows of the Gram matrix, 0 in the group itself, (end - start, n)."""
    gram: np.ndarray = x[start:end] @ x.T
    gram[:, start:end] = 0
    return gram


def _sum_products(layers: list[np.ndarray], n_a: int, bounds: np.ndarray) -> tuple[_Sums, np.ndarray, np.ndarray]:
    """Sum over the Gram matrices, a group of rows at a time.

    Args:
        layers: Centred states, (n, D) each: n_a of the one model, then those of the other.
        n_a: How many are of the one model.
        bounds: As in `debiased_cka`.

    Returns:
        The sums of each layer, Σ K_ij L_ij over the tokens i of each group of all pairs of the two models' layers, (G, A, B), and of each
        layer with itself, (G, layers).
    """
    groups = len(bounds) - 1
    rows = np.empty((len(layers), int(bounds[-1]), groups))
    cross = np.empty((groups, n_a, len(layers) - n_a))
    own = np.empty((groups, len(layers)))
    for g in range(groups):
        start, end = int(bounds[g]), int(bounds[g + 1])
        grams = np.stack([_gram_rows(x, start, end) for x in layers])
        rows[:, start:end] = np.add.reduceat(grams, bounds[:-1], axis=2)
        flat = grams.reshape(len(layers), -1)
        cross[g] = flat[:n_a] @ flat[n_a:].T
        own[g] = np.einsum("ij,ij->i", flat, flat)
    return _Sums(rows, np.add.reduceat(rows, bounds[:-1], axis=1)), cross, own


def _alignment(
    sums: _Sums, cross: np.ndarray, own: np.ndarray, n_a: int, bounds: np.ndarray, without: int | None
) -> np.ndarray:
    """Return CKA of all pairs, (A, B), without a group."""
    sizes = np.diff(bounds)
    keep = np.ones(len(sizes), bool)
    if without is not None:
        keep[without] = False
    if keep.sum() < 4:
        return np.full(cross.shape[1:], np.nan)
    left = np.repeat(keep, sizes)
    rows, blocks = sums.rows[:, left][:, :, keep], sums.blocks[:, keep][:, :, keep]
    pairs, own_pairs = cross.sum(0), own.sum(0)
    if without is not None:  # once as i, once as j
        pairs, own_pairs = pairs - 2 * cross[without], own_pairs - 2 * own[without]
    counts = _counts(sizes[keep].astype(np.float64))
    k, flat, total = rows.sum(2), rows.reshape(len(rows), -1), blocks.sum((1, 2))
    margin, cells = blocks.sum(2), blocks.reshape(len(blocks), -1)

    def hsic(pairs: np.ndarray, a: slice, b: slice) -> np.ndarray:
        triples = k[a] @ k[b].T - flat[a] @ flat[b].T
        quadruples = np.outer(total[a], total[b]) - 4 * margin[a] @ margin[b].T + 2 * cells[a] @ cells[b].T
        found: np.ndarray = pairs / counts[0] + quadruples / counts[2] - 2 * triples / counts[1]
        return found

    both = hsic(pairs, slice(n_a), slice(n_a, None))
    alone = np.array([hsic(own_pairs[i], slice(i, i + 1), slice(i, i + 1))[0, 0] for i in range(len(rows))])
    scale = np.sqrt(np.outer(*(np.maximum(x, 0) for x in (alone[:n_a], alone[n_a:]))))
    return np.clip(np.divide(both, scale, out=np.full_like(both, np.nan), where=scale > 0), -1, 1)


def _counts(m: np.ndarray) -> tuple[float, float, float]:
    """Count pairs, triples and quadruples of tokens of different groups, given the groups' sizes."""
    n = m.sum()
    cells = np.outer(m, m)
    np.fill_diagonal(cells, 0)
    margin = cells.sum(1)
    triples = (m * ((n - m) ** 2 - ((m**2).sum() - m**2))).sum()
    return float(cells.sum()), float(triples), float(cells.sum() ** 2 - 4 * (margin**2).sum() + 2 * (cells**2).sum())
