"""Families of models, each a tiny random one, against what transformers itself gives: hidden states and eager attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import zoo

from capture.model.anatomy import Anatomy
from capture.model.attention_hook import eager_attention
from capture.model.body import Tokens, probe_ids
from capture.model.examine import examine
from capture.recording.plan import plan
from capture.recording.recorder import Recorder, Recording
from capture.verification.model_check import check_recording
from warehouse.errors import UsageError
from warehouse.schema.sites import Key, row_kind
from warehouse.storage.attention import per_query_head, probabilities, unpack_pairs

REGISTERED = [
    "gpt2", "gpt_neox", "gpt_neox_sequential", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2",
    "gemma3_text", "phi", "phi3", "olmo2", "opt", "starcoder2", "stablelm", "stablelm_parallel", "cohere", "granite", "smollm3",
    "gpt_oss", "deepseek_v3", "bert", "roberta", "distilbert", "electra", "albert", "modernbert", "t5", "bart", "mbart",
    "gpt_bigcode",
]  # fmt: skip
OUTSIDE = ["bloom", "falcon", "falcon_mqa", "gptj", "gpt_neo", "codegen", "mpt", "xglm", "deberta-v2"]
MIXED = ["mamba", "mamba2", "jamba", "bamba", "recurrent_gemma", "rwkv"]
PARALLEL = {"gpt_neox", "phi", "stablelm_parallel", "cohere", "falcon", "falcon_mqa", "gptj", "codegen"}
POST_NORM = {"bert", "roberta", "distilbert", "electra", "albert", "bart", "deberta-v2"}
EXPERTS_ONLY = {"mixtral", "gpt_oss"}


def batch(anatomy: Anatomy) -> Tokens:
    """Three sequences a side, right-padded, some longer than every window."""
    found = {}
    for n, side in enumerate(anatomy.body.sides):
        rows = [probe_ids(anatomy.body.model, length - 2 * n, seed=length + n)[0] for length in (21, 14, 6)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        found[side] = (ids, torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True))
    return found


def record(anatomy: Anatomy, tokens: Tokens, capture: str, attn: str = "auto") -> Recording:
    with Recorder(anatomy, plan(anatomy, capture, attn, "F32").stored) as recorder:
        return recorder.run(tokens)


def each(recording: Recording, key: Key) -> Iterator[np.ndarray]:
    """A tensor's rows, sequence by sequence."""
    start = 0
    for n in recording.rows[key]:
        yield recording.tensors[key][start : start + n]
        start += n


@pytest.mark.parametrize("family", [*REGISTERED, *OUTSIDE, *MIXED])
def test_the_residual_stream_is_output_hidden_states_bit_for_bit(family: str) -> None:
    anatomy = examine(zoo.build(family))
    tokens = batch(anatomy)
    with torch.no_grad():
        expected = anatomy.body(tokens, output_hidden_states=True).hidden
    tensors = record(anatomy, tokens, "hidden,resid").tensors
    for side, stack in anatomy.stacks.items():
        hidden = [h[tokens[side][1].bool()].numpy() for h in expected[side]]
        n = len(stack.layers)
        streams = [
            tensors[Key(side, "resid.embed", None)],
            *(tensors[Key(side, "resid.post_mlp", i)] for i in range(n)),
        ]
        streams = streams if stack.embeds else streams[1:]
        last = tensors[Key(side, "hidden", n)] if stack.final_norm else streams[-1]
        assert len(hidden) == n + 1
        for i, found in enumerate([*streams[: len(hidden) - 1], last]):
            assert np.array_equal(found, hidden[i]), f"{side} {i}"


@pytest.mark.parametrize("family", [*REGISTERED, *OUTSIDE])
def test_attention_is_eager_output_attentions(family: str) -> None:
    """Stored: the same bits. Derived from q and k: float32 sums in another order, to 1e-5."""
    anatomy = examine(zoo.build(family))
    tokens = batch(anatomy)
    with eager_attention(anatomy.body.model):
        with torch.no_grad():
            given = anatomy.body(tokens, output_attentions=True).attentions
        stored = record(anatomy, tokens, "attn", "stored")
        derived = record(anatomy, tokens, "attn,q,k" if family in REGISTERED else "attn")
    compared = 0
    for side, stack in anatomy.stacks.items():
        for site, name, over in (("attn", side, side), ("cross.attn", "cross", "enc")):
            for i, layer in enumerate(stack.layers):
                if site not in layer.shapes:
                    continue
                formula = layer.cross_formula if site == "cross.attn" else layer.formula
                key = Key(side, site, i)
                for b, pairs in enumerate(each(stored, key)):
                    n, s = (int(tokens[x][1][b].sum()) for x in (side, over))
                    expected = given[name][i][b, :, :n, :s].numpy()
                    assert np.array_equal(unpack_pairs(pairs, row_kind(site, stack.causal), s), expected), key
                    if formula is not None:
                        q, k = (list(each(derived, key._replace(site=site[:-4] + x)))[b].swapaxes(0, 1) for x in "qk")
                        found = probabilities(q, per_query_head(k, len(q)), formula)
                        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
                        assert bool((found.sum(-1) < 0.99).any()) == (family == "gpt_oss"), (
                            "sinks take mass, nothing else"
                        )
                    compared += 1
    assert compared >= 9


@pytest.mark.parametrize("family", [*REGISTERED, *OUTSIDE, *MIXED])
def test_batched_and_padded_is_what_it_is_alone(family: str) -> None:
    anatomy = examine(zoo.build(family))
    tokens = batch(anatomy)
    together = record(anatomy, tokens, "hidden,resid" + (",qkv" if family in REGISTERED else ""))
    for b in range(3):
        alone = {}
        for side, (ids, mask) in tokens.items():
            n = int(mask[b].sum())
            alone[side] = (ids[b : b + 1, :n], mask[b : b + 1, :n])
        single = record(anatomy, alone, "hidden,resid" + (",qkv" if family in REGISTERED else ""))
        for key, x in single.tensors.items():
            # Kernels may sum in another order for another shape, layer after layer.
            scale = np.abs(x).max()
            np.testing.assert_allclose(list(each(together, key))[b], x, rtol=0, atol=2e-5 * scale, err_msg=str(key))


@pytest.mark.parametrize("family", [*REGISTERED, *OUTSIDE, *MIXED])
def test_every_site_is_checked_and_what_is_missing_is_said(family: str) -> None:
    found = check_recording(examine(zoo.build(family)))
    assert found.passed, [f for f in found.findings if f.status == "wrong"]
    side = "dec" if "dec" in found.attn else "enc"
    absent = {f.site for f in found.findings if f.status == "absent" and f.side == side}
    expected = {"q", "k", "v"} if family in OUTSIDE else {"mlp_act"} if family in EXPERTS_ONLY else set()
    if family not in MIXED:
        assert absent == expected
    assert all(f.how for f in found.findings)
    assert ("in parallel" in found.convention[side]) == (family in PARALLEL)
    assert ("after adding" in found.convention[side]) == (family in POST_NORM)


def test_state_space_layers_have_residual_streams_and_attention_where_there_is_any() -> None:
    jamba = examine(zoo.build("jamba"))
    assert jamba.main.attention_layers == [2]
    stored = plan(jamba, "resid,qkv", "auto", "F16").stored
    assert [k.layer for k in stored if k.site == "resid.post_mlp"] == [0, 1, 2, 3]
    assert [k.layer for k in stored if k.site == "q"] == [2]
    assert "not in layers 0, 1, 3" in jamba.main.missing["q"]
    mamba = examine(zoo.build("mamba"))
    with pytest.raises(UsageError, match="This model has no qkv: the layer does not attend"):
        plan(mamba, "hidden,qkv", "auto", "F16")
    assert {k.site for k in plan(mamba, "hidden,resid", "auto", "F16").stored} == {
        "resid.embed",
        "resid.post_mlp",
        "hidden",
    }


def test_shared_layers_are_told_apart_by_when_they_run() -> None:
    anatomy = examine(zoo.build("albert"))
    assert len({layer.block for layer in anatomy.main.layers}) == 1 and len(anatomy.main.layers) == 3
    tensors = record(anatomy, batch(anatomy), "resid,qkv").tensors
    assert not np.array_equal(tensors[Key("enc", "q", 0)], tensors[Key("enc", "q", 1)])


@pytest.mark.parametrize("family", ["llama", "bert", "gpt_neox", "t5", "bloom", "gpt_oss"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(family: str, dtype: torch.dtype) -> None:
    found = check_recording(examine(zoo.build(family).to(dtype)))
    assert found.passed, [f for f in found.findings if f.status == "wrong"]
    streams = {f.site: f.status for f in found.findings}
    assert streams["resid.post_mlp"] == streams["hidden"] == "exact"
