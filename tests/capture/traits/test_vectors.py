"""Vectors and the measures of separation: planted directions are found, and every number is the one that its formula gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from capture.traits import extraction_methods, separation

D = 32


def unit_of(seed: int, width: int = D) -> np.ndarray:
    v = np.random.default_rng(seed).standard_normal(width)
    return v / np.linalg.norm(v)


def groups(strength: float, n: int = 300, m: int = 200, width: int = D, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    d = unit_of(0, width)
    return (
        (rng.standard_normal((n, width)) + 2 + strength * d).astype(np.float32),
        (rng.standard_normal((m, width)) + 2 - strength * d).astype(np.float32),
    )


@pytest.mark.parametrize("method", ["mean_diff", "probe", "ica", "gradient"])
def test_a_planted_direction_is_found_and_points_to_the_positive_side(method: str) -> None:
    pos, neg = groups(2.0)
    for a, b, sign in ((pos, neg, 1), (neg, pos, -1)):
        raw = extraction_methods.fit(method, a, b, 0)[0]
        made = extraction_methods.measure(raw, a, b)
        assert sign * (made.vector @ unit_of(0)) > 0.9
        assert made.vector.dtype == np.float32 and np.linalg.norm(made.vector) == pytest.approx(1, abs=1e-6)
        assert made.gap == pytest.approx(4, rel=0.1) and made.train_accuracy > 0.95
        assert made.norm == pytest.approx(np.linalg.norm(raw))
        again = extraction_methods.fit(method, a, b, 0)[0]
        assert (raw == again).all(), "the same seed, the same vector"


def test_a_direction_without_the_trait_is_not_made_to_show_it() -> None:
    pos, neg = groups(2.0, 2000, 2000)
    made = extraction_methods.measure(extraction_methods.random(pos, neg, 3), pos, neg)
    assert abs(made.vector @ unit_of(0)) < 0.6 and made.gap > 0, "its sign is the training part's"
    assert not (extraction_methods.random(pos, neg, 3) == extraction_methods.random(pos, neg, 4)).any()


def test_gradient_ascent_arrives_at_the_normalised_mean_difference() -> None:
    for seed, strength in enumerate((0.0, 0.1, 3.0)):
        pos, neg = groups(strength, 40, 30, 576, seed)
        difference = extraction_methods.mean_diff(pos, neg)
        v = extraction_methods.gradient(pos, neg, seed)
        np.testing.assert_allclose(v, difference / np.linalg.norm(difference), atol=1e-4)
        assert (difference == pos.mean(0, dtype=np.float64) - neg.mean(0, dtype=np.float64)).all()


def test_the_probes_vector_is_the_regressions_in_the_space_of_the_vectors() -> None:
    """Projections on it order vectors as scikit-learn's decision function does, whatever the dimensions' scales."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = np.geomspace(0.01, 100, D)
    pos, neg = (x * scale for x in groups(1.0, 60, 50))
    x, y = np.concatenate([pos, neg]), np.repeat([1, 0], [60, 50])
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=extraction_methods.PROBE_C, max_iter=1000).fit(scaler.transform(x), y)
    score, ours = model.decision_function(scaler.transform(x)), x @ extraction_methods.probe(pos, neg)
    np.testing.assert_allclose(ours - ours.mean(), score - score.mean(), atol=1e-4)


def test_ica_gives_the_mixing_column_and_not_the_row_that_undoes_it() -> None:
    """With a disturbance that goes along with the trait, the row cancels it and leans away; the column is the way the vectors move."""
    rng = np.random.default_rng(0)
    d, e = np.linalg.qr(rng.standard_normal((D, 2)))[0].T
    direction = (d + e) / np.sqrt(2)
    sign = np.repeat([1.0, -1.0], 400)
    disturbance = rng.laplace(size=800) * 2
    x = 3 * sign[:, None] * direction + disturbance[:, None] * e + 0.3 * rng.standard_normal((800, D))
    found = separation.unit(extraction_methods.fit("ica", x[:400], x[400:], 0)[0])
    assert found @ direction > 0.95
    row = d  # reads the sign off, and nothing of the disturbance
    assert row @ direction < 0.75


def test_degenerate_groups_are_told_of() -> None:
    same = np.ones((5, D), np.float32)
    for method in ("mean_diff", "probe", "ica", "gradient"):
        with pytest.raises(ValueError, match="no direction"):
            extraction_methods.measure(extraction_methods.METHODS[method](same, same, 0), same, same)
    few = np.random.default_rng(0).standard_normal((4, D)).astype(np.float32)
    twice = np.concatenate([few, few])  # of rank 4: fewer components than are asked for
    assert np.isfinite(
        extraction_methods.measure(extraction_methods.ica(twice[:6], twice[6:]), twice[:6], twice[6:]).vector
    ).all()


# -- measures ----------------------------------------------------------------------------------------------------------


def two(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((17, 3)) * 2 + 1, rng.standard_normal((11, 3))


def test_cohens_d_is_the_t_statistic_less_the_counts() -> None:
    pos, neg = two()
    t = stats.ttest_ind(pos, neg, equal_var=True).statistic  # t = d / sqrt(1/n + 1/m), by the pooled deviation
    np.testing.assert_allclose(separation.cohens_d(pos, neg), t * np.sqrt(1 / 17 + 1 / 11))
    by_hand = (pos[:, 0].mean() - neg[:, 0].mean()) / np.sqrt(
        (16 * pos[:, 0].var(ddof=1) + 10 * neg[:, 0].var(ddof=1)) / 26
    )
    assert separation.cohens_d(pos, neg)[0] == pytest.approx(by_hand)
    flat = np.ones((3, 1))
    assert separation.cohens_d(flat, flat)[0] == 0 and separation.cohens_d(2 * flat, flat)[0] == np.inf


def test_auc_is_scikit_learns_ties_included() -> None:
    pos, neg = (np.round(x) for x in two(3))
    for i, value in enumerate(separation.auc(pos, neg)):
        assert value == pytest.approx(
            roc_auc_score(np.repeat([1, 0], [17, 11]), np.concatenate([pos[:, i], neg[:, i]]))
        )


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (1.5, 1.0), (0.0, 3.0), (2.0, 0.2), (-4.0, 1.0001), (40.0, 2.0)])
def test_overlap_is_the_area_under_both_densities(mean: float, std: float) -> None:
    base = np.array([-1.0, 1.0]) / np.sqrt(2)  # of mean 0 and deviation 1
    found = separation.overlap((mean + std * base)[:, None], base[:, None])[0]
    grid = np.linspace(-50, 60, 1_100_001)
    area = integrate.trapezoid(np.minimum(stats.norm.pdf(grid, mean, std), stats.norm.pdf(grid)), grid)
    assert found == pytest.approx(area, abs=1e-6)


def test_accuracy_cosines_and_midpoint_by_hand() -> None:
    pos, neg = np.array([[3.0, 4.0], [6.0, 8.0]]), np.array([[0.0, 2.0], [8.0, 6.0]])
    v = np.array([[1.0, 0.0]])
    np.testing.assert_allclose(separation.cosines(pos, v)[:, 0], [0.6, 0.6])
    p, q = separation.projections(pos, v), separation.projections(neg, v)
    assert separation.midpoints(p, q)[0] == (4.5 + 4) / 2
    assert separation.accuracy(p, q, separation.midpoints(p, q))[0] == 0.5
    assert (separation.orient(-v, pos, neg) == v).all() and (separation.orient(v, pos, neg) == v).all()
    assert separation.cosines(np.zeros((1, 2)), v)[0] == 0
