"""Diagnostics against float64 arithmetic and against the model's own loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import torch
import zoo

from capture.model.body import Body, probe_ids
from capture.model.lm_head import LMHead
from capture.recording import diagnostics
from capture.recording.diagnostics import divergence, next_token_diagnostics, read
from warehouse.errors import TracesError


def found(logits: torch.Tensor, true_ids: torch.Tensor, k: int = 5):
    """Diagnostics of given logits: the head looks rows up by the index that stands for the hidden state."""
    rows = torch.arange(len(logits))[:, None]
    return next_token_diagnostics(lambda r: logits[r[:, 0]].clone(), rows, true_ids, logits.shape[1], k)


@pytest.mark.parametrize("vocabulary", [7, 64, 400, 1000, 50257])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_against_float64(vocabulary: int, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_SLICE_BYTES", vocabulary * 4 * 11)
    monkeypatch.setattr(diagnostics, "_PIECE_BYTES", vocabulary * 4 * 3)
    torch.manual_seed(0)
    logits = torch.randn(32, vocabulary) * spread
    true = torch.randint(0, vocabulary, (32,))
    d = found(logits, true)
    x = logits.double().numpy()
    log_p = x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)
    p = np.exp(log_p)
    at = np.arange(32), true.numpy()
    order = np.argsort(-x, axis=1, kind="stable")[:, : min(5, vocabulary)]
    # Float32 sums over the vocabulary, against float64; below 1e-37 float32 ends.
    np.testing.assert_allclose(d.loss, -log_p[at], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d.entropy, -(p * log_p).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d.true_prob, p[at], rtol=1e-4, atol=1e-37)
    np.testing.assert_array_equal(d.true_rank, (x > x[at][:, None]).sum(1) + 1)
    np.testing.assert_array_equal(d.topk_ids, order)
    np.testing.assert_allclose(d.topk_probs, np.take_along_axis(p, order, 1), rtol=1e-4, atol=1e-37)
    np.testing.assert_array_equal(d.pred_id, x.argmax(1))
    assert (d.entropy >= 0).all()


F32 = np.finfo(np.float32)


def adversarial(vocabulary: int, rows: int, seed: int) -> torch.Tensor:
    """Logits as models give them at their worst: of any size that float32 has, with many ties, with tokens that are ruled out by
    -infinity or by float32's lowest number, with one token that has all, or with all tokens equal."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, vocabulary)) * 10.0 ** rng.uniform(-30, 38, (rows, 1))
    for row, kind in zip(x, rng.integers(0, 8, rows), strict=True):
        some = rng.random(vocabulary) < rng.random()
        if kind == 1:
            row[:] = np.round(rng.standard_normal(vocabulary) * 3) / 4  # as bfloat16 rounds them
        elif kind == 2:
            row[some] = rng.choice([-np.inf, F32.min])
        elif kind == 3:
            row[:] = rng.choice([0.0, -0.0, 1e30, F32.min])
        elif kind == 4:
            row[:] = rng.choice([-np.inf, F32.min, -1e4])
        elif kind == 5:
            row[:] = np.where(some, F32.max, F32.min)
        elif kind == 6:
            row[:] = rng.standard_normal(vocabulary) * 10.0 ** rng.uniform(0, 4)
            row[some] = -np.inf
        row[rng.integers(vocabulary)] = rng.choice([0.0, 5.0, row.max() if np.isfinite(row.max()) else 1.0])
    return torch.from_numpy(np.clip(x, -np.inf, F32.max).astype(np.float32))


def in_float64(logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """ln p and p, of logits that may be -infinity."""
    x = logits.double().numpy()
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    return log_p, np.exp(log_p)


@pytest.mark.parametrize("vocabulary", [1, 2, 37, 64, 1000, 2049])
def test_any_logits_have_the_diagnostics_that_float64_gives(vocabulary: int) -> None:
    logits = adversarial(vocabulary, 60, vocabulary)
    true = torch.from_numpy(np.random.default_rng(1).integers(0, vocabulary, len(logits)))
    d = found(logits, true, k=7)
    log_p, p = in_float64(logits)
    at = np.arange(len(logits)), true.numpy()
    entropy = scipy.special.entr(p).sum(1)
    order = np.argsort(-logits.double().numpy(), axis=1, kind="stable")[:, :7]
    with np.errstate(over="ignore"):  # a difference that float32 cannot hold is infinite, as the column says
        loss = (-log_p[at]).astype(np.float32)
    np.testing.assert_allclose(d.loss, loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d.entropy, entropy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d.true_prob, p[at], rtol=1e-4, atol=1e-37)
    np.testing.assert_allclose(d.topk_probs, np.take_along_axis(p, order, 1), rtol=1e-4, atol=1e-37)
    np.testing.assert_array_equal(d.topk_ids, order)
    np.testing.assert_array_equal(d.pred_id, order[:, 0])
    np.testing.assert_array_equal(d.true_rank, (logits > logits[at][:, None]).sum(1) + 1)
    for column in (d.loss, d.entropy, d.true_prob, d.pred_prob, d.topk_probs):
        assert not np.signbit(column).any(), "no negative number, and no -0"
    assert d.topk_probs.max() <= 1 and (np.diff(d.topk_probs) <= 0).all()
    assert (d.entropy <= np.log(vocabulary) + 1e-5).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_without_a_distribution_is_told_by_every_number(bad: float) -> None:
    """So that one look at the losses finds it; and it leaves the other rows alone."""
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    logits[1, 77] = bad
    d = found(logits, torch.tensor([1, 2, 77]))
    for column in (d.loss, d.entropy, d.true_prob, d.pred_prob):
        assert np.isnan(column).tolist() == [False, True, False]
    assert np.isnan(found(torch.full((1, 9), -torch.inf), torch.tensor([3])).loss).all()


def test_a_divergence_is_what_float64_gives_and_infinite_where_it_is() -> None:
    p, q = adversarial(300, 400, 0), adversarial(300, 400, 1)
    p, q = (x[x.abs().where(x > -torch.inf, 0).amax(1) < 1e4] for x in (p, q))
    n = min(len(p), len(q))
    p, q = torch.cat([p[:n], p[:n]]), torch.cat([q[:n], p[:n]])  # others, and the same
    (log_p, probs), (log_q, _) = in_float64(p), in_float64(q)
    seen = probs > 1e-45  # less than that, float32 has not
    with np.errstate(invalid="ignore"):
        wanted = np.where(seen, probs * (log_p - log_q), 0).sum(1)
    final, scratch, true = torch.empty_like(p), torch.empty_like(p), torch.zeros(len(p), dtype=torch.long)
    reading = read(p.clone(), true, 1, final, scratch)
    logits = q.clone()
    other = read(logits, true, 1, scratch, scratch)
    kl = divergence(final, reading.entropy, logits, other.log_sum, scratch).numpy()
    assert np.isinf(kl).any() and (kl == 0).any() and np.isfinite(kl).sum() > n
    np.testing.assert_allclose(kl, wanted, rtol=1e-4, atol=2e-3)  # logits of 1e4 in float32
    assert not np.signbit(kl).any()


def test_equal_logits_go_by_id_and_share_a_rank() -> None:
    logits = torch.zeros(1, 500)
    logits[0, [490, 3, 77]] = 1.0
    d = found(logits, torch.tensor([77]), k=3)
    assert d.topk_ids.tolist() == [[3, 77, 490]]
    assert d.pred_id.tolist() == [3]
    assert d.true_rank.tolist() == [1]


def test_certainty_is_exact() -> None:
    logits = torch.full((2, 4096), -1e4)
    logits[0, 5] = 0.0
    logits[1, :] = 7.0
    d = found(logits, torch.tensor([5, 0]))
    assert d.loss[0] == 0 and d.entropy[0] == 0 and d.true_prob[0] == 1
    assert d.topk_ids[1].tolist() == [0, 1, 2, 3, 4], "the lowest ids among equals, wherever they lie"
    np.testing.assert_allclose(d.entropy[1], np.log(4096), rtol=1e-6)
    np.testing.assert_allclose(d.loss[1], np.log(4096), rtol=1e-6)


def test_nothing_to_predict_is_an_error() -> None:
    with pytest.raises(ValueError, match="no position"):
        found(torch.zeros(0, 10), torch.zeros(0, dtype=torch.long))


def test_the_models_own_loss(make_llama: Callable) -> None:
    from capture.model.body import Body
    from capture.model.lm_head import LMHead

    model = make_llama()
    ids = torch.randint(1, model.config.vocab_size, (1, 60), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
        last = model.base_model(input_ids=ids).last_hidden_state[0]
    d = next_token_diagnostics(LMHead(Body(model)), last[:-1], ids[0, 1:], model.config.vocab_size, 5)
    assert d.loss.mean() == pytest.approx(loss, abs=1e-5)


def test_a_head_is_found_where_the_model_calls_its_body_by_another_name() -> None:
    """OPT's forward passes by the module that wraps its decoder."""
    model = zoo.build("opt")
    ids = probe_ids(model, 20)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True)
        found = LMHead(Body(model))(states.hidden_states[-1][0])
    torch.testing.assert_close(found, states.logits[0], rtol=1e-5, atol=1e-5)


def test_a_head_need_not_be_as_wide_as_the_embedding(make_llama: Callable) -> None:
    """It may have fewer tokens, as where an embedding has some that are only read, or more."""
    for width in (390, 408):
        model = make_llama()
        model.lm_head = torch.nn.Linear(32, width, bias=False)
        head = LMHead(Body(model))
        hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
        true = torch.tensor([0, 1, 2, 387, 388, 389])
        d = next_token_diagnostics(head, hidden, true, head.vocabulary, 500)
        log_p = torch.log_softmax(model.lm_head(hidden).detach(), 1)
        assert d.topk_ids.shape == (6, width)
        np.testing.assert_allclose(d.loss, -log_p[torch.arange(6), true], rtol=1e-5)
        head.check_targets(np.array([-1, 389]))
        if width == 390:
            with pytest.raises(TracesError, match="has no logit for token 390: its head predicts 390 tokens"):
                head.check_targets(np.array([390]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_head_whose_weights_are_not_numbers_is_named(make_llama: Callable, bad: float) -> None:
    model = make_llama()
    with torch.no_grad():
        model.lm_head.weight[17, 3] = bad
    with pytest.raises(TracesError, match="its weights hold NaN or infinity in lm_head.weight"):
        LMHead(Body(model))
