"""95 % intervals over questions, not responses: responses to one question resemble each other, and the questions are the sample.

Q is the number of questions, V the number of vectors measured at once. Everything is arithmetic on arrays; `evaluate` calls it.
"""

from __future__ import annotations

import numpy as np

from warehouse.analysis.intervals import clopper_pearson_by_group, standard_error, student_t


def differences(right: np.ndarray, other: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the interval of a proportion minus the mean proportion of R random directions.

    It combines the ends of both intervals by adding squares (Newcombe 1998, "Interval estimation for the difference between
    independent proportions", method 10). The mean's interval is Student's, over questions and over directions, as other questions
    and other directions would give another mean; a single direction says nothing about others. Both proportions are of the same
    responses, so that the interval is too wide rather than too narrow.

    Args:
        right: (Q, V): how many responses to each question are right.
        other: (Q, R): the same for the random directions.
        n: (Q,): how many responses there are.

    Returns:
        Lower and upper ends, (V,) each.
    """
    part, each, drawn = right.sum(0) / n.sum(), other.sum(0) / n.sum(), other.shape[1]
    low, high = clopper_pearson_by_group(right, n)
    of_questions = student_t(len(n)) * standard_error(other.mean(1, keepdims=True), n)
    of_directions = student_t(drawn) * each.std(ddof=1) / np.sqrt(drawn) if drawn > 1 else np.inf
    off = np.minimum(np.hypot(of_questions, of_directions), 1)
    difference = part - each.mean()
    return difference - np.hypot(part - low, off), difference + np.hypot(high - part, off)


def effect_sizes(d: np.ndarray, draws: np.ndarray, questions: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the interval of Cohen's d from its values in resamples of the questions.

    It is Student's, with the bootstrap's standard error corrected from Q - 1 to Q questions, on the scale of asinh(d/√8), where
    that error does not depend on d (Hedges and Olkin 1985, "Statistical Methods for Meta-Analysis", 6.C). Percentiles of the
    draws are too close together for few questions: for 5 questions, those of 2.5 and 97.5 % hold 84 %. Resamples without spread,
    whose d is infinite, are left out.

    Args:
        d: (V,), Cohen's d.
        draws: (draws, V), Cohen's d in each resample.
        questions: Q.

    Returns:
        Lower and upper ends, (V,) each.
    """
    scaled = np.arcsinh(draws / np.sqrt(8))
    finite = np.isfinite(scaled)
    n = np.maximum(finite.sum(0), 1)
    mean = np.where(finite, scaled, 0).sum(0) / n
    error = np.sqrt((np.where(finite, scaled - mean, 0) ** 2).sum(0) / n * questions / max(questions - 1, 1))
    at, off = np.arcsinh(d / np.sqrt(8)), student_t(questions) * error
    with np.errstate(over="ignore"):
        return np.sqrt(8) * np.sinh(at - off), np.sqrt(8) * np.sinh(at + off)


def resamples(questions: int, draws: int, seed: int) -> np.ndarray:
    """Draw bootstrap resamples of the questions: (draws, Q), how often each question is in each resample."""
    rng = np.random.default_rng((seed, 1))
    counts: np.ndarray = rng.multinomial(questions, np.full(questions, 1 / questions), size=draws).astype(np.float64)
    return counts
