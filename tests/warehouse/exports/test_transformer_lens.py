"""Caches for TransformerLens have its names and shapes, and the run's own values; tests/peers reads them with the library itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from warehouse import Warehouse, exports
from warehouse.errors import UsageError


@pytest.fixture(scope="module")
def wh(tiny_root: Path) -> Iterator[Warehouse]:
    with Warehouse(tiny_root) as wh:
        yield wh


@pytest.mark.parametrize("run, rotated", [("llama", "rot_"), ("gpt2", "")])
def test_every_hook_has_the_values_of_its_site(wh: Warehouse, run: str, rotated: str, tmp_path: Path) -> None:
    store = wh.run(run)
    assert exports.transformer_lens(wh, run, tmp_path / "out", where="idx < 2") == 2
    for file in (tmp_path / "out").glob("*.safetensors"):
        example = file.stem.removesuffix("-0")
        expected = {"unembed.hook_in": store.hidden(example, 3)}
        for n in range(3):
            block = f"blocks.{n}"
            expected |= {
                f"{block}.hook_resid_pre": store.resid(example, "pre_attn", n),
                f"{block}.hook_resid_mid": store.resid(example, "post_attn", n),
                f"{block}.hook_resid_post": store.resid(example, "post_mlp", n),
                f"{block}.hook_attn_out": store.attn_out(example, n),
                f"{block}.hook_mlp_out": store.mlp_out(example, n),
                f"{block}.mlp.hook_post": store.mlp_act(example, n),
                f"{block}.attn.hook_pattern": store.attn(example, n),
                f"{block}.attn.hook_{rotated}q": store.qkv(example, "q", n).swapaxes(0, 1),
                f"{block}.attn.hook_{rotated}k": store.qkv(example, "k", n).swapaxes(0, 1),
                f"{block}.attn.hook_v": store.qkv(example, "v", n).swapaxes(0, 1),
            }
        with safe_open(file, "numpy") as f:
            about = f.metadata()
            assert json.loads(about["token_ids"]) == store.encodings(example)["input_ids"].tolist()
            assert about["weights_hash"] == store.meta.model.weights_hash
            assert set(f.keys()) == set(expected)
            for name, array in expected.items():
                found = f.get_tensor(name)
                if name.endswith(("k", "hook_v")) and run == "llama":  # grouped heads stand once
                    array = array[:, ::2]
                assert found.shape == (1, *array.shape) and found.dtype == array.dtype, name
                assert np.array_equal(found[0], array), name


def test_sites_and_layers_can_be_chosen(wh: Warehouse, tmp_path: Path) -> None:
    exports.transformer_lens(wh, "llama", tmp_path / "out", sites=["resid.post_mlp"], layers=[1], where="idx = 0")
    (file,) = (tmp_path / "out").glob("*.safetensors")
    with safe_open(file, "numpy") as f:
        assert list(f.keys()) == ["blocks.1.hook_resid_post"]
        assert json.loads(f.metadata()["sites"]) == {"blocks.1.hook_resid_post": "resid.post_mlp.L01"}


def test_bfloat16_stays_bfloat16(capture_tiny, tmp_path: Path) -> None:
    store = capture_tiny(tmp_path / "runs", "b", store_dtype="bfloat16", max_len=16)
    with Warehouse(tmp_path / "runs") as wh:
        exports.transformer_lens(wh, "b", tmp_path / "out", sites=["resid.post_mlp"], where="idx = 0")
    import torch
    from safetensors.torch import load_file

    (file,) = (tmp_path / "out").glob("*.safetensors")
    x = load_file(file)["blocks.2.hook_resid_post"]
    assert x.dtype == torch.bfloat16
    assert np.array_equal(x[0].float().numpy(), store.resid(file.stem.removesuffix("-0"), layer=2).astype(np.float32))


def test_what_has_no_hook_is_said(wh: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no hook for resid.embed"):
        exports.transformer_lens(wh, "llama", tmp_path / "out", sites=["resid.embed"])
