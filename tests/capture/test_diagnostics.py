"""Diagnostics against float64 arithmetic and against the model's own loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import zoo

from capture import diagnostics
from capture.body import Body, probe_ids
from capture.diagnostics import next_token_diagnostics
from capture.head import Head


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
    np.testing.assert_allclose(d.entropy[1], np.log(4096), rtol=1e-6)
    np.testing.assert_allclose(d.loss[1], np.log(4096), rtol=1e-6)


def test_nothing_to_predict_is_an_error() -> None:
    with pytest.raises(ValueError, match="no position"):
        found(torch.zeros(0, 10), torch.zeros(0, dtype=torch.long))


def test_the_models_own_loss(make_llama: Callable) -> None:
    from capture.body import Body
    from capture.head import Head

    model = make_llama()
    ids = torch.randint(1, model.config.vocab_size, (1, 60), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
        last = model.base_model(input_ids=ids).last_hidden_state[0]
    d = next_token_diagnostics(Head(Body(model)), last[:-1], ids[0, 1:], model.config.vocab_size, 5)
    assert d.loss.mean() == pytest.approx(loss, abs=1e-5)


def test_a_head_is_found_where_the_model_calls_its_body_by_another_name() -> None:
    """OPT's forward passes by the module that wraps its decoder."""
    model = zoo.build("opt")
    ids = probe_ids(model, 20)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True)
        found = Head(Body(model))(states.hidden_states[-1][0])
    torch.testing.assert_close(found, states.logits[0], rtol=1e-5, atol=1e-5)
