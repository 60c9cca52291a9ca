"""Arrays in .npz files are those that TraceStore reads, and numpy alone opens them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from warehouse import Warehouse, exports
from warehouse.errors import UsageError


@pytest.fixture(scope="module")
def wh(tiny_root: Path) -> Iterator[Warehouse]:
    with Warehouse(tiny_root) as wh:
        yield wh


@pytest.mark.parametrize("run", ["llama", "gpt2"])
def test_every_site_comes_back_as_it_is_read(wh: Warehouse, run: str, tmp_path: Path) -> None:
    store = wh.run(run)
    everything = ["resid", "hidden", "qkv", "attn", "attn_out", "mlp_out", "mlp_act"]
    assert exports.npz(wh, run, tmp_path / "out", sites=everything, where="idx < 2") == 2
    for file in (tmp_path / "out").glob("*.npz"):
        example = file.stem.removesuffix("-0")
        with np.load(file) as f:
            about = json.loads(f["about"].item())
            assert about["tokens"] == store.encodings(example)["tokens"]
            assert (about["run_id"], about["weights_hash"]) == (run, store.meta.model.weights_hash)
            assert np.array_equal(f["token_ids"], store.encodings(example)["input_ids"])
            expected = {f"resid.{s}": store.resid(example, s) for s in ("embed", "pre_attn", "post_attn", "post_mlp")}
            expected |= {x: store.qkv(example, x) for x in "qkv"}
            expected |= {x: getattr(store, x)(example) for x in ("hidden", "attn", "attn_out", "mlp_out", "mlp_act")}
            assert set(f.files) == {*expected, "about", "token_ids"}
            for name, array in expected.items():
                assert f[name].dtype == array.dtype and np.array_equal(f[name], array), name
            assert about["layers"]["attn"] == [0, 1, 2] and about["layers"]["hidden"] == [0, 1, 2, 3]


def test_layers_can_be_chosen(wh: Warehouse, tmp_path: Path) -> None:
    example = wh.run("llama").tokens.example_id[0]
    exports.npz(wh, "llama", tmp_path / "out", layers=[2, 0], examples=[example[:8]])
    (file,) = (tmp_path / "out").glob("*.npz")
    with np.load(file) as f:
        assert json.loads(f["about"].item())["layers"] == {"resid.post_mlp": [0, 2], "attn": [0, 2]}
        assert np.array_equal(f["attn"], wh.run("llama").attn(example)[[0, 2]])


def test_bfloat16_becomes_float32_with_the_same_values(capture_tiny, tmp_path: Path) -> None:
    store = capture_tiny(tmp_path / "runs", "b", store_dtype="bfloat16", max_len=16)
    with Warehouse(tmp_path / "runs") as wh:
        exports.npz(wh, "b", tmp_path / "out", where="idx = 0")
    (file,) = (tmp_path / "out").glob("*.npz")
    with np.load(file) as f:
        assert f["resid.post_mlp"].dtype == np.float32
        assert np.array_equal(f["resid.post_mlp"], store.resid(file.stem.removesuffix("-0")).astype(np.float32))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"sites": ["resid.post"]}, "Did you mean resid.post_mlp"),
        ({"sites": ["cross.q"]}, "has no cross.q; it has resid.embed"),
        ({"layers": [7]}, "in these layers"),
    ],
)
def test_what_is_not_there_is_said(wh: Warehouse, tmp_path: Path, options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        exports.npz(wh, "llama", tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []
