"""Recording on a GPU: the same bits as the model's own outputs there, through pinned memory and a stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo

from capture.model import loading
from capture.model.attention_hook import eager_attention
from capture.model.body import probe_ids
from capture.model.examine import examine
from capture.recording.live import listen, parse_sites, resolve
from capture.recording.plan import plan
from capture.recording.recorder import Recorder
from capture.verification.model_check import check
from warehouse.schema.sites import Key
from warehouse.validation.validate import validate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "bert", "t5", "mixtral", "bloom"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_site_is_right_on_a_gpu(family: str, dtype: torch.dtype) -> None:
    found = check(zoo.build(family).to("cuda", dtype))
    assert found.passed, [f for f in found.findings if f.status == "wrong"]


def test_what_arrives_is_what_was_computed_when_many_passes_are_in_flight() -> None:
    """Copies run beside the forward passes; each pass's buffers must hold its own values once it says that they are ready."""
    model = zoo.build("llama").to("cuda")
    anatomy = examine(model)
    batches = [torch.cat([probe_ids(model, 64, seed=8 * n + b).cpu() for b in range(8)]) for n in range(12)]
    with Recorder(anatomy, plan(anatomy, "hidden,resid,qkv", "auto", "F32").stored) as recorder:
        recordings = [recorder.run({"dec": (ids, torch.ones_like(ids))}) for ids in batches]
        for ids, recording in zip(batches, recordings, strict=True):
            recording.ready()
            with torch.no_grad():
                hidden = model(input_ids=ids.cuda(), output_hidden_states=True).hidden_states
            for i in range(2):
                found = torch.from_numpy(recording.tensors[Key("dec", "resid.post_mlp", i)])
                assert torch.equal(found.view(8, 64, -1), hidden[i + 1].cpu())


def test_a_capture_on_a_gpu_is_sound_and_its_memory_is_bounded(
    tmp_path: Path, capture_tiny: Callable, tiny_folder: Callable
) -> None:
    loaded = loading.load(str(tiny_folder("llama")), device="cuda")
    everything = "hidden,resid,qkv,attn,attn_out,mlp_out,mlp_act,heads"
    capture_tiny(tmp_path / "runs", "one", loaded=loaded, capture=everything, limit=6)
    torch.cuda.reset_peak_memory_stats()
    store = capture_tiny(tmp_path / "runs", "all", loaded=loaded, capture=everything)
    assert all(c.passed is not False for c in validate(store.path))
    assert torch.cuda.max_memory_allocated() < 256 << 20


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_what_is_seen_live_on_a_gpu_is_what_was_computed_there(family: str) -> None:
    model = zoo.build(family).to("cuda")
    anatomy = examine(model)
    names = resolve(anatomy, parse_sites("hidden,attn@1"), family)
    ids = probe_ids(model, 16)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if anatomy.body.encoder_decoder else {})
    with torch.no_grad(), eager_attention(model):
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
    with torch.no_grad(), listen(anatomy, names, family) as seen:
        model(**inputs)
    decoder = "decoder_" if anatomy.body.encoder_decoder else ""
    for layer, state in enumerate(out[f"{decoder}hidden_states"]):
        assert seen["hidden", layer].is_cuda and torch.equal(seen["hidden", layer], state)
    assert torch.equal(seen["attn", 1], out[f"{decoder}attentions"][1])
