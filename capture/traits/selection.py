"""By what the best of many vectors is picked: cross-validation over the training questions.

A layer and a method that are picked for what they reach on held-out questions reach more there than elsewhere, the largest of many
numbers being partly luck. Picked on the training questions alone, what the held-out ones then say is of one vector and unbiased.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from capture.traits import extraction_methods, separation

FOLDS = 3


def deal_folds(questions: np.ndarray, seed: int) -> list[np.ndarray]:
    """Questions, one an entry, dealt into `FOLDS` parts, or as many as there are questions."""
    there = np.unique(questions)
    return np.array_split(np.random.default_rng((seed, 2)).permutation(there), max(1, min(FOLDS, len(there))))


def cv_effect_size(
    method: str,
    sides: tuple[np.ndarray, np.ndarray],
    questions: tuple[np.ndarray, np.ndarray],
    dealt: list[np.ndarray],
    seed: int,
    late: Counter[str],
) -> float | None:
    """Cohen's d of training responses, positive (n, D) less negative (m, D), with `questions` (n,) and (m,), on vectors that a method
    makes from the others: those of each fold of `dealt` on the vector of all other folds, by cosine. Fits that do not converge are
    counted in `late`.

    The midpoint of each fold is taken off first: vectors of two folds differ, and a mean that both polarities share, mostly longer
    than what tells them apart, projects differently on each. None where a fold or what is beside it has too few responses for it.
    """
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for fold in dealt:
        left = [np.isin(q, fold) for q in questions]
        rest = [x[~out] for x, out in zip(sides, left, strict=True)]
        if min(map(len, rest)) < 2 or not all(out.any() for out in left):
            return None
        raw, converged = extraction_methods.fit(method, rest[0], rest[1], seed)
        late[method] += converged is False
        try:
            v = separation.orient(separation.unit(raw)[None], rest[0], rest[1])
        except ValueError:  # no direction: nothing tells this fold's rest apart
            return None
        pos, neg = (separation.cosines(x[out], v) for x, out in zip(sides, left, strict=True))
        middle = separation.midpoints(pos, neg)
        found[0].append(pos - middle)
        found[1].append(neg - middle)
    return float(separation.cohens_d(*map(np.concatenate, found))[0])
