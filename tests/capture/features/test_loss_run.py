"""What a model loses when a dictionary stands in the place of its states, against the model itself with hooks of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import capture
from capture.features.dictionary import Dictionary
from warehouse import TraceStore, Warehouse
from warehouse.errors import UsageError
from warehouse.validation.validate import validate


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable) -> TraceStore:
    root = tmp_path_factory.mktemp("lost") / "runs"
    return capture_tiny(root, "llama", "llama", max_len=32, capture="resid")


@pytest.fixture(scope="module")
def width(captured: TraceStore) -> int:
    return captured.meta.model.stack("dec").d_model


def of_stream(name: str, w: torch.Tensor, back: torch.Tensor, hook: str = "blocks.1.hook_resid_post") -> Dictionary:
    weights = {"W_enc": w, "W_dec": back, "b_enc": torch.zeros(w.shape[1]), "b_dec": torch.zeros(back.shape[1])}
    return Dictionary(name, architecture="standard", weights=weights, hook_name=hook)


def lossless(width: int, name: str = "lossless", **more) -> Dictionary:
    """Has a feature for each direction of each axis, so that it gives every state back."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    return of_stream(name, both.T.contiguous(), both, **more)


def empty(width: int, name: str = "empty", **more) -> Dictionary:
    return of_stream(name, torch.zeros(width, 3), torch.zeros(3, width), **more)


def rough(width: int, name: str = "rough", **more) -> Dictionary:
    of = torch.Generator().manual_seed(0)
    w = torch.randn(width, 2 * width, generator=of) / width**0.5
    return of_stream(name, w, w.T.contiguous(), **more)


def losses(store: TraceStore, sae: str) -> list[tuple[float, ...]]:
    return store.query(
        "SELECT loss, reconstructed_loss, zeroed_loss, mean_kl, example_id, seq FROM reconstruction_losses "
        f"WHERE sae = '{sae}' ORDER BY example_id, seq"
    ).fetchall()


def test_the_loss_as_it_is_is_the_runs(captured: TraceStore, width: int) -> None:
    store = capture.evaluate_features(captured, rough(width), run="plain", sequences=100)
    recorded = captured.query(
        "SELECT avg(loss), example_id, seq FROM next_token GROUP BY example_id, seq ORDER BY example_id, seq"
    ).fetchall()
    assert [row[4:] for row in losses(store, "rough")] == [row[1:] for row in recorded]
    # Batches of other sizes, and sums in float64 there and float32 here.
    assert [row[0] for row in losses(store, "rough")] == pytest.approx([row[0] for row in recorded], rel=1e-4)
    assert not [check for check in validate(store.path) if check.passed is False]


def test_one_that_gives_everything_back_loses_nothing_and_an_empty_one_everything(
    captured: TraceStore, width: int
) -> None:
    store = capture.evaluate_features(captured, [lossless(width), empty(width)], run="ends")
    for loss, same, zeroed, kl, *_ in losses(store, "lossless"):
        assert same == pytest.approx(loss, rel=1e-5) and abs(kl) < 1e-6 and zeroed != same
    for loss, same, zeroed, kl, *_ in losses(store, "empty"):
        assert same == zeroed != loss and kl > 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.0.hook_resid_pre"])
def test_it_is_what_the_model_says_under_a_hook_of_its_own(
    tmp_path: Path, capture_tiny: Callable, load_tiny: Callable, kind: str, hook: str
) -> None:
    loaded = load_tiny(kind)
    captured = capture_tiny(tmp_path, "tiny", kind, max_len=24, capture="none", loaded=loaded)
    width = captured.meta.model.stack("dec").d_model
    d = rough(width, hook=hook)
    store = capture.evaluate_features(captured, d, model=loaded, batch_tokens=60)
    blocks = loaded.hf.model.layers if kind == "llama" else loaded.hf.transformer.h
    for loss, reconstructed, zeroed, kl, example, seq in losses(store, "rough"):
        ids = torch.tensor(captured.encodings(example, seq)["input_ids"])[None]
        logs = []
        for change in (lambda x: x, d.reconstruct, torch.zeros_like):

            def put(module, args, output, change=change):
                tensor = output[0] if isinstance(output, tuple) else output
                return (change(tensor), *output[1:]) if isinstance(output, tuple) else change(tensor)

            def put_before(module, args, kwargs, change=change):
                return (
                    ((change(args[0]), *args[1:]), kwargs)
                    if args
                    else (args, kwargs | {"hidden_states": change(kwargs["hidden_states"])})
                )

            if "resid_pre" in hook:
                handle = blocks[0].register_forward_pre_hook(put_before, with_kwargs=True)
            else:
                handle = (blocks[1].mlp if "mlp" in hook else blocks[1]).register_forward_hook(put)
            with torch.no_grad():
                logs.append(loaded.hf(ids).logits[0, :-1].double().log_softmax(-1))
            handle.remove()
        expected = [-x.gather(-1, ids[0, 1:, None]).mean().item() for x in logs]
        assert [loss, reconstructed, zeroed] == pytest.approx(expected, rel=1e-4)
        assert kl == pytest.approx((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item(), rel=1e-3, abs=1e-6)


def test_loss_recovered_weighs_sequences_by_their_predictions(captured: TraceStore, width: int) -> None:
    capture.encode_features(captured, rough(width), run="active")
    capture.evaluate_features(captured, rough(width), run="lost", sequences=100)
    with Warehouse(captured.path.parent) as wh:
        [(n, loss, zeroed, recovered)] = wh.sql(
            "SELECT n_predictions, loss, zeroed_loss, loss_recovered FROM dictionary_fit WHERE losses_run_id = 'lost'"
        ).fetchall()
        [(expected_n, mean)] = wh.sql("SELECT count(*), avg(loss) FROM next_token WHERE run_id = 'llama'").fetchall()
        [(reconstructed,)] = wh.sql(
            "SELECT sum(reconstructed_loss * n_predictions) / sum(n_predictions) FROM reconstruction_losses WHERE run_id = 'lost'"
        ).fetchall()
    assert n == expected_n and loss == pytest.approx(mean, rel=1e-4)
    assert recovered == pytest.approx((zeroed - reconstructed) / (zeroed - loss))


def test_what_cannot_be_changed_or_is_of_another_model_is_refused(
    captured: TraceStore, width: int, load_tiny: Callable
) -> None:
    with pytest.raises(UsageError, match="mlp_act of layer 1 cannot be changed"):
        capture.evaluate_features(captured, empty(4 * width, hook="blocks.1.mlp.hook_post"))
    with pytest.raises(UsageError, match="other weights"):
        capture.evaluate_features(captured, empty(width), model=load_tiny("gpt2"))
    with pytest.raises(UsageError, match="holds no states of a model"):
        capture.evaluate_features(capture.evaluate_features(captured, empty(width), run="one"), empty(width))
    assert not list(captured.path.parent.glob("*llama-features-evaluation*"))
