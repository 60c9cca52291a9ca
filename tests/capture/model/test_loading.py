from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from capture.model import loading
from capture.model.hashes import weights_hash
from capture.model.sources import find_packaged_file
from warehouse.errors import NotFoundError, TracesError, UsageError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "There is no model at ./nowhere"),
        ("a/b/c", "There is no model at a/b/c"),
        ("missing.gguf", "There is no model at missing.gguf"),
        ("nobody/nothing-of-that-name", "the hub cannot be reached|The hub has no model"),
    ],
)
def test_a_model_that_is_not_there_is_one_line_with_the_remedy(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loading.load(name)


def test_folders_and_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config.json"):
        loading.load(str(tmp_path))
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"a folder .*, a .gguf file or a hub name"):
        loading.load(str(tmp_path / "x.bin"))
    (tmp_path / "x.gguf").write_bytes(b"not a gguf file at all")
    with pytest.raises(TracesError, match=r"not a GGUF model|cannot be converted"):
        loading.load(str(tmp_path / "x.gguf"))


def test_a_model_with_weights_missing_is_refused(tmp_path: Path, make_llama: Callable, tokenizer) -> None:
    from safetensors.torch import load_file, save_file

    make_llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TracesError, match=r"lacks weights for model.layers.1.mlp.down_proj.weight"):
        loading.load(str(tmp_path))


def test_pickled_weights_are_not_loaded(tmp_path: Path, make_llama: Callable, tokenizer) -> None:
    model = make_llama()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TracesError, match="cannot be loaded"):
        loading.load(str(tmp_path))


def test_remote_code_needs_consent(tmp_path: Path, tokenizer) -> None:
    config = {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "c.StrangeConfig", "AutoModelForCausalLM": "m.Strange"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "c.py").write_text("raise RuntimeError('was run')")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="add --trust-remote-code"):
        loading.load(str(tmp_path))


def test_devices_and_dtypes(load_tiny: Callable) -> None:
    assert loading.find_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="No device 'gpu'"):
        loading.find_device("gpu")
    for device in ("cuda:7", "cuda:128", "cuda:256", "cpu:256"):  # torch counts in 8 bits
        with pytest.raises(UsageError, match=f"There is no device '{device}'"):
            loading.find_device(device)
    with pytest.raises(UsageError, match="No device 'disc'"):
        load_tiny(device_map="disc")
    assert load_tiny(dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(NotFoundError, match="Did you mean bfloat16"):
        load_tiny(dtype="bfloat")


def test_a_map_says_where_modules_go(load_tiny: Callable) -> None:
    mapped = load_tiny(device_map='{"": "cpu"}')
    assert mapped.device == "cpu"
    assert weights_hash(mapped.model) == weights_hash(load_tiny().model)
    for wrong, why in {
        '{"": "disk"}': "puts '' on disk",
        '{"model": "cpu", "lm_head": "meta"}': "puts 'lm_head' on meta",
        '{"": 7}': "There is no device 'cuda:7'",
        '{"": true}': "which is no device",
        '{"": "cpu"': "--device-map is not JSON",
    }.items():
        with pytest.raises(UsageError, match=why):
            load_tiny(device_map=wrong)


def test_the_weights_hash_is_of_what_is_loaded(load_tiny: Callable, make_llama: Callable) -> None:
    loaded = load_tiny()
    assert weights_hash(loaded.model) == weights_hash(make_llama())
    assert weights_hash(loaded.model) != weights_hash(make_llama(seed=1))
    assert weights_hash(loaded.model) != weights_hash(load_tiny(dtype="float16").model)


def test_the_packaged_model_answers_and_its_conversion_is_kept(smollm2) -> None:
    ids = smollm2.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert smollm2.tokenizer.decode(smollm2.model(ids).logits[0, -1].argmax()) == " Paris"
    notes: list[str] = []
    again = loading.load("smollm2", note=notes.append)
    assert notes == []
    assert weights_hash(again.model) == weights_hash(smollm2.model)
    gguf = find_packaged_file("smollm2")
    assert weights_hash(loading.load(str(gguf)).model) == weights_hash(smollm2.model)


def test_a_model_that_is_spread_over_devices_is_recorded_wherever_a_block_lives(
    tmp_path: Path, tiny_folder: Callable, load_tiny: Callable, capture_tiny: Callable
) -> None:
    """accelerate moves tensors between modules by hooks of its own; here all its places are this machine's processor."""
    from accelerate import dispatch_model

    spread = loading.load(str(tiny_folder("llama")), device_map="auto")
    assert spread.device == "cpu" or "cuda" in spread.device
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "cpu" for i in range(3)}
    hooked = load_tiny()
    hooked = loading.Loaded(dispatch_model(hooked.model, places, force_hooks=True), *list(vars(hooked).values())[1:])
    capture = "hidden,resid,qkv,attn,attn_out,mlp_out,mlp_act"
    one = capture_tiny(tmp_path / "runs", "one", capture=capture)
    two = capture_tiny(tmp_path / "runs", "two", loaded=hooked, capture=capture)
    assert one.meta.model.weights_hash == two.meta.model.weights_hash
    for a, b in zip(sorted((one.path / "blobs").iterdir()), sorted((two.path / "blobs").iterdir()), strict=True):
        assert a.read_bytes() == b.read_bytes()
