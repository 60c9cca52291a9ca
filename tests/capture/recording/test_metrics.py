"""The metrics of a task: each is its formula, row by row, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from capture.recording.metrics import METRICS, Targets, log_probs, metric

SIGNED = [{3: 1, 5: -1}, {0: 1, 1: 1, 2: -1, 9: -1, 4: -1}, {7: 1}]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn((3, 11), generator=torch.Generator().manual_seed(0)) * 4


def test_each_metric_is_its_formula(logits: torch.Tensor) -> None:
    wide = logits.double().numpy()
    clean = wide[::-1].copy()
    for i, signed in enumerate(SIGNED):
        right, wrong = ([t for t, s in signed.items() if s == sign] for sign in (1, -1))
        p = softmax(wide[i])
        expected = {
            "logit_diff": wide[i, right].mean() - (wide[i, wrong].mean() if wrong else 0),
            "prob_diff": p[right].sum() - p[wrong].sum(),
            "logprob": logsumexp(wide[i, right]) - logsumexp(wide[i]),
            "kl": (softmax(clean[i]) * (log_softmax(clean[i]) - log_softmax(wide[i]))).sum(),
        }
        for name, value in expected.items():
            found = metric(name, logits, Targets.of(SIGNED), log_probs(torch.from_numpy(clean)))
            assert found.dtype == np.float64 and found.shape == (3,)
            assert found[i] == pytest.approx(value, abs=1e-12) and (value != 0 or name == "kl")


def test_rows_do_not_depend_on_each_other_or_on_padding(logits: torch.Tensor) -> None:
    targets, rows = Targets.of(SIGNED), torch.tensor([2, 0, 2])
    for name in METRICS:
        whole = metric(name, logits, targets, log_probs(logits.flip(0)))
        picked = metric(name, logits[rows], targets[rows], log_probs(logits.flip(0))[rows])
        np.testing.assert_allclose(picked, whole[rows.numpy()], rtol=1e-14)
        alone = metric(name, logits[2:], Targets.of(SIGNED[2:]), log_probs(logits.flip(0))[2:])
        np.testing.assert_allclose(alone, whole[2:], rtol=1e-14)


def test_a_distribution_diverges_from_itself_by_nothing_at_all(logits: torch.Tensor) -> None:
    logits[0, 4] = -torch.inf  # a token that the model rules out
    assert metric("kl", logits, Targets.of(SIGNED), log_probs(logits)).tolist() == [0, 0, 0]
    assert metric("kl", logits, Targets.of(SIGNED), log_probs(logits.roll(1, 0)))[1:].min() > 0


def test_what_cannot_be_computed_is_an_error(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="compares with a distribution"):
        metric("kl", logits, Targets.of(SIGNED))
    with pytest.raises(ValueError, match="no metric 'loss'"):
        metric("loss", logits, Targets.of(SIGNED))
