"""Similarities of states against their definitions written out, on states whose similarity is known, and by how often intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from capture.comparisons.cka import debiased_cka
from capture.comparisons.heads import jensen_shannon
from capture.comparisons.jackknife import interval
from capture.comparisons.layers import moved_directions
from capture.comparisons.procrustes import procrustes


def hsic_1(k: np.ndarray, other: np.ndarray) -> float:
    """Song et al. 2012, equation 5."""
    n, ones = len(k), np.ones(len(k))
    k, other = (x - np.diag(np.diag(x)) for x in (k, other))
    sums = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ other) + sums - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3))


def by_definition(x: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """CKA by means over all pairs, triples and quadruples of tokens of different groups."""
    different = group[:, None] != group[None, :]

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        pairs = (k * other)[different].mean()
        triples, quadruples = [], []
        n = len(k)
        for i in range(n):
            for j in range(n):
                for q in range(n):
                    if len({group[i], group[j], group[q]}) == 3:
                        triples.append(k[i, j] * other[i, q])
                        others = [r for r in range(n) if group[r] not in (group[i], group[j], group[q])]
                        quadruples += [k[i, j] * other[q, r] for r in others]
        return pairs + np.mean(quadruples) - 2 * np.mean(triples)

    x, y = x - x.mean(0), y - y.mean(0)
    k, other = x @ x.T, y @ y.T
    return hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_with_a_token_a_group_it_is_the_unbiased_estimate(random: np.random.Generator) -> None:
    """Of all tokens, and without each."""
    x = random.normal(size=(30, 7))
    y = random.normal(size=(30, 5)) + x[:, :5] + 3
    found = debiased_cka([x], [y], np.arange(31))
    for left, value in [(np.arange(30), found.full)] + [
        (np.delete(np.arange(30), g), found.left_out[g]) for g in (0, 17)
    ]:
        k, other = x[left] @ x[left].T, y[left] @ y[left].T
        assert value[0, 0] == pytest.approx(hsic_1(k, other) / np.sqrt(hsic_1(k, k) * hsic_1(other, other)), abs=1e-5)


def test_groups_of_several_tokens_are_left_out_of_each_others_pairs(random: np.random.Generator) -> None:
    group = np.repeat(np.arange(5), (2, 1, 3, 2, 2))
    x = random.normal(size=(10, 3))
    y = random.normal(size=(10, 4)) + x[:, :1]
    bounds = np.array([0, 2, 3, 6, 8, 10])
    found = debiased_cka([x, y], [y], bounds)
    assert found.full[0, 0] == pytest.approx(by_definition(x, y, group), abs=1e-4)
    assert found.full[1, 0] == pytest.approx(1, abs=1e-6)
    left = group != 2
    assert found.left_out[2, 0, 0] == pytest.approx(by_definition(x[left], y[left], group[left]), abs=1e-2)


def test_unrelated_states_are_about_0_and_a_rotated_copy_is_1(random: np.random.Generator) -> None:
    """With fewer tokens than dimensions, where the plain estimate is above 0.5; and of any scale and shift."""
    bounds = np.arange(0, 301, 10)
    x, noise = random.normal(size=(300, 400)), random.normal(size=(300, 400))
    rotation, _ = np.linalg.qr(random.normal(size=(400, 400)))
    copy = x @ rotation * 3 + 5
    found = debiased_cka([x], [noise, copy], bounds)
    centred = [v - v.mean(0) for v in (x, noise)]
    k, other = (v @ v.T for v in centred)
    assert np.sum(k * other) / np.sqrt(np.sum(k * k) * np.sum(other * other)) > 0.5
    assert abs(found.full[0, 0]) < 0.02
    assert found.full[0, 1] == pytest.approx(1, abs=1e-4)
    shuffled = random.permutation(300)
    same, unrelated = procrustes(x, copy, bounds, shuffled), procrustes(x, noise, bounds, shuffled)
    assert same is not None and unrelated is not None
    assert same.full == pytest.approx(1, abs=1e-4)
    assert unrelated.full == pytest.approx(unrelated.chance, abs=0.02)


def test_procrustes_is_what_the_best_rotation_gives(random: np.random.Generator) -> None:
    from scipy.linalg import orthogonal_procrustes

    x = random.normal(size=(50, 6))
    y = x @ np.linalg.qr(random.normal(size=(6, 6)))[0] + random.normal(size=(50, 6))
    a, b = (v - v.mean(0) for v in (x, y))
    a, b = (v / np.linalg.norm(v) for v in (a, b))
    rotation, scale = orthogonal_procrustes(a, b)
    found = procrustes(x, y, np.arange(0, 51, 5), random.permutation(50))
    assert found is not None
    assert found.full == pytest.approx(scale, abs=1e-5) == pytest.approx(float(np.sum(a @ rotation * b)), abs=1e-5)
    assert 2 - 2 * found.full == pytest.approx(np.linalg.norm(a @ rotation - b) ** 2, abs=1e-5)
    other_width = procrustes(x, y[:, :4], np.arange(0, 51, 5), random.permutation(50))
    assert other_width is not None and 0 < other_width.full < 1


def test_states_that_are_all_alike_have_no_similarity(random: np.random.Generator) -> None:
    x, same = random.normal(size=(40, 4)), np.ones((40, 4))
    bounds = np.arange(0, 41, 4)
    assert np.isnan(debiased_cka([x], [same], bounds).full[0, 0])
    assert procrustes(x, same, bounds, np.arange(40)) is None


def test_too_few_groups_have_none(random: np.random.Generator) -> None:
    x = random.normal(size=(9, 4))
    found = debiased_cka([x], [x], np.array([0, 3, 6, 9]))
    assert np.isnan(found.full[0, 0]) and np.isnan(found.left_out).all()


@pytest.mark.parametrize(("width", "noise"), [(8, 2.0), (24, 1.0)])
def test_intervals_hold_what_they_estimate(width: int, noise: float) -> None:
    """Forty texts of eight tokens that are alike within a text: the CKA of two thousand texts, and the mean Procrustes similarity of as
    many texts as these, lie in 19 of 20 intervals, here of 150. Five in a hundred too few is what such a count may be off by."""
    random = np.random.default_rng(1)
    map_ = random.normal(size=(width, width)) / np.sqrt(width)

    def draw(texts: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        shared = random.normal(size=(texts, 1, width)) * np.linspace(2, 0.2, width)
        x = shared + random.normal(size=(texts, tokens, width)) * np.linspace(1, 0.5, width)
        y = x @ map_ + noise * (random.normal(size=(texts, 1, width)) + random.normal(size=(texts, tokens, width)))
        return x.reshape(-1, width), y.reshape(-1, width)

    truth = debiased_cka(*([v] for v in draw(2000, 2)), np.arange(0, 4001, 100)).full[0, 0]
    bounds = np.arange(0, 321, 16)
    held: list[bool] = []
    rotated = []
    for _ in range(150):
        x, y = draw(40, 8)
        found = debiased_cka([x], [y], bounds)
        low, high = interval(found.full, found.left_out, np.diff(bounds), correlation=True)
        held.append(bool(low[0, 0] <= truth <= high[0, 0]))
        similarity = procrustes(x, y, bounds, random.permutation(320))
        assert similarity is not None
        ends = interval(np.array(similarity.full), similarity.left_out, np.diff(bounds), correlation=True)
        rotated.append((similarity.full, *map(float, ends)))
    assert np.mean(held) >= 0.9
    middle = np.mean([full for full, _, _ in rotated])
    assert np.mean([low <= middle <= high for _, low, high in rotated]) >= 0.9


def test_an_interval_of_a_mean_is_the_usual_one(random: np.random.Generator) -> None:
    """Student's, where each group is one value."""
    from scipy import stats

    values = random.normal(size=15)
    left_out = (values.sum() - values) / 14
    low, high = interval(values.mean(), left_out, np.ones(15))
    wanted = stats.t.interval(0.95, 14, values.mean(), stats.sem(values))
    assert (float(low), float(high)) == pytest.approx(wanted)
    assert np.isnan(interval(np.array(1.0), np.array([1.0]), np.array([3]))[0])


def test_a_planted_direction_is_found(random: np.random.Generator) -> None:
    """Noise, and a shift of 3 along one direction: its vector, its mean shift, and its part of the movement."""
    planted = random.normal(size=20)
    planted /= np.linalg.norm(planted)
    x = random.normal(size=(500, 20))
    y = x + 0.2 * random.normal(size=(500, 20)) + 3 * planted
    first, *others = moved_directions(x, y, 4)
    assert abs(np.dot(first["vector"], planted)) == pytest.approx(1, abs=1e-3)
    assert np.dot(first["vector"], planted) > 0 and first["mean_shift"] == pytest.approx(3, abs=0.05)
    assert first["share"] == pytest.approx(9 / (9 + 20 * 0.04), abs=0.02)
    assert [o["rank"] for o in others] == [2, 3, 4] and all(o["share"] < 0.02 for o in others)
    assert moved_directions(x, x, 4) == []


def test_divergence_of_attention() -> None:
    """0 for the same, ln 2 where nothing is shared, and against its definition, a sink being one more place."""
    p, q = np.array([0.5, 0.3, 0.1]), np.array([0.1, 0.2, 0.2])
    whole = [np.append(x, 1 - x.sum()) for x in (p, q)]
    middle = (whole[0] + whole[1]) / 2
    wanted = sum(float(np.sum(x * np.log(x / middle))) for x in whole) / 2
    assert jensen_shannon(p, q) == pytest.approx(wanted)
    assert jensen_shannon(np.array([1.0, 0, 0]), np.array([0, 1.0, 0])) == pytest.approx(np.log(2))
    assert jensen_shannon(p, p) == 0
