"""How the best of many vectors is picked: by cross-validation over the training questions.

A layer and method picked by their result on held-out questions reach more there than elsewhere, since the largest of many numbers is
partly luck. If the pick uses the training questions alone, the held-out ones measure a single vector, without bias. `evaluate` calls
this module.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from capture.traits import extraction_methods, separation

FOLDS = 3


def deal_folds(questions: np.ndarray, seed: int) -> list[np.ndarray]:
    """Deal the distinct questions into `FOLDS` parts, or into as many as there are questions."""
    distinct = np.unique(questions)
    return np.array_split(np.random.default_rng((seed, 2)).permutation(distinct), max(1, min(FOLDS, len(distinct))))


def cv_effect_size(
    method: str,
    sides: tuple[np.ndarray, np.ndarray],
    questions: tuple[np.ndarray, np.ndarray],
    folds: list[np.ndarray],
    seed: int,
    unconverged: Counter[str],
) -> float | None:
    """Compute a cross-validated Cohen's d of the training responses.

    The responses of each fold are projected, by cosine, on the vector that the method makes from all other folds. The fold's
    midpoint is subtracted first: the vectors of two folds differ, and a mean that both polarities share, mostly longer than what
    tells them apart, projects differently on each.

    Args:
        method: A key of `METHODS`.
        sides: Positive (n, D) and negative (m, D) responses.
        questions: Their questions, (n,) and (m,).
        folds: The questions of each fold, from `deal_folds`.
        seed: Of the method.
        unconverged: Counts, by method, the fits that did not converge; updated here.

    Returns:
        Cohen's d; None where a fold, or what is left without it, has too few responses or no direction.
    """
    cosines: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for fold in folds:
        in_fold = [np.isin(q, fold) for q in questions]
        rest = [x[~mask] for x, mask in zip(sides, in_fold, strict=True)]
        if min(map(len, rest)) < 2 or not all(mask.any() for mask in in_fold):
            return None
        raw, converged = extraction_methods.fit(method, rest[0], rest[1], seed)
        unconverged[method] += converged is False
        try:
            v = separation.orient(separation.unit(raw)[None], rest[0], rest[1])
        except ValueError:  # nothing tells the two sides apart without this fold
            return None
        pos, neg = (separation.cosines(x[mask], v) for x, mask in zip(sides, in_fold, strict=True))
        middle = separation.midpoints(pos, neg)
        cosines[0].append(pos - middle)
        cosines[1].append(neg - middle)
    return float(separation.cohens_d(*map(np.concatenate, cosines))[0])
