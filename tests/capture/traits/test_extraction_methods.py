"""Methods: a planted direction is found, and each gives the vector that it says."""

from __future__ import annotations

import numpy as np
import pytest

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
