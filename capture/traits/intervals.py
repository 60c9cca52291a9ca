"""95 % intervals over questions: responses to one question resemble each other, so that questions, not responses, are what was drawn.

Q is the number of questions, V of vectors measured at once. All of it is arithmetic on arrays.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

LEVEL = 0.95


def proportions(right: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends, (V,) each, of the interval of a part of all responses: `right` (Q, V) of the `n` (Q,) to each question.

    Clopper and Pearson's exact interval, for as many independent responses as would vary as much as these do over their questions, no
    more than there are, and fewer where questions are few (Korn and Graubard 1998, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data"). Where all are right, or none, nothing varies: then it is that of
    all of them, which unlike a bootstrap's does not end where it begins.
    """
    total, part = n.sum(), right.sum(0) / n.sum()
    variance = standard_error(right, n) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        independent = (
            np.fmin(part * (1 - part) / variance, total) * (_student_quantile(total) / _student_quantile(len(n))) ** 2
        )
    independent = np.where((part > 0) & (part < 1), independent, total)
    k, beside = part * independent, (1 - LEVEL) / 2
    low = np.where(k > 0, stats.beta.ppf(beside, k, independent - k + 1), 0)
    high = np.where(k < independent, stats.beta.ppf(1 - beside, k + 1, independent - k), 1)
    return low, high


def standard_error(right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """(V,) of a part of all responses, by how it varies over questions (a ratio of two sums: Cochran 1977, "Sampling Techniques",
    6.4); infinite for one question.
    """
    questions, part = len(n), right.sum(0) / n.sum()
    if questions < 2:
        return np.full(right.shape[1], np.inf)
    squares = ((right - n[:, None] * part) ** 2).sum(0)
    found: np.ndarray = np.sqrt(questions / (questions - 1) * squares) / n.sum()
    return found


def differences(right: np.ndarray, other: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends, (V,) each, of the interval of a part of all responses less the mean part of R directions, `other` (Q, R): from the
    ends of both by adding squares (Newcombe 1998, "Interval estimation for the difference between independent proportions",
    method 10). The mean's are Student's, over questions and over directions, as other questions and other directions would give
    another; one direction alone says nothing of others. As both parts are of the same responses, it is rather too wide than too narrow.
    """
    part, each, drawn = right.sum(0) / n.sum(), other.sum(0) / n.sum(), other.shape[1]
    low, high = proportions(right, n)
    of_questions = _student_quantile(len(n)) * standard_error(other.mean(1, keepdims=True), n)
    of_directions = _student_quantile(drawn) * each.std(ddof=1) / np.sqrt(drawn) if drawn > 1 else np.inf
    off = np.minimum(np.hypot(of_questions, of_directions), 1)
    difference = part - each.mean()
    return difference - np.hypot(part - low, off), difference + np.hypot(high - part, off)


def effect_sizes(d: np.ndarray, draws: np.ndarray, questions: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends, (V,) each, of the interval of Cohen's d (V,), from what it is of resampled questions, (draws, V).

    Student's, with the bootstrap's standard error brought from Q - 1 to Q questions, on the scale of asinh(d/√8), on which that error
    does not depend on d (Hedges and Olkin 1985, "Statistical Methods for Meta-Analysis", 6.C). Percentiles of the draws are too near
    each other for few questions: of 5, those of 2.5 and 97.5 % hold 84 %. Resamples without any spread, whose d is infinite, are left
    out.
    """
    scaled = np.arcsinh(draws / np.sqrt(8))
    finite = np.isfinite(scaled)
    n = np.maximum(finite.sum(0), 1)
    mean = np.where(finite, scaled, 0).sum(0) / n
    error = np.sqrt((np.where(finite, scaled - mean, 0) ** 2).sum(0) / n * questions / max(questions - 1, 1))
    at, off = np.arcsinh(d / np.sqrt(8)), _student_quantile(questions) * error
    with np.errstate(over="ignore"):
        return np.sqrt(8) * np.sinh(at - off), np.sqrt(8) * np.sinh(at + off)


def resamples(questions: int, draws: int, seed: int) -> np.ndarray:
    """(draws, Q): how often each question is in each resample, of as many questions with replacement."""
    rng = np.random.default_rng((seed, 1))
    found: np.ndarray = rng.multinomial(questions, np.full(questions, 1 / questions), size=draws).astype(np.float64)
    return found


def _student_quantile(n: int) -> float:
    """Student's quantile for n observations."""
    return float(stats.t.ppf((1 + LEVEL) / 2, max(n - 1, 1)))
