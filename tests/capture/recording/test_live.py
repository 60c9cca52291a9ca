"""Recording without a run: what is seen is what the model computed, bit for bit, and what a run of the same text would hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from zoo import FAMILIES, build

import capture
from capture.model.loading import Loaded
from capture.recording.live import parse_sites
from warehouse.errors import NotFoundError, UsageError


def inputs(model: Loaded, *texts: str) -> dict[str, torch.Tensor]:
    rows = [model.tokenizer(t)["input_ids"] for t in texts]
    n = max(map(len, rows))
    ids = torch.tensor([r + [0] * (n - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (n - len(r)) for r in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_states_and_attention_are_the_models_own(load_tiny: Callable[..., Loaded], kind: str) -> None:
    model = load_tiny(kind)
    batch = inputs(model, "The lamp was lit at dusk.", "Nobody")
    with capture.record(model, "hidden,resid,resid.pre_attn,attn,q@1,mlp_out@0,2,attn_out@last") as seen:
        out = model.hf(**batch, output_hidden_states=True, output_attentions=True)
    for layer, state in enumerate(out.hidden_states):
        assert torch.equal(seen["hidden", layer], state)
    for layer, matrix in enumerate(out.attentions):
        assert torch.equal(seen["attn", layer], matrix)
        assert torch.equal(seen["resid.pre_attn", layer], out.hidden_states[layer])
        assert (
            torch.equal(seen["resid.post_attn", layer], seen["resid.pre_attn", layer] + seen["attn_out", layer])
            if (
                "attn_out",
                layer,
            )
            in seen
            else True
        )
    assert torch.equal(seen["resid.embed", None], out.hidden_states[0])
    assert {name for name in seen if name[0] == "mlp_out"} == {("mlp_out", 0), ("mlp_out", 2)}
    assert torch.equal(seen["resid.post_mlp", 2], seen["resid.post_attn", 2] + seen["mlp_out", 2])
    heads = model.hf.config.num_attention_heads
    assert seen["q", 1].shape == (*batch["input_ids"].shape, heads, model.hf.config.hidden_size // heads)


def test_nothing_of_the_model_changes_and_nothing_is_seen_after(load_tiny: Callable[..., Loaded]) -> None:
    model = load_tiny()
    batch = inputs(model, "The lamp was lit.")
    plain = model.hf(**batch).logits
    implementation = model.hf.config._attn_implementation
    with capture.record(model, "resid.post_mlp@1") as seen:
        recorded = model.hf(**batch).logits
        first = seen["resid.post_mlp", 1]
        model.hf(**inputs(model, "Nobody came to the lamp."))
    assert torch.equal(plain, recorded) and seen["resid.post_mlp", 1].shape != first.shape
    last = seen["resid.post_mlp", 1]
    model.hf(**batch)
    assert seen["resid.post_mlp", 1] is last and model.hf.config._attn_implementation == implementation
    first.zero_()  # a copy: the model's own is not the user's to break
    assert torch.equal(model.hf(**batch).logits, plain)


def test_gradients_flow_through_what_is_seen(load_tiny: Callable[..., Loaded]) -> None:
    model = load_tiny()
    model.hf.requires_grad_(True)
    try:
        with capture.record(model, "resid.post_mlp@1") as seen:
            model.hf(**inputs(model, "The lamp"))
        (gradient,) = torch.autograd.grad(seen["resid.post_mlp", 1].sum(), model.hf.model.layers[0].mlp.up_proj.weight)
        assert gradient.abs().sum() > 0
    finally:
        model.hf.requires_grad_(False)


def test_generation_shows_the_last_forward_pass(load_tiny: Callable[..., Loaded]) -> None:
    """With a cache a step reads one token; a step is a pass of its own, though no argument says so."""
    model = load_tiny()
    batch = inputs(model, "The lamp")
    with capture.record(model, "resid.post_mlp") as seen:
        model.hf.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    assert {name: tuple(x.shape[:2]) for name, x in seen.items()} == {("resid.post_mlp", i): (1, 1) for i in range(3)}


NO_BLOCKS = {"flaubert", "funnel", "led", "squeezebert", "xlm"}
"""Families without modules for blocks, or whose blocks exchange something else: nothing of them is recorded at all."""


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - NO_BLOCKS))
def test_every_family_shows_what_its_run_would_hold(name: str) -> None:
    """For whatever a family has: the residual streams have the model's shape, and the last hidden state is its own."""
    from capture.model.examine import examine
    from capture.recording.live import listen, resolve

    anatomy = examine(build(name))
    sites = ("resid.post_mlp", "resid.embed", "hidden", "attn_out", "mlp_out", "q", "v")
    has = {s for layer in anatomy.main.layers for s in layer.shapes} | {"resid.embed", "hidden"}
    names = resolve(anatomy, parse_sites(",".join(s for s in sites if s in has)), name)
    torch.manual_seed(0)
    ids = torch.randint(3, 300, (2, 9))
    call: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if anatomy.body.encoder_decoder:
        call |= {"decoder_input_ids": ids[:, :6]}
    with torch.no_grad(), listen(anatomy, names, name) as seen:
        out = anatomy.body.module(**call)
    last = out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]
    n = len(anatomy.main.layers)
    if ("hidden", n) in seen and seen["hidden", n].shape == last.shape:
        assert torch.equal(seen["hidden", n], last)
    length = 6 if anatomy.body.encoder_decoder else 9
    for (site, _layer), x in seen.items():
        assert x.shape[:2] == (2, length), site
    assert {key for key in names if names[key].site == "resid.post_mlp"} <= set(seen)


def test_an_encoders_side_is_named_with_its_prefix() -> None:
    model = build("t5")
    from capture.model.examine import examine
    from capture.recording.live import listen, resolve

    anatomy = examine(model)
    names = resolve(anatomy, parse_sites("enc.resid.post_mlp@1,resid.post_mlp@1,cross.k@0"), "t5")
    source, target = torch.randint(3, 300, (1, 7)), torch.randint(3, 300, (1, 4))
    with torch.no_grad(), listen(anatomy, names, "t5") as seen:
        model(input_ids=source, decoder_input_ids=target)
    assert seen["enc.resid.post_mlp", 1].shape[:2] == (1, 7)
    assert seen["resid.post_mlp", 1].shape[:2] == (1, 4)
    assert seen["cross.k", 0].shape[:2] == (1, 7)


@pytest.mark.parametrize(
    ("sites", "error", "message"),
    [
        ("resid.post_mpl@1", NotFoundError, r"No site 'resid.post_mpl'. Did you mean resid.post_mlp"),
        ("attn@x", UsageError, "attn@x: write a layer after @"),
        ("", UsageError, "Name what to record"),
        ("resid.post_mlp@3", UsageError, "llama.* has resid.post_mlp of layers 0 to 2"),
        ("hidden@4", UsageError, "has hidden of layers 0 to 3"),
        ("enc.q@1", UsageError, "has no encoder"),
        ("cross.q@1", UsageError, "has no cross.q"),
    ],
)
def test_wrong_sites_are_named(
    load_tiny: Callable[..., Loaded], sites: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message), capture.record(load_tiny(), sites):
        pass
