"""Divergences of distributions against float64, at the ends of what logits may be."""

from __future__ import annotations

import math

import pytest
import torch

from capture.comparisons import divergence
from capture.comparisons.divergence import compare_logits


def wanted(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    p, q = (x.double().log_softmax(1) for x in (a, b))
    return (p.exp() * (p - q)).sum(1), (q.exp() * (q - p)).sum(1)


@pytest.mark.parametrize("vocabulary", [2, 5, 400, 401])
@pytest.mark.parametrize("shift", [0.0, 30.0, -200.0, 500.0])
def test_they_are_those_of_float64(vocabulary: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd and even vocabularies, a shift of one side's logits, and pieces of a few rows."""
    monkeypatch.setattr(divergence, "_PIECE_BYTES", 3 * 4 * vocabulary)
    generator = torch.Generator().manual_seed(0)
    a, b = (3 * torch.randn((10, vocabulary), generator=generator) for _ in range(2))
    a = a + shift
    forth, back = wanted(a, b)
    found = compare_logits(a.clone(), b.clone())
    tolerance = 2e-6 * max(1.0, abs(shift))  # logits of 500 have steps of 3e-5
    torch.testing.assert_close(found.kl.double(), forth, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(found.kl_reverse.double(), back, rtol=1e-4, atol=tolerance)
    assert found.top1_id.tolist() == a.argmax(1).tolist() and found.other_top1_id.tolist() == b.argmax(1).tolist()
    torch.testing.assert_close(found.top1_prob.double(), a.double().softmax(1).amax(1), rtol=1e-4, atol=0)


def test_equal_rows_are_not_apart_at_all() -> None:
    a = 30 * torch.randn((7, 999), generator=torch.Generator().manual_seed(0))
    found = compare_logits(a.clone(), a.clone())
    assert (found.kl == 0).all() and (found.kl_reverse == 0).all()


def test_the_first_of_equals_is_the_likeliest() -> None:
    a, b = torch.tensor([[0.0, 2.0, 2.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    found = compare_logits(a, b)
    assert (found.top1_id.item(), found.other_top1_id.item()) == (1, 0)


def test_a_token_that_one_model_rules_out() -> None:
    """What the first allows and the other does not is infinitely far; what both rule out adds nothing."""
    inf = math.inf
    a = torch.tensor([[0.0, 1.0, -inf], [0.0, 1.0, -inf], [0.0, 1.0, 2.0]])
    b = torch.tensor([[0.0, 1.0, -inf], [0.5, 0.0, 1.0], [0.5, 0.0, -inf]])
    found = compare_logits(a.clone(), b.clone())
    assert found.kl[0] == 0 and found.kl_reverse[0] == 0
    p, q = torch.tensor([0.0, 1.0]).softmax(0), torch.tensor([0.5, 0.0, 1.0]).softmax(0)
    assert found.kl[1].item() == pytest.approx(float((p * (p / q[:2]).log()).sum()), abs=1e-6)
    assert found.kl_reverse[1] == inf and found.kl[2] == inf and found.kl_reverse[2].isfinite()


def test_what_is_no_distribution_is_told_by_its_probability() -> None:
    a = torch.tensor([[0.0, math.nan], [0.0, math.inf], [0.0, 1.0]])
    found = compare_logits(a, torch.zeros((3, 2)))
    assert found.top1_prob.isnan().tolist() == [True, True, False] and found.other_top1_prob.isfinite().all()
