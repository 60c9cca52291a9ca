"""A feature of a dictionary added to a model's states, and held at an activation, against hooks of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import capture
from capture.features.dictionary import Dictionary
from capture.features.saelens_folder import write_dictionary
from warehouse.errors import NotFoundError, UsageError

TEXTS = ["The lamp is lit by the door.", "A harbour is quiet in the rain, and the boats are in."]


def write(folder: Path, width: int, hook: str = "blocks.1.hook_resid_post", **more) -> Dictionary:
    of = torch.Generator().manual_seed(1)
    directions = torch.linalg.qr(torch.randn(width, width, generator=of)).Q[: width // 2]
    weights = {
        "W_enc": directions.T.contiguous(),
        "W_dec": directions,
        "b_enc": torch.zeros(width // 2),
        "b_dec": torch.zeros(width),
    }
    dictionary = Dictionary(folder.name, weights=weights, hook_name=hook, **({"architecture": "standard"} | more))
    folder.mkdir()
    write_dictionary(dictionary, folder)
    return dictionary


@pytest.fixture(scope="module")
def loaded(load_tiny: Callable):
    return load_tiny("llama")


@pytest.fixture(scope="module")
def width(loaded) -> int:
    return loaded.hf.config.hidden_size


def logits(loaded, change=None, module=None) -> torch.Tensor:
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt").input_ids
    handle = None
    if change is not None:

        def put(_, args, output):
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        handle = (module or loaded.hf.model.layers[1]).register_forward_hook(put)
    with torch.no_grad():
        found = loaded.hf(ids).logits
    if handle is not None:
        handle.remove()
    return found


@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"])
def test_added_and_clamped_as_the_formula_says(tmp_path: Path, loaded, width: int, hook: str) -> None:
    d = write(tmp_path / "d", width, hook)
    place, module = ("resid.post_mlp@1", None) if "resid" in hook else ("M1", loaded.hf.model.layers[1].mlp)
    with capture.intervene(loaded, f"{place}=add:{tmp_path / 'd'}#3*4"):
        added = logits(loaded)
    assert torch.equal(added, logits(loaded, lambda x: x + 4 * d.direction(3), module))
    with capture.intervene(loaded, f"{place}=clamp:{tmp_path / 'd'}#3*2.5"):
        clamped = logits(loaded)
    by_hand = logits(loaded, lambda x: x + (2.5 - d.encode(x)[..., 3])[..., None] * d.direction(3), module)
    assert torch.equal(clamped, by_hand)
    assert not torch.equal(clamped, logits(loaded))


def test_a_feature_is_as_active_as_it_is_held(tmp_path: Path, loaded, width: int) -> None:
    """Directions at right angles: no other feature changes, and this one is what it is held at, where it was active before."""
    d = write(tmp_path / "d", width)
    ids = loaded.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    before = d.encode(states(loaded, ids))
    with capture.intervene(loaded, f"resid.post_mlp@1[pos=1:]=clamp:{tmp_path / 'd'}#3*0.5"):
        after = d.encode(states(loaded, ids))
    active = before[1:, 3] > 0
    assert active.any() and not active.all()
    torch.testing.assert_close(after[1:, 3][active], torch.full((int(active.sum()),), 0.5))
    assert torch.equal(after[0], before[0])
    others = [i for i in range(d.n_features) if i != 3]
    torch.testing.assert_close(after[:, others], before[:, others], rtol=1e-5, atol=1e-5)


def states(loaded, ids: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []

    def keep(_, args, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = loaded.hf.model.layers[1].register_forward_hook(keep)
    with torch.no_grad():
        loaded.hf(ids)
    handle.remove()
    return kept[0].reshape(-1, kept[0].shape[-1])


def test_a_run_without_a_feature_differs_only_where_it_was_active(tmp_path: Path, loaded, width: int) -> None:
    last = loaded.hf.config.num_hidden_layers - 1
    d = write(tmp_path / "d", width, f"blocks.{last}.hook_resid_post")
    clean = capture.next_token(loaded, TEXTS, keep="hidden,resid", run="clean", root=tmp_path / "runs")
    spec = f"resid.post_mlp@{last}=clamp:{tmp_path / 'd'}#3*0"
    cut = capture.next_token_under(loaded, clean, spec)
    assert cut.meta.parents == ["clean"]
    assert cut.meta.option("dictionaries") == {str(tmp_path / "d"): d.weights_hash}
    features = capture.encode_features(clean, d)
    active = set(features.query("SELECT example_id, pos FROM features WHERE feature = 3").fetchall())
    query = "SELECT example_id, pos, loss, entropy FROM next_token ORDER BY ALL"
    changed = {a[:2] for a, b in zip(clean.query(query).fetchall(), cut.query(query).fetchall(), strict=True) if a != b}
    predicting = set(clean.query("SELECT example_id, pos FROM next_token").fetchall())
    assert changed == active & predicting and changed and changed != predicting


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resid.post_mlp@1=clamp:{d}#3", "say which activation the feature is held at"),
        ("resid.post_mlp@1=clamp:{d}#999*0", "no feature 999"),
        ("resid.post_mlp@1=add:{d}#x", "name a feature as FOLDER#FEATURE"),
        ("resid.post_mlp@0=add:{d}#3", "the features of d are directions of resid.post_mlp@1"),
        ("resid.post_mlp@1=clamp:{d}*0", "name a feature as FOLDER#FEATURE"),
        ("resid.post_mlp@1=clamp", "say from where: clamp:FOLDER#FEATURE"),
        ("resid.post_mlp@1=clamp:{d}-not#3*0", "."),
    ],
)
def test_what_is_no_feature_is_one_line(tmp_path: Path, loaded, width: int, spec: str, message: str) -> None:
    write(tmp_path / "d", width)
    with (
        pytest.raises((UsageError, NotFoundError), match=message) as told,
        capture.intervene(loaded, spec.format(d=tmp_path / "d")),
    ):
        pass
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm_rescale"])
def test_where_each_state_is_normalised_taking_a_feature_out_is_decoding_without_it(
    tmp_path: Path, loaded, width: int, normalize: str
) -> None:
    d = write(tmp_path / "d", width, normalize=normalize)

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        z = d.encode(x)
        rest = x - d.decode(z, x)
        z[..., 3] = 0
        return d.decode(z, x) + rest

    with capture.intervene(loaded, f"resid.post_mlp@1=clamp:{tmp_path / 'd'}#3*0"):
        taken_out = logits(loaded)
    torch.testing.assert_close(taken_out, logits(loaded, by_hand), rtol=1e-4, atol=1e-4)  # sums in another order
    assert not torch.allclose(taken_out, logits(loaded), rtol=1e-4, atol=1e-4)


def test_a_transcoder_is_not_clamped(tmp_path: Path, loaded, width: int) -> None:
    write(tmp_path / "d", width, "blocks.1.hook_resid_mid", architecture="transcoder", hook_out="blocks.1.hook_mlp_out")
    with (
        pytest.raises(UsageError, match="d is a transcoder"),
        capture.intervene(loaded, f"M1=clamp:{tmp_path / 'd'}#3*0"),
    ):
        pass


def test_traits_are_still_named_by_name(loaded, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), capture.intervene(loaded, "resid.post_mlp@1=add:kind*2", root=tmp_path):
        pass
