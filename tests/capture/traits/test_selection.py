"""Intervals hold what they are of as often as they say, also of a vector that was picked among many."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from capture.traits import extraction_methods, intervals, selection, separation
from capture.traits.evaluate import resampled_cohens_d
from warehouse.analysis.intervals import clopper_pearson_by_group

ALWAYS = 2000
"""Made experiments at once."""


@pytest.mark.parametrize(("questions", "each"), [(3, 10), (5, 12), (20, 3)])
@pytest.mark.parametrize("part", [0.5, 0.8, 0.97])
def test_an_accuracys_interval_holds_it_however_alike_the_responses_to_a_question_are(
    questions: int, each: int, part: float
) -> None:
    rng = np.random.default_rng(0)
    for alike in (0.0, 0.1):
        strength = 1 / alike - 1 if alike else 0
        of_question = rng.beta(part * strength, (1 - part) * strength, (questions, ALWAYS)) if alike else part
        right = rng.binomial(each, of_question, (questions, ALWAYS)).astype(float)
        low, high = clopper_pearson_by_group(right, np.full(questions, each))
        held = ((low <= part) & (part <= high)).mean()
        assert held > 0.94, (alike, held)
        assert (low >= 0).all() and (high <= 1).all() and (low < high).all()


def test_where_all_are_right_the_interval_is_the_exact_one_of_so_many() -> None:
    n = np.array([6, 6, 6, 6, 6])
    low, high = clopper_pearson_by_group(np.stack([n, 0 * n], axis=1), n)
    exact = stats.binomtest(30, 30).proportion_ci(method="exact")
    assert low[0] == pytest.approx(exact.low) and high[0] == 1
    assert low[1] == 0 and high[1] == pytest.approx(1 - exact.low)
    one_question = clopper_pearson_by_group(np.array([[3.0]]), np.array([6]))
    assert one_question[0][0] < 0.02 and one_question[1][0] > 0.98, "one question says nothing of others"


def test_a_difference_to_random_directions_is_no_surer_than_either_accuracy() -> None:
    n = np.full(5, 6)
    all_right = np.full((5, 1), 6.0)

    def ends(*parts: float) -> tuple[float, float]:
        low, high = intervals.differences(all_right, np.full((5, len(parts)), 6.0) * parts, n)
        return low[0], high[0]

    low, high = ends(29 / 30, 29 / 30)
    assert low < 0 < high, "30 of 30 against 29 of 30 shows nothing"
    low, high = ends(0.8, 0.8)
    assert 0.05 < low < 0.2 and high == pytest.approx(0.2)
    assert ends(*np.tile([0.7, 0.9], 10))[0] < low, "directions that differ say less of their mean"
    assert ends(0.8)[0] < -0.7, "one direction says nothing of others"


@pytest.mark.parametrize("questions", [2, 5, 20])
@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_an_effect_sizes_interval_holds_it_with_few_questions_too(questions: int, apart: float) -> None:
    """Responses to a question have something in common, half as large as what each has of its own."""
    rng = np.random.default_rng(0)
    question, n = np.repeat(np.arange(questions), 4), 500
    common = 0.5 * rng.standard_normal((2, questions, n))[:, question]
    pos, neg = common + rng.standard_normal((2, len(question), n)) + np.array([apart, 0])[:, None, None]
    by_question = (question == np.arange(questions)[:, None]).astype(float)
    draws = resampled_cohens_d(intervals.resamples(questions, 1000, 0), (pos, neg), [by_question] * 2)
    low, high = intervals.effect_sizes(separation.cohens_d(pos, neg), draws, questions)
    true = apart / np.sqrt(1.25)
    assert ((low <= true) & (true <= high)).mean() > 0.925
    plain = np.quantile(draws, [0.025, 0.975], axis=0)
    assert questions == 20 or ((plain[0] <= true) & (true <= plain[1])).mean() < 0.85


def test_an_effect_size_without_spread_has_an_interval_too() -> None:
    """Resamples of one question may have no spread at all: d is infinite there, and says nothing."""
    d, draws = np.array([4.0, np.inf]), np.array([[3.0, np.inf], [np.inf, np.inf], [5.0, np.inf]])
    low, high = intervals.effect_sizes(d, draws, 3)
    assert 0 < low[0] < 4 < high[0] < np.inf and low[1] == high[1] == np.inf


# -- the best of many --------------------------------------------------------------------------------------------------

LAYERS, QUESTIONS, HELD, EACH, WIDTH = 12, 20, 5, 6, 8
"""EACH responses of each polarity to each question, of which the first HELD are held out."""
QUESTION = np.tile(np.repeat(np.arange(QUESTIONS), EACH), 2)
POSITIVE = np.arange(len(QUESTION)) < len(QUESTION) // 2


def crossed(method: str, x: np.ndarray, used: np.ndarray, seed: int) -> float | None:
    """`cv_effect_size` over the responses `used`."""
    sides = used & POSITIVE, used & ~POSITIVE
    dealt = selection.deal_folds(QUESTION[used], seed)
    parts, asked = ([a[s] for s in sides] for a in (x, QUESTION))
    return selection.cv_effect_size(method, tuple(parts), tuple(asked), dealt, seed, Counter())


@pytest.mark.slow
def test_the_interval_of_the_best_layer_of_pure_noise_holds_chance() -> None:
    """Picked by cross-validation on the training questions, the best of twelve layers has intervals that hold one half and no effect
    as often as any one's; picked by what it reaches on the held-out questions, it has not."""
    out, seeds = QUESTION < HELD, 120
    weights = intervals.resamples(HELD, 1000, 0)
    test = out & POSITIVE, out & ~POSITIVE
    by_question = [(QUESTION[s] == np.arange(HELD)[:, None]).astype(float) for s in test]
    held = {"training": [0, 0], "held-out": [0, 0]}
    for seed in range(seeds):
        layers = np.random.default_rng(seed).standard_normal((LAYERS, len(QUESTION), WIDTH))
        fits = [
            extraction_methods.measure(extraction_methods.mean_diff(p, q), p, q)
            for p, q in ((x[~out & POSITIVE], x[~out & ~POSITIVE]) for x in layers)
        ]
        cosines = [[separation.cosines(x[s], v.vector[None]) for s in test] for x, v in zip(layers, fits, strict=True)]
        on_training = [crossed("mean_diff", x, ~out, seed) for x in layers]
        for how, best in (
            ("training", int(np.argmax(on_training))),
            ("held-out", int(np.argmax([separation.cohens_d(*c)[0] for c in cosines]))),
        ):
            sides = [separation.projections(layers[best][s], fits[best].vector[None]) for s in test]
            right = separation.on_correct_side(*sides, np.array([fits[best].midpoint]))
            counts = sum(b @ r for b, r in zip(by_question, right, strict=True))
            low, high = clopper_pearson_by_group(counts, np.full(HELD, 2 * EACH))
            held[how][0] += low[0] <= 0.5 <= high[0]
            draws = resampled_cohens_d(weights, tuple(cosines[best]), by_question)
            low, high = intervals.effect_sizes(separation.cohens_d(*cosines[best]), draws, HELD)
            held[how][1] += low[0] <= 0 <= high[0]
    assert min(held["training"]) >= 0.93 * seeds, held
    assert held["held-out"][1] < 0.85 * seeds, held


@pytest.mark.parametrize("method", ["mean_diff", "probe", "ica", "gradient"])
def test_the_layer_with_the_trait_is_picked_by_cross_validation(method: str) -> None:
    """Whatever the method, and beside an offset that all states share."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, len(QUESTION), WIDTH)) + 30 * rng.standard_normal(WIDTH)
    x[1] += np.where(POSITIVE, 1.5, -1.5)[:, None] * np.eye(WIDTH)[3]
    found = [crossed(method, layer, np.full(len(QUESTION), True), 0) for layer in x]
    assert np.argmax(found) == 1 and found[1] > 1.5 and max(found[0], found[2]) < 0.6, found


def test_too_little_to_cross_validate_is_none() -> None:
    assert crossed("mean_diff", np.random.default_rng(0).standard_normal((len(QUESTION), 4)), QUESTION == 0, 0) is None
    assert crossed("mean_diff", np.ones((len(QUESTION), 4)), QUESTION < 3, 0) is None, "no direction"
