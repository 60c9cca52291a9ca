"""Running sums against the bootstrap written out: every resample a list of pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from capture.circuits.tally import RunningSums, Tally, Weights

UNITS = [f"unit {i % 4}" for i in range(12)]
SCORES = np.random.default_rng(0).normal(size=(12, 30)) + np.linspace(-1, 1, 30)
RESAMPLES = 40


def tallied(order: np.ndarray, batch: int, seed: int = 3) -> tuple[Tally, np.ndarray]:
    weights, tally, total = Weights(RESAMPLES, seed), Tally(30, RESAMPLES), np.zeros(RESAMPLES)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        own = weights([UNITS[i] for i in rows])
        tally.add(SCORES[rows], own)
        total += own.sum(1)
    return tally, total


def test_a_resample_is_the_mean_over_its_pairs() -> None:
    tally, total = tallied(np.arange(12), 5)
    found = tally.summary(12, total, 4, 0.1)
    drawn = Weights(RESAMPLES, 3)(UNITS).astype(int)  # (R, 12)
    assert (drawn[:, 0] == drawn[:, 4]).all()  # a unit's pairs come together
    assert not (drawn[:, 0] == drawn[:, 1]).all()
    means = [np.repeat(SCORES, w, axis=0).mean(0) for w in drawn if w.sum()]
    np.testing.assert_allclose(found.score, SCORES.mean(0), rtol=1e-12)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    np.testing.assert_allclose(found.low, low, atol=1e-5)  # sums are float32
    np.testing.assert_allclose(found.high, high, atol=1e-5)
    assert found.low is not None and (found.low < found.high).all()
    first = np.argsort(-np.abs(means), axis=1)[:, :3]
    np.testing.assert_allclose(found.frequency, [(first == i).any(1).mean() for i in range(30)])
    assert found.n_first == 3 and np.isclose(found.frequency.sum(), 3)
    assert sorted(found.rank) == list(range(1, 31))
    assert np.abs(found.score)[found.rank == 1] == np.abs(found.score).max()


def test_neither_order_nor_batches_matter() -> None:
    one, other = (
        tallied(order, n)[0] for order, n in ((np.arange(12), 12), (np.random.default_rng(1).permutation(12), 1))
    )
    for a, b in zip(one.arrays("x").values(), other.arrays("x").values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    a, b = (tallied(np.arange(12), 12, seed)[0].arrays("x")["x sums"] for seed in (3, 4))
    assert not np.allclose(a, b)


def test_of_one_unit_there_is_no_interval() -> None:
    tally, total = tallied(np.array([0, 4, 8]), 3)
    found = tally.summary(3, total, 1, 0.1)
    assert (found.low, found.high, found.frequency) == (None, None, None)
    np.testing.assert_allclose(found.score, SCORES[[0, 4, 8]].mean(0))


def test_sums_go_on_from_a_file(tmp_path: Path) -> None:
    weights = Weights(RESAMPLES, 0)

    def fed(sums: RunningSums, rows: slice) -> RunningSums:
        own = weights(UNITS[rows])
        sums.nodes["eap"].add(SCORES[rows, :5], own)
        sums.edges["eap"].add(SCORES[rows], own)
        sums.add("clean", SCORES[rows].sum())
        sums.add("weights", own.sum(1))
        return sums

    def empty() -> RunningSums:
        return RunningSums(5, {"eap": 30, "exact": None}, RESAMPLES)

    whole = fed(fed(empty(), slice(0, 7)), slice(7, 12))
    fed(empty(), slice(0, 7)).save(tmp_path / "7")
    gone_on = empty()
    gone_on.load(tmp_path / "7")
    fed(gone_on, slice(7, 12))
    assert list(whole.edges) == ["eap"]
    whole.save(tmp_path / "whole")
    gone_on.save(tmp_path / "gone on")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "gone on").read_bytes()
