"""`capture.intervene`: what a model computes while values are changed, against the same model changed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import capture
from capture.interventions.intervention import Positions, parse_intervention
from capture.model import loading
from capture.model.hashes import body_hash
from capture.traits import steer
from warehouse import TraceStore
from warehouse.errors import NotFoundError, UsageError

Inputs = dict[str, torch.Tensor]


@pytest.fixture
def loaded(load_tiny: Callable[..., loading.Loaded]) -> loading.Loaded:
    return load_tiny()


@pytest.fixture
def inputs(loaded: loading.Loaded, sample_lines: list[str]) -> Inputs:
    return dict(loaded.tokenizer(sample_lines[0], return_tensors="pt", max_length=14, truncation=True))


def logits(loaded: loading.Loaded, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return loaded.hf(**inputs).logits


def under(
    loaded: loading.Loaded, inputs: Inputs, *what: str | capture.Intervention, root: Path | None = None
) -> torch.Tensor:
    with capture.intervene(loaded, *what, root=root):
        return logits(loaded, inputs)


def test_no_intervention_changes_no_bit_and_nothing_stays(loaded: loading.Loaded, inputs: Inputs) -> None:
    before = logits(loaded, inputs)
    assert torch.equal(under(loaded, inputs), before)
    assert not torch.equal(under(loaded, inputs, "L1H2=zero"), before)
    assert torch.equal(logits(loaded, inputs), before)


def test_a_head_cut_is_its_slice_of_the_output_projection_zeroed(loaded: loading.Loaded, inputs: Inputs) -> None:
    cut = under(loaded, inputs, "L1H2=zero")
    weight = loaded.hf.model.layers[1].self_attn.o_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:, 16:24] = 0  # head 2 of four, 8 wide
    try:
        assert torch.equal(cut, logits(loaded, inputs))
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert (cut - logits(loaded, inputs)).abs().max() > 1e-4


def test_all_heads_of_a_layer_cut_is_no_attention_there(loaded: loading.Loaded, inputs: Inputs) -> None:
    heads = under(loaded, inputs, *(f"L1H{h}=zero" for h in range(4)))
    assert torch.equal(heads, under(loaded, inputs, "A1=zero"))
    assert torch.equal(heads, under(loaded, inputs, "heads@1=zero"))
    assert not torch.equal(heads, logits(loaded, inputs))


def test_values_of_a_group_serve_its_query_heads(loaded: loading.Loaded, inputs: Inputs) -> None:
    """Two kv heads for four query heads: no values in the first means that its two query heads add nothing."""
    assert torch.equal(under(loaded, inputs, "v@1.H0=zero"), under(loaded, inputs, "L1H0=zero", "L1H1=zero"))


@pytest.mark.parametrize("site", ["heads@1", "q@1", "k@1", "v@1", "A1", "M1", "resid.post_attn@1", "resid.post_mlp@1"])
def test_a_change_at_a_token_changes_nothing_before_it(loaded: loading.Loaded, inputs: Inputs, site: str) -> None:
    changed = (under(loaded, inputs, f"{site}[pos=5]=zero") - logits(loaded, inputs)).abs().amax(-1)[0]
    assert changed[:5].max() == 0
    assert changed[5:].max() > 1e-5
    last = (under(loaded, inputs, f"{site}[pos=-1]=zero") - logits(loaded, inputs)).abs().amax(-1)[0]
    assert last[:-1].max() == 0
    assert last[-1] > 1e-5


def test_padding_in_front_is_not_counted(loaded: loading.Loaded, inputs: Inputs) -> None:
    """Token 3 is the prompt's, wherever its batch begins. Rows differ by what padding does to float32 sums: 1e-5."""
    ids = inputs["input_ids"]
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], 1)
    mask = torch.cat([torch.zeros(1, 4, dtype=torch.long), torch.ones_like(ids)], 1)
    batch = {"input_ids": padded, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    for spec in ("resid.post_mlp@0[pos=3]=zero", "v@1.H1[pos=2:4]=zero", "L2H3[pos=-1]=zero"):
        alone, beside = under(loaded, inputs, spec), under(loaded, batch, spec)
        assert (alone - logits(loaded, inputs)).abs().max() > 1e-4
        torch.testing.assert_close(beside[:, 4:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "spec", ["v@1[pos=2:5]=zero", "k@0.H1[pos=0]=zero", "L1H1=zero", "resid.post_mlp@1[pos=3:]=zero"]
)
def test_generation_is_the_same_with_a_cache_and_without(loaded: loading.Loaded, inputs: Inputs, spec: str) -> None:
    """With a cache a pass has one new token, and keys and values of all: positions are those of the whole text all the same."""

    def generate(**options: bool) -> tuple[torch.Tensor, torch.Tensor]:
        out = loaded.hf.generate(
            **inputs, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None,
            return_dict_in_generate=True, output_logits=True, **options,
        )  # fmt: skip
        return out.sequences, torch.stack(out.logits)

    plain = generate()
    with capture.intervene(loaded, spec):
        cached, whole = generate(use_cache=True), generate(use_cache=False)
    assert torch.equal(cached[0], whole[0])
    torch.testing.assert_close(cached[1], whole[1], rtol=0, atol=1e-4)
    assert (cached[1] - plain[1]).abs().max() > 1e-4


def test_recording_inside_shows_the_changed_values(loaded: loading.Loaded, inputs: Inputs) -> None:
    value = torch.arange(32.0)
    what = capture.Intervention("resid.post_attn", 1, "patch", positions=Positions(4, 5), value=value)
    for record_first in (False, True):
        outer = capture.record(loaded, "resid.post_attn@1,v@1,attn@0")
        inner = capture.intervene(loaded, what, "v@1.H0=zero")
        first, second = (outer, inner) if record_first else (inner, outer)
        with first as a, second as b:
            logits(loaded, inputs)
            seen = a or b
            assert torch.equal(seen["v", 1][:, :, 0], torch.zeros_like(seen["v", 1][:, :, 0]))
            assert seen["v", 1][:, :, 1].abs().max() > 0
            assert torch.equal(seen["resid.post_attn", 1][0, 4], value)


def test_a_run_is_refused_while_its_model_is_changed(tmp_path: Path, loaded: loading.Loaded) -> None:
    with capture.intervene(loaded, "L0H0=zero"), pytest.raises(UsageError, match="close it before you capture"):
        capture.next_token(loaded, ["The lamp."], root=tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable[..., TraceStore]) -> TraceStore:
    root = tmp_path_factory.mktemp("stored") / "runs"
    return capture_tiny(
        root, "whole", max_len=12, store_dtype="float32", capture="hidden,resid,qkv,attn_out,mlp_out", limit=6
    )


def sequence(store: TraceStore, n: int) -> tuple[str, Inputs]:
    rows = store.query(
        "SELECT example_id, list(token_id ORDER BY pos) FROM tokens GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    return rows[n][0], {"input_ids": torch.tensor([rows[n][1]])}


SITES = ["resid.embed", "resid.pre_attn@1", "resid.post_attn@1", "resid.post_mlp@1", "A1", "M2", "q@1", "k@1", "v@1"]


@pytest.mark.parametrize("site", SITES)
def test_a_run_patched_with_itself_is_itself(loaded: loading.Loaded, stored: TraceStore, site: str) -> None:
    example_id, inputs = sequence(stored, 0)
    before, root = logits(loaded, inputs), stored.path.parent
    assert torch.equal(under(loaded, inputs, f"{site}=patch:whole/{example_id}", root=root), before)
    _, other = sequence(stored, 1)
    n = min(other["input_ids"].shape[1], inputs["input_ids"].shape[1])
    other = {"input_ids": other["input_ids"][:, :n]}
    changed = under(loaded, other, f"{site}=patch:whole/{example_id}", root=root)
    assert (changed - logits(loaded, other)).abs().max() > 1e-4
    if site.startswith("resid.") and "post_attn" not in site and n == inputs["input_ids"].shape[1]:
        torch.testing.assert_close(changed, before, rtol=0, atol=1e-5)


def test_heads_are_patched_from_attention_and_values(loaded: loading.Loaded, stored: TraceStore) -> None:
    """z = attention · v from the stored q, k and v: the model's own to float32's rounding."""
    example_id, inputs = sequence(stored, 0)
    own = under(loaded, inputs, f"heads@1=patch:whole/{example_id}", root=stored.path.parent)
    torch.testing.assert_close(own, logits(loaded, inputs), rtol=0, atol=1e-5)


def test_means_are_by_position_over_the_sequences_of_a_run(loaded: loading.Loaded, stored: TraceStore) -> None:
    """… of the model's own values, here held against the stored ones, in float32."""
    _, inputs = sequence(stored, 0)
    ids = stored.query("SELECT DISTINCT example_id FROM tokens").fetchall()
    length = inputs["input_ids"].shape[1]
    rows = [stored.rows(stored.key("mlp_out", 1), e)[:length] for (e,) in ids]
    mean = np.stack([np.mean([r[p] for r in rows if len(r) > p], 0) for p in range(length)])
    by_hand = capture.Intervention("mlp_out", 1, "patch", value=mean)
    root = stored.path.parent
    found = under(loaded, inputs, "M1=mean:whole", root=root)
    torch.testing.assert_close(found, under(loaded, inputs, by_hand), rtol=0, atol=1e-5)
    assert (found - logits(loaded, inputs)).abs().max() > 1e-4


def test_steering_is_an_addition_to_the_bit(tmp_path: Path, loaded: loading.Loaded) -> None:
    """What the steering job draws and what the model draws under the same vector, added from the prompt's last token on."""
    from capture.traits.definition import Definition, Pair

    definition = Definition(
        name="windy", instruction=[Pair(pos="Blow.", neg="Lie.")], questions=["What is the sea?"],
        eval_prompt="{question} {answer} 0 to 100",
    )  # fmt: skip
    direction = np.random.default_rng(3).normal(size=32).astype(np.float32)
    vector = steer.SteeringVector(direction / np.linalg.norm(direction), 1.7)
    options = steer.Options(
        capture="resid", store_dtype="float32", max_new_tokens=6, temperature=0.0, trait=definition.model_dump(),
        vectors_run="v", layers=(1,), coefficients=(-3.0, 0.0), questions=(0,),
    )  # fmt: skip
    start, _ = steer.define_kind({1: vector}, body_hash(loaded.model))
    start(loaded, steer.source(options), options, root=tmp_path, run_id="steered")
    store = TraceStore(tmp_path / "run_id=steered")
    (example_id, n), (plain_id, _) = store.query(
        "SELECT example_id, n_prompt_tokens FROM responses ORDER BY coefficient"
    ).fetchall()
    ids = torch.tensor([[t for (t,) in store.query(
        "SELECT token_id FROM tokens WHERE example_id = ? ORDER BY pos", [example_id]).fetchall()]])  # fmt: skip
    what = capture.Intervention(
        "resid.post_mlp", 1, "add", value=vector.unit * vector.gap, factor=-3.0, positions=Positions(n - 1, None)
    )
    with (
        capture.intervene(loaded, what),
        capture.record(loaded, "resid.post_mlp@1,resid.post_mlp@2") as seen,
        torch.no_grad(),
    ):
        loaded.hf(input_ids=ids)
        for layer in (1, 2):
            assert np.array_equal(seen["resid.post_mlp", layer][0].numpy(), store.resid(example_id, layer=layer))
        drawn = loaded.hf.generate(input_ids=ids[:, :n], max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(drawn, ids)
    assert not np.array_equal(store.resid(example_id, layer=2)[:n], store.resid(plain_id, layer=2)[:n])


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("L3H0=zero", UsageError, "layers 0 to 2"),
        ("L1H4=zero", UsageError, "heads 0 to 3"),
        ("v@1.H2=zero", UsageError, "heads of v 0 to 1"),
        ("M1.H0=zero", UsageError, "no place"),
        ("mlp_out@1.H0=zero", UsageError, "has no heads"),
        ("resid.post_mlp=zero", UsageError, "name a layer"),
        ("stream@1=zero", NotFoundError, "No site to change 'stream'"),
        ("M1=nothing", NotFoundError, "No kind of intervention 'nothing'"),
        ("M1", UsageError, "write PLACE=WHAT"),
        ("M1[pos=x]=zero", UsageError, "write PLACE=WHAT"),
        ("M1[pos=4:4]=zero", UsageError, "holds no position"),
        ("M1=zero*2", UsageError, "a factor goes with add"),
        ("M1=mean", UsageError, "say from where"),
        ("M1=resample", UsageError, "traces ablate"),
        ("M1=patch:absent", NotFoundError, "absent"),
        ("M1=patch:whole", UsageError, "name one"),
        ("L1H1=patch:whole/0000000000000000", NotFoundError, "No sequence"),
        ("q@1=add:wind", UsageError, "a trait's vectors are of"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    loaded: loading.Loaded, stored: TraceStore, spec: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message), capture.intervene(loaded, spec, root=stored.path.parent):
        pass


def test_values_that_do_not_fit_are_refused(loaded: loading.Loaded, inputs: Inputs, stored: TraceStore) -> None:
    narrow = capture.Intervention("mlp_out", 1, "patch", value=torch.zeros(16))
    with pytest.raises(UsageError, match=r"M1=patch: its value has the shape \(16,\); that of a token is \(32,\)"):
        under(loaded, inputs, narrow)
    example_id, _ = sequence(stored, 0)
    longer = {"input_ids": inputs["input_ids"].repeat(1, 2)}
    with pytest.raises(UsageError, match="there is no value for token"):
        under(loaded, longer, f"M1=patch:whole/{example_id}", root=stored.path.parent)


def test_a_run_of_another_model_is_refused(load_tiny: Callable[..., loading.Loaded], stored: TraceStore) -> None:
    for spec in ("M1=mean:whole", f"M1=patch:whole/{sequence(stored, 0)[0]}"):
        with (
            pytest.raises(UsageError, match="with other weights"),
            capture.intervene(load_tiny("gpt2"), spec, root=stored.path.parent),
        ):
            pass


@pytest.mark.parametrize(
    "text",
    ["L12H3=zero", "M5=mean:ref", "A5=zero", "q@4.H2=zero", "resid.post_mlp@5[pos=7]=patch:run/ab.1", "resid.embed[pos=2:6]=zero",
     "L1H1[pos=-1]=zero", "resid.post_mlp@15[pos=3:]=add:formality*-2.5", "enc.resid.post_mlp@1=zero", "cross.heads@1.H2=zero"],
)  # fmt: skip
def test_what_is_parsed_is_written_the_same(text: str) -> None:
    assert str(parse_intervention(text)) == text
