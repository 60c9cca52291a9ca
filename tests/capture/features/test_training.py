"""A top-k autoencoder finds directions that were planted in states, and goes on from a checkpoint as if nothing had been."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
from torch import Tensor

import capture
from capture.features import train_dictionary
from capture.features.saelens_folder import CONFIG, WEIGHTS, read_dictionary
from capture.features.topk_trainer import Recipe, TopKTrainer, geometric_median
from capture.features.train_dictionary import LOG, Options, measure
from capture.features.training_states import batches_from, find_states, some
from warehouse import Warehouse
from warehouse.errors import NotFoundError, TracesError, UsageError

D, PLANTED, ACTIVE = 32, 64, 3
LENGTHS = [40, 80, 60, 100] * 60


def planted(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return states, (n, D), of a few random directions each, far from zero, with a little noise; and the directions."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(PLANTED, D, generator=g), dim=1)
    chosen = torch.rand(n, PLANTED, generator=g).topk(ACTIVE).indices
    amounts = torch.rand(n, ACTIVE, generator=g) * 1.5 + 0.5
    z = torch.zeros(n, PLANTED).scatter_(1, chosen, amounts)
    return z @ directions + 0.02 * torch.randn(n, D, generator=g) + torch.randn(D, generator=g) * 2, directions


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("planted") / "runs"
    states, _ = planted(sum(LENGTHS))
    synthetic.add_vectors(home, "made", {1: states.numpy() * 10}, LENGTHS, shards=3)
    heads = np.random.default_rng(0).standard_normal((60, 4, 8), np.float32)
    synthetic.add_vectors(home, "heads", {1: heads}, [20] * 3, site="k", body="other")
    synthetic.add_vectors(home, "alike", {1: np.ones((60, 32), np.float32)}, [20] * 3, body="fifth")
    synthetic.add_vectors(home, "first", {0: heads.reshape(60, 32)}, [20] * 3, body="fourth")
    synthetic.add_vectors(home, "single", {1: heads.reshape(60, 32)}, [60], body="third", shards=1)
    return home


@pytest.fixture
def wh(root: Path) -> Iterator[Warehouse]:
    with Warehouse(root) as found:
        yield found


QUICK: dict[str, Any] = {
    "layer": 1, "features": 96, "k": 4, "tokens": 20_000, "batch_size": 512, "lr": 3e-3, "where": "pos > 0", "normalize": "none"
}  # fmt: skip


def test_planted_directions_are_found(root: Path, tmp_path: Path) -> None:
    _, directions = planted(1)
    trained = capture.train_dictionary("made", tmp_path / "sae", **QUICK | {"tokens": 120_000}, root=root)
    cosines = (directions @ trained.dictionary.weights["W_dec"].T).amax(1)
    assert (cosines >= 0.95).float().mean() > 0.9 and cosines.mean() >= 0.95
    # what one of 3 features is too small to matter for, and the noise, is left
    assert trained.explained_variance > 0.9
    assert trained.l0 <= 4 and trained.held_out_examples == 24


def test_a_step_is_that_of_the_loss_written_out() -> None:
    """With all features dead, so that the second reconstruction counts; against dense products and autograd."""
    x, _ = planted(256)
    trainer = TopKTrainer(x, Recipe(96, 4, 1e-3, 100, dead_after=0))
    w = {name: t.detach().clone().requires_grad_() for name, t in trainer.weights.items()}
    assert torch.equal(w["W_enc"], w["W_dec"].T) and torch.allclose(w["b_dec"], geometric_median(x))
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    z = torch.where(pre >= pre.topk(4).values[:, -1:], pre.relu(), 0)
    error = x - (z @ w["W_dec"] + w["b_dec"])
    second = torch.where(pre >= pre.topk(D // 2).values[:, -1:], pre.relu(), 0) @ w["W_dec"]
    left = error.detach()
    unexplained = error.square().sum() / (x - x.mean(0)).square().sum()
    loss = unexplained + (left - second).square().sum() / left.square().sum() / 32
    loss.backward()
    grads = {name: t.grad for name, t in w.items()}
    along = (grads["W_dec"] * w["W_dec"]).sum(1, keepdim=True) * w["W_dec"]
    grads["W_dec"] = grads["W_dec"] - along
    step = trainer.step(x)
    assert step.unexplained == pytest.approx(unexplained.item(), rel=1e-5) and step.dead == 96
    length = torch.stack([g.norm() for g in grads.values()]).norm().clamp(min=1)
    for name, t in trainer.weights.items():
        torch.testing.assert_close(t.grad, grads[name] / length, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(trainer.weights["W_dec"].norm(dim=1), torch.ones(96))


def test_what_does_not_fire_is_dead_and_comes_back() -> None:
    x, _ = planted(4096)
    trainer = TopKTrainer(x, Recipe(96, 4, 3e-3, 400, dead_after=2048))
    with torch.no_grad():
        trainer.weights["b_enc"][:32] = -2.0
    seen = [trainer.step(x[i % 8 * 512 :][:512]).dead for i in range(300)]
    assert max(seen) >= 32 and seen[-1] < max(seen) / 2


@pytest.mark.parametrize("normalize", ["layer_norm", "none"])
def test_the_folder_has_the_dictionary_the_log_and_what_it_was_made_of(
    normalize: str, root: Path, wh: Warehouse, tmp_path: Path
) -> None:
    trained = capture.train_dictionary("made", tmp_path / "sae", **QUICK | {"normalize": normalize}, root=root)
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == sorted([CONFIG, WEIGHTS, LOG])
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]
    again = read_dictionary(tmp_path / "sae")
    assert again.weights_hash == trained.dictionary.weights_hash
    assert (again.site.site, again.site.layer) == ("resid.post_mlp", 1)  # type: ignore[union-attr]
    assert (again.model_name, again.prepend_bos, again.context_size, again.normalize) == ("made", False, 100, normalize)
    said = json.loads((tmp_path / "sae" / CONFIG).read_text())["metadata"]["trace_warehouse"]
    assert said["explained_variance"] == trained.explained_variance and list(said["runs"]) == ["made"]
    log = [json.loads(line) for line in (tmp_path / "sae" / LOG).read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 40)) and log[-1]["loss"] < log[0]["loss"]
    assert set(log[0]) == {"step", "tokens", "loss", "explained_variance", "l0", "dead"}
    held = find_states(wh, ["made"], "resid.post_mlp", 1, "pos > 0", 0.1, 0).held_out
    explained, l0 = measure(again, some(held, 1 << 20))
    assert (explained, l0) == (pytest.approx(trained.explained_variance, abs=1e-6), pytest.approx(trained.l0))


def test_no_example_is_in_both_parts(wh: Warehouse) -> None:
    states = find_states(wh, ["made"], "resid.post_mlp", 1, "pos % 2 = 1", 0.1, seed=3)
    train, held = (set(part.keys()["example_id"].to_pylist()) for part in (states.train, states.held_out))
    assert not train & held and len(train | held) == len(LENGTHS) and len(held) == states.n_held_out == 24
    assert set(states.train.keys()["pos"].to_numpy() % 2) == {1}
    other = find_states(wh, ["made"], "resid.post_mlp", 1, "pos % 2 = 1", 0.1, seed=4)
    assert set(other.held_out.keys()["example_id"].to_pylist()) != held


def test_batches_go_on_from_any_token_and_have_every_state_once_a_pass(wh: Warehouse) -> None:
    train = find_states(wh, ["made"], "resid.post_mlp", 1, "pos > 0", 0.1, 0).train
    size, n = 700, 3 * train.tokens // 700
    batches = batches_from(train, size)
    whole = torch.cat([next(batches) for _ in range(n)])
    for skip in (0, size, train.tokens, 2 * train.tokens + 5):
        part = next(batches_from(train, size, skip))
        assert torch.equal(part, whole[skip : skip + size])
    first, second = (whole[i * train.tokens : (i + 1) * train.tokens] for i in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first[:, 0].sort().values, second[:, 0].sort().values)


SHORT = QUICK | {"tokens": 8000}


class Stopped(Exception):
    pass


def stop_at(step: int) -> Callable[[Any], None]:
    def report(p: train_dictionary.DictionaryProgress) -> None:
        if p.step == step:
            raise Stopped

    return report


def test_an_interrupted_training_ends_as_an_undisturbed_one(
    wh: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(**SHORT)
    whole = train_dictionary.train(wh, ["made"], options, tmp_path / "sae0")
    monkeypatch.setattr(train_dictionary, "_CHECKPOINT_SECONDS", 0)
    out = tmp_path / "sae"
    for step in (4, 9):
        with pytest.raises(Stopped):
            train_dictionary.train(wh, ["made"], options, out, report=stop_at(step))
        assert not out.exists()
    with pytest.raises(UsageError, match="with other data or options"):
        train_dictionary.train(wh, ["made"], Options(**SHORT | {"k": 5}), out)
    seen: list[int] = []
    resumed = train_dictionary.train(wh, ["made"], options, out, report=lambda p: seen.append(p.resumed))
    assert seen[0] == 8 and len(seen) == 15 - 8
    assert resumed.dictionary.weights_hash == whole.dictionary.weights_hash
    assert (out / LOG).read_text() == (tmp_path / "sae0" / LOG).read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sae", "sae0"]
    other = train_dictionary.train(wh, ["made"], Options(**SHORT | {"seed": 1}), tmp_path / "other")
    assert other.dictionary.weights_hash != whole.dictionary.weights_hash


def test_with_force_another_training_begins_anew(
    wh: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_dictionary, "_CHECKPOINT_SECONDS", 0)
    with pytest.raises(Stopped):
        train_dictionary.train(wh, ["made"], Options(**SHORT), tmp_path / "sae", report=stop_at(3))
    changed = Options(**SHORT | {"k": 2})
    train_dictionary.train(wh, ["made"], changed, tmp_path / "sae", force=True)
    with pytest.raises(UsageError, match="choose another --out, or add --force"):
        train_dictionary.train(wh, ["made"], changed, tmp_path / "sae")
    train_dictionary.train(wh, ["made"], Options(**SHORT), tmp_path / "sae", force=True)
    assert read_dictionary(tmp_path / "sae").k == 4
    (tmp_path / "sae" / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="holds other files than a dictionary"):
        train_dictionary.train(wh, ["made"], changed, tmp_path / "sae", force=True)


def test_a_damaged_checkpoint_is_said_and_two_trainings_keep_apart(
    wh: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_dictionary, "_CHECKPOINT_SECONDS", 0)
    out, options, said = tmp_path / "sae", Options(**SHORT), []

    def train_it_too(p: train_dictionary.DictionaryProgress) -> None:
        if p.step == 3:
            with pytest.raises(TracesError, match="Another process is training sae"):
                train_dictionary.train(wh, ["made"], options, out, force=True)
            said.append(p.step)
            raise Stopped

    with pytest.raises(Stopped):
        train_dictionary.train(wh, ["made"], options, out, report=train_it_too)
    assert said == [3]
    state = tmp_path / "sae.training" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(UsageError, match="start again with --force"):
        train_dictionary.train(wh, ["made"], options, out)
    train_dictionary.train(wh, ["made"], options, out, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def test_several_runs_are_trained_on_and_each_has_to_have_the_states(root: Path, tmp_path: Path) -> None:
    states, _ = planted(600, seed=4)
    synthetic.add_vectors(root, "more", {1: states.numpy() * 10}, [60] * 10)
    synthetic.add_vectors(root, "elsewhere", {2: states.numpy() * 10}, [60] * 10)
    trained = capture.train_dictionary(["made", "more"], tmp_path / "sae", **SHORT, root=root)
    said = json.loads((tmp_path / "sae" / CONFIG).read_text())["metadata"]["trace_warehouse"]
    assert sorted(said["runs"]) == ["made", "more"] and trained.held_out_examples == 24  # examples of one id are one
    with pytest.raises(UsageError, match="Run 'elsewhere' has not stored resid.post_mlp of layer 1"):
        capture.train_dictionary(["made", "elsewhere"], tmp_path / "other", **SHORT, root=root)


def test_heads_are_read_one_after_the_other(root: Path, tmp_path: Path) -> None:
    options = QUICK | {"site": "k", "features": 40, "tokens": 2000, "batch_size": 50, "dtype": "bfloat16"}
    trained = capture.train_dictionary("heads", tmp_path / "sae", **options, root=root)
    assert trained.dictionary.d_in == 32 and trained.dictionary.hook_name == "blocks.1.attn.hook_rot_k"
    assert read_dictionary(tmp_path / "sae").dtype == torch.bfloat16


@pytest.mark.parametrize("said", [{"layer": 0}, {"site": "resid.pre_attn"}])
def test_the_state_that_enters_a_block_is_what_leaves_the_one_before(
    said: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    options = QUICK | {"features": 40, "tokens": 500, "batch_size": 50} | said
    trained = capture.train_dictionary("first", tmp_path / "sae", **options, root=root)
    assert trained.dictionary.hook_name == "blocks.0.hook_resid_post"


@pytest.mark.parametrize(
    "run, said, error, says",
    [
        ("made", {"layer": 3}, UsageError, "layer 3"),
        ("made", {"layer": None}, UsageError, "layer"),
        ("made", {"site": "heads"}, UsageError, "no hook for heads"),
        (
            "made",
            {"site": "mlp_out"},
            UsageError,
            "has not stored mlp_out of layer 1. Capture it: traces capture encode … --capture mlp_out",
        ),
        ("none", {}, NotFoundError, "No run 'none'"),
        ("made", {"where": "pos >"}, UsageError, "."),
        ("made", {"where": "pos > 5000"}, UsageError, "leaves no tokens"),
        ("single", {}, UsageError, "1 example with tokens that where leaves"),
        ("alike", {"tokens": 600}, UsageError, "All states that where leaves are alike"),
        ("made", {"k": 97}, UsageError, "k 97: there are only 96"),
        ("made", {"k": 0}, UsageError, "k 0: at least 1"),
        ("made", {"lr": -1.0}, UsageError, "lr -1"),
        ("made", {"held_out": 1.0}, UsageError, "held_out 1: write a share"),
        ("made", {"tokens": 10}, UsageError, "batch_size 512: more than tokens 10"),
        ("made", {"normalize": "sphere"}, NotFoundError, "No normalisation 'sphere'"),
        ("made", {"dtype": "int8"}, NotFoundError, "No dtype 'int8'"),
        ("made", {"device": "tpu"}, UsageError, "device"),
        ("made", {"lr": 1e30}, TracesError, "diverged"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    run: str, said: dict[str, Any], error: type[Exception], says: str, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says) as raised:
        capture.train_dictionary(run, tmp_path / "sae", **QUICK | said, root=root)
    assert "\n" not in str(raised.value) or "where" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_place_for_a_dictionary_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for out, says in (
        (tmp_path / "file", "is no folder"),
        (root / "sae", "is in the warehouse"),
        (tmp_path / "a" / "b", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=says):
            capture.train_dictionary("made", out, **QUICK, force=True, root=root)
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(UsageError, match="Name a run, or give a TraceStore, not a int"):
        capture.train_dictionary(5, tmp_path / "sae", **QUICK, root=root)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Name a run to train on"):
        capture.train_dictionary([], tmp_path / "sae", **QUICK, root=root)


@pytest.mark.slow
def test_real_states_are_explained_better_than_by_as_many_principal_components(
    smollm2: object, wikitext: Path, capture_tiny: Callable[..., object], tmp_path: Path
) -> None:
    """SmolLM2's layer 15: 32 of 1,024 features explain more of held-out paragraphs than the 32 largest components of the others."""
    capture.next_token(
        smollm2, capture.open_dataset("wikitext2", from_=str(wikitext.parent), split="validation"), keep="resid", max_len=64, limit=200,
        run="wiki", root=tmp_path / "runs",
    )  # fmt: skip
    trained = capture.train_dictionary(
        "wiki", tmp_path / "sae", layer=15, features=1024, tokens=200_000, batch_size=1024, root=tmp_path / "runs"
    )
    with Warehouse(tmp_path / "runs") as wh:
        states = find_states(wh, ["wiki"], "resid.post_mlp", 15, train_dictionary.DEFAULT_WHERE, 0.1, 0)
        train, held = some(states.train, 1 << 20), some(states.held_out, 1 << 20)
    mean = train.mean(0)
    components = torch.linalg.svd(train - mean, full_matrices=False).Vh[:32]
    left = held - mean - (held - mean) @ components.T @ components
    by_components = 1 - (left.square().sum() / (held - held.mean(0)).square().sum()).item()
    assert trained.explained_variance > by_components + 0.1
    assert trained.dead < 100
