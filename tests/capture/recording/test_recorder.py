"""The recorder against the model's own outputs, bit for bit where the dtype allows it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from capture.model.attention_hook import listen_to_attention
from capture.model.body import Body
from capture.model.examine import examine
from capture.model.lm_head import LMHead
from capture.recording.forward_pass import DtypeOverflow
from capture.recording.plan import plan
from capture.recording.recorder import Recorder
from warehouse.errors import TracesError
from warehouse.storage.attention import probabilities

ALL = "hidden,resid,qkv,attn,attn_out,mlp_out,mlp_act"


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, make_llama: Callable, make_gpt2: Callable):
    return make_llama() if request.param == "llama" else make_gpt2()


def padded(lengths: list[int], vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros((len(lengths), max(lengths)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, n in enumerate(lengths):
        ids[i, :n] = torch.randint(1, vocabulary, (n,), generator=generator)
        mask[i, :n] = 1
    return ids, mask


def pack(x: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return x[mask.bool()].detach().numpy()


def recorder(model, dtype: str = "F32", anatomy=None) -> Recorder:
    anatomy = anatomy or examine(model)
    return Recorder(anatomy, plan(anatomy, ALL, "auto", dtype).stored)


def record(model, ids: torch.Tensor, mask: torch.Tensor, dtype: str = "F32") -> dict:
    """(site, layer) → what was recorded of a decoder."""
    with recorder(model, dtype) as r:
        return {(k.site, k.layer): x for k, x in r.run({"dec": (ids, mask)}).tensors.items()}


@pytest.mark.parametrize("lengths", [[17], [9, 9, 9], [20, 13, 1]])
def test_residual_stream_equals_output_hidden_states_bit_for_bit(model, lengths: list[int]) -> None:
    ids, mask = padded(lengths, model.config.vocab_size)
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    tensors = record(model, ids, mask)
    n = len(hidden) - 1
    assert np.array_equal(tensors["resid.embed", None], pack(hidden[0], mask))
    for i in range(n - 1):
        assert np.array_equal(tensors["resid.post_mlp", i], pack(hidden[i + 1], mask)), f"layer {i}"
    # The last entry of output_hidden_states is after the final norm: it is stored as hidden, not as the last post_mlp.
    assert np.array_equal(tensors["hidden", n], pack(hidden[n], mask))
    norm = model.model.norm if hasattr(model, "model") else model.transformer.ln_f
    with torch.no_grad():
        normed = norm(torch.from_numpy(tensors["resid.post_mlp", n - 1]))
    torch.testing.assert_close(normed.numpy(), tensors["hidden", n], rtol=0, atol=0)


def test_post_attn_is_the_input_plus_what_attention_adds(model) -> None:
    ids, mask = padded([20, 13], model.config.vocab_size)
    added: dict[int, torch.Tensor] = {}
    attentions = [layer.self_attn if hasattr(layer, "self_attn") else layer.attn for layer in blocks(model)]
    handles = [
        a.register_forward_hook(lambda m, args, out, i=i: added.__setitem__(i, out[0]))
        for i, a in enumerate(attentions)
    ]
    tensors = record(model, ids, mask)
    for h in handles:
        h.remove()
    for i in range(len(attentions)):
        before = tensors["resid.embed", None] if i == 0 else tensors["resid.post_mlp", i - 1]
        assert np.array_equal(tensors["attn_out", i], pack(added[i], mask))
        assert np.array_equal(tensors["resid.post_attn", i], before + tensors["attn_out", i])
        assert np.array_equal(tensors["resid.post_mlp", i], tensors["resid.post_attn", i] + tensors["mlp_out", i])


def blocks(model) -> list:
    return list(model.model.layers if hasattr(model, "model") else model.transformer.h)


def test_mlp_act_is_what_the_last_projection_reads(model) -> None:
    ids, mask = padded([20, 13], model.config.vocab_size)
    tensors = record(model, ids, mask)
    for i, block in enumerate(blocks(model)):
        projection = block.mlp.down_proj if hasattr(block.mlp, "down_proj") else block.mlp.c_proj
        with torch.no_grad():
            out = projection(torch.from_numpy(tensors["mlp_act", i]))
        # A product of a matrix with another number of rows may be summed in another order.
        np.testing.assert_allclose(out.numpy(), tensors["mlp_out", i], rtol=1e-5, atol=1e-6)


def test_attention_from_q_and_k_equals_eager_attention(model) -> None:
    ids, mask = padded([20, 13], model.config.vocab_size)
    anatomy = examine(model)
    tensors = record(model, ids, mask)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        eager = model(input_ids=ids, attention_mask=mask, output_attentions=True, use_cache=False).attentions
    for i, attention in enumerate(eager):
        start = 0
        for b, n in enumerate(mask.sum(1).tolist()):
            q, k = (tensors[s, i][start : start + n].swapaxes(0, 1) for s in "qk")
            derived = probabilities(q, np.repeat(k, len(q) // len(k), axis=0), anatomy.main.layers[i].formula)
            # Float32 matrix products that sum in another order: a few units in the last place.
            np.testing.assert_allclose(derived, attention[b, :, :n, :n].numpy(), rtol=0, atol=1e-6)
            start += n


def test_values_times_attention_is_what_the_output_projection_gets(make_llama: Callable) -> None:
    model = make_llama()
    ids, mask = padded([15], model.config.vocab_size)
    seen: list[torch.Tensor] = []
    layer = model.model.layers[1].self_attn.o_proj
    handle = layer.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    anatomy = examine(model)
    seen.clear()
    tensors = record(model, ids, mask)
    handle.remove()
    q, k, v = (tensors[s, 1].swapaxes(0, 1) for s in "qkv")
    attn = probabilities(q, np.repeat(k, 2, axis=0), anatomy.main.layers[1].formula)
    out = np.matmul(attn, np.repeat(v, 2, axis=0)).swapaxes(0, 1).reshape(15, -1)
    np.testing.assert_allclose(out, seen[-1][0].numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_logits_are_the_same_bits_with_and_without_the_recorder(model, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    ids, mask = padded([20, 13, 20], model.config.vocab_size)
    anatomy = examine(model)  # asks for hidden states, for which transformers leaves hooks of its own
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        with recorder(model, "F16", anatomy) as r:
            r.run({"dec": (ids, mask)})
            passing = r.begin({"dec": (ids, mask)})  # so that hooks record outside `run` too
            within = model(input_ids=ids, attention_mask=mask).logits
            assert len(passing._kept) == len(r.tensors) - 1, "all but the last state were recorded"
        after = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(before, within)
    assert torch.equal(before, after)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_the_real_models_logits_are_the_same_bits_too(smollm2, sample_lines: list[str]) -> None:
    enc = smollm2.tokenizer(sample_lines[:4], return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        before = smollm2.model(**enc).logits
        with recorder(smollm2.model, "F16") as r:
            r.run({"dec": (enc.input_ids, enc.attention_mask)})
            r.begin({"dec": (enc.input_ids, enc.attention_mask)})
            within = smollm2.model(**enc).logits
    assert torch.equal(before, within)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_logits_made_in_slices_are_the_models_own(model, rows: int) -> None:
    ids, mask = padded([40], model.config.vocab_size)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits[0]
        last = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[0]
        head = LMHead(Body(model))
        found = torch.cat([head(last[i : i + rows]).clone() for i in range(0, 40, rows)])
    # Products over other numbers of rows may use another kernel: rounding of float32.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits[0], expected), "the model is as it was"


def test_recording_does_not_depend_on_batch_or_neighbours(model) -> None:
    ids, mask = padded([20, 13, 7], model.config.vocab_size)
    together = record(model, ids, mask)
    start = 0
    for b, n in enumerate([20, 13, 7]):
        alone = record(model, ids[b : b + 1, :n], mask[b : b + 1, :n])
        for key, x in alone.items():
            # Kernels may sum in another order for another shape: float32 rounding of values near 1.
            np.testing.assert_allclose(together[key][start : start + n], x, rtol=1e-4, atol=2e-6, err_msg=str(key))
        start += n


def test_half_precision_models_keep_their_dtype(make_llama: Callable) -> None:
    import ml_dtypes

    model = make_llama().to(torch.bfloat16)
    ids, mask = padded([11, 6], model.config.vocab_size)
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    tensors = record(model, ids, mask, dtype="BF16")
    x = tensors["resid.post_mlp", 0]
    assert x.dtype == ml_dtypes.bfloat16
    assert np.array_equal(x.view(np.uint16), hidden[1][mask.bool()].view(torch.uint16).numpy())


def test_a_value_that_float16_cannot_hold_is_reported_not_written_as_inf(make_llama: Callable) -> None:
    model = make_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e8)
    ids, mask = padded([11], model.config.vocab_size)
    with pytest.raises(DtypeOverflow) as e:
        record(model, ids, mask, dtype="F16")
    assert "resid.post_mlp.L01" in e.value.tensors
    assert "resid.post_mlp.L00" not in e.value.tensors


def test_a_model_that_computes_nan_is_refused(make_llama: Callable) -> None:
    model = make_llama()
    anatomy = examine(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    ids, mask = padded([11], model.config.vocab_size)
    with (
        pytest.raises(TracesError, match="infinite or undefined"),
        recorder(model, "F16", anatomy) as r,
    ):
        r.run({"dec": (ids, mask)})


def test_a_layer_that_is_not_seen_stops_the_capture(make_llama: Callable) -> None:
    model = make_llama()
    anatomy = examine(model)
    model.model.config.num_hidden_layers = 2  # the body now runs two of its three blocks
    ids, mask = padded([11], model.config.vocab_size)
    with (
        pytest.raises(TracesError, match="were not seen"),
        recorder(model, "F16", anatomy) as r,
    ):
        r.run({"dec": (ids, mask)})


def test_only_one_recorder_at_a_time(make_llama: Callable) -> None:
    model = make_llama()
    with (
        listen_to_attention(model, lambda call: None),
        pytest.raises(RuntimeError, match="already being recorded"),
        listen_to_attention(model, lambda call: None),
    ):
        pass
