"""What lies in a model's folder must not decide what is run or read, and what is broken in it is one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from capture.model import gguf, loading
from capture.model.examine import examine
from capture.model.hashes import weights_hash
from warehouse.errors import TracesError, UsageError
from warehouse.storage.files import temporary_beside
from warehouse.storage.paths import converted_models_dir


class _Runs:
    """What leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Path:
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "model"))


def altered(file: Path, **fields: object) -> None:
    told = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(told | fields))


def index(folder: Path, shard: object, name: str = "model.safetensors.index.json") -> None:
    names = load_file(folder / "model.safetensors").keys()
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))


def pickled(folder: Path, name: str) -> Path:
    """A pickle in the folder; returns what is there once it has been read."""
    torch.save({"x": _Runs(folder / "was run")}, folder / name)
    return folder / "was run"


@pytest.mark.parametrize(
    "shard", ["shard.bin", "shard.pt", "../other/model.safetensors", "/etc/x.safetensors", "..", "", 5, None]
)
def test_an_index_names_safetensors_in_its_own_folder_alone(folder: Path, shard: object) -> None:
    index(folder, shard)
    shutil.copytree(folder, folder.parent / "other")
    (folder / "model.safetensors").unlink()
    trace = pickled(folder, "shard.bin")
    with pytest.raises(
        UsageError, match=r"model.safetensors.index.json names .* as a file of its weights, and they are"
    ):
        loading.load(str(folder), device="cpu")
    assert not trace.exists()


@pytest.mark.parametrize("named", ["adapter_model.bin", "other.safetensors.index.json", "../model/model.safetensors"])
def test_a_configuration_names_no_other_weights(folder: Path, named: str) -> None:
    trace = pickled(folder, "adapter_model.bin")
    index(folder, "adapter_model.bin", "other.safetensors.index.json")
    altered(folder / "config.json", transformers_weights=named)
    with pytest.raises(UsageError, match=r"as a file of its weights, and they are read only from .safetensors files"):
        loading.load(str(folder), device="cpu")
    assert not trace.exists()


def test_links_and_several_shards_are_loaded(folder: Path, load_tiny: Callable) -> None:
    """The hub's cache is of links."""
    (folder / "model.safetensors").rename(folder.parent / "blob")
    (folder / "a.safetensors").symlink_to(folder.parent / "blob")
    (folder / "model.safetensors").symlink_to(folder.parent / "blob")
    index(folder, "a.safetensors")
    (folder / "model.safetensors").unlink()
    assert weights_hash(loading.load(str(folder)).model) == weights_hash(load_tiny().model)


def test_no_pickle_is_read_while_a_model_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever way the library takes through a folder: here it is told that pickles are welcome."""
    from capture.model import model_files

    monkeypatch.setattr(model_files, "check_files", lambda *_: None)
    index(folder, "shard.bin")
    (folder / "model.safetensors").unlink()
    trace = pickled(folder, "shard.bin")
    with pytest.raises(UsageError, match="'shard.bin' is a file of its weights, and they are read only from"):
        loading.load(str(folder), device="cpu")
    assert not trace.exists()


def test_a_hub_models_index_is_looked_at_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the hub's cache, which is where a model of the hub is read from without a network."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    snapshot = cache / "models--somebody--something" / "snapshots" / ("0" * 40)
    index(folder, "shard.bin")
    (folder / "model.safetensors").unlink()
    pickled(folder, "shard.bin")
    shutil.copytree(folder, snapshot)
    (cache / "models--somebody--something" / "refs").mkdir()
    (cache / "models--somebody--something" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    with pytest.raises(
        UsageError, match=r"somebody/something is not loaded: model.safetensors.index.json names 'shard.bin'"
    ):
        loading.load("somebody/something", device="cpu")
    assert not (snapshot / "was run").exists()


def test_an_adapter_is_neither_left_out_nor_followed_in_silence(folder: Path) -> None:
    altered(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="somebody/base")
    with pytest.raises(UsageError, match=r"an adapter .*made for 'somebody/base'.* not loaded.*merge_and_unload"):
        loading.load(str(folder))
    (folder / "config.json").unlink()
    told = r"is an adapter without a model .*made for 'somebody/base'.* not loaded: merge it into its base model first"
    with pytest.raises(UsageError, match=told):
        loading.load(str(folder))


@pytest.mark.parametrize(
    "where", [{"attn_implementation": "a/b"}, {"text_config": {"attn_implementation": {"": "a/b"}}}]
)
def test_code_of_the_hub_for_attention_needs_consent(folder: Path, where: dict[str, Any]) -> None:
    altered(folder / "config.json", **where)
    with pytest.raises(UsageError, match=r"code of 'a/b' on the hub compute attention .*--trust-remote-code"):
        loading.load(str(folder))


BROKEN: dict[str, Callable[[Path], Any]] = {
    "config.json: ": lambda f: (f / "config.json").write_text("{no"),
    "config.json: it is nested": lambda f: (f / "config.json").write_text('{"a":' + "[" * 10**5 + "]" * 10**5 + "}"),
    "config.json: it is not UTF-8": lambda f: (f / "config.json").write_bytes(b'{"a": "\xff"}'),
    "config.json holds no JSON object": lambda f: (f / "config.json").write_text("[]"),
    "hidden_size": lambda f: altered(f / "config.json", hidden_size="wide"),
    "modulo by zero": lambda f: altered(f / "config.json", num_attention_heads=0),
    "negative": lambda f: altered(f / "config.json", vocab_size=-3),
    "model type": lambda f: altered(f / "config.json", model_type="no such"),
    "has no weight_map": lambda f: (
        (f / "model.safetensors").rename(f / "model.safetensors.index.json")
        and (f / "model.safetensors.index.json").write_text("{}")
    ),
    "No such file": lambda f: index(f, "gone.safetensors") or (f / "model.safetensors").unlink(),
    "no file named": lambda f: (f / "model.safetensors").unlink(),
    "header too small": lambda f: (f / "model.safetensors").write_bytes(b""),
    "deserializing": lambda f: os.truncate(f / "model.safetensors", (f / "model.safetensors").stat().st_size // 2),
    "header too large": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 4096),
    "delimiter": lambda f: (f / "tokenizer.json").write_text('{"version": 1'),
    "added_tokens": lambda f: (f / "tokenizer.json").write_text("{}"),
    "recursion": lambda f: (f / "generation_config.json").write_text('{"a":' + "[" * 10**5 + "]" * 10**5 + "}"),
}


@pytest.mark.parametrize("told", BROKEN)
def test_what_is_broken_in_a_folder_is_one_line_that_names_it(folder: Path, told: str) -> None:
    BROKEN[told](folder)
    with pytest.raises(TracesError) as e:
        loading.load(str(folder), device="cpu")
    assert str(e.value).startswith(f"{folder} cannot be loaded: ")
    assert told in str(e.value)
    assert "\n" not in str(e.value)
    assert str(e.value).endswith(".")


def test_weights_that_are_not_numbers_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TracesError, match=r"NaN or infinity in model.layers.1.mlp.down_proj.weight, so that it computes"
    ):
        examine(loading.load(str(folder), device="cpu").model)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "names no model"),
        (" ", "names no model"),
        ("a\0b", "names no model"),
        ("two\nlines", "names no model"),
        ("~nobody-of-that-name/x", "There is no model at ~nobody-of-that-name/x"),
        ("./" + "x" * 300, "There is no model at ./xxx"),
        ("NOWHERE.GGUF", "There is no model at NOWHERE.GGUF"),
    ],
)
def test_names_that_are_none(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as e:
        loading.load(name)
    assert "\n" not in str(e.value)


def test_a_folder_has_no_revisions(folder: Path) -> None:
    with pytest.raises(
        UsageError, match="--revision main names a revision of the hub, and .* is a folder: leave it out"
    ):
        loading.load(str(folder), revision="main")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"GGUF" + b"\0" * 4096, b"no"])
@pytest.mark.parametrize("name", ["x.gguf", "x.GGUF"])
def test_a_gguf_file_that_is_none_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TracesError, match=rf"{name} is not a GGUF model") as e:
        loading.load(str(tmp_path / name))
    assert "\n" not in str(e.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.name.startswith((".", "x"))]


def test_what_conversions_that_were_killed_have_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = converted_models_dir()
    home.mkdir(parents=True)
    pid = os.fork()
    if not pid:
        temporary_beside(home / "smollm2-0123").mkdir()
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(list(home.iterdir())) == 1
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(TracesError):
        gguf.convert(tmp_path / "x.gguf", lambda _: None)
    assert not list(home.iterdir())


def test_who_made_a_folder_is_believed_in_its_format_alone(folder: Path) -> None:
    for told in ('{"run_id": "../x", "weights_hash": "a"}', '{"run_id": 5}', "[]", "{", '"x"'):
        (folder / loading.FINETUNED).write_text(told)
        assert loading.load(str(folder), device="cpu").finetuned is None
