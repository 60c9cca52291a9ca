from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from warehouse.errors import CorruptRunError
from warehouse.storage.blobs import Blob, ShardFile, TensorSpec

SPECS = {"a.L00": TensorSpec("F16", (3, 2)), "b": TensorSpec("F32", (5,)), "c": TensorSpec("BF16", (4,))}


def write(path: Path) -> dict[str, np.ndarray]:
    """Ten rows of each, in two pieces, tensors and pieces in no order."""
    rng = np.random.default_rng(0)
    dtypes = {"F16": np.float16, "F32": np.float32, "BF16": ml_dtypes.bfloat16}
    arrays = {n: rng.normal(size=(10, *s.row_shape)).astype(dtypes[s.dtype]) for n, s in SPECS.items()}
    shard = ShardFile(path, SPECS, dict.fromkeys(SPECS, 10))
    for name in ("c", "a.L00", "b"):
        shard.put(name, 6, arrays[name][6:])
        shard.put(name, 0, arrays[name][:6])
    shard.close()
    assert path.stat().st_size == shard.bytes
    return arrays


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    arrays = write(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as f:
        assert set(f.keys()) == set(SPECS)
        for name, x in arrays.items():
            assert np.array_equal(f.get_tensor(name).float().numpy(), x.astype(np.float32))
            assert np.array_equal(f.get_slice(name)[2:5].float().numpy(), x[2:5].astype(np.float32))


def test_we_read_what_safetensors_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_file({"x": x}, tmp_path / "y.safetensors")
    assert np.array_equal(Blob(tmp_path / "y.safetensors").rows("x", 1, 3), x[1:3])


def test_rows_are_read_only_views(tmp_path: Path) -> None:
    arrays = write(tmp_path / "x.safetensors")
    blob = Blob(tmp_path / "x.safetensors")
    rows = blob.rows("c", 3, 7)
    assert np.array_equal(rows, arrays["c"][3:7]) and rows.base is not None
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0
    with pytest.raises(CorruptRunError, match="rows 8 to 11"):
        blob.rows("c", 8, 11)
    with pytest.raises(CorruptRunError, match="no tensor d"):
        blob.rows("d", 0, 1)


def test_a_shard_that_is_not_full_is_not_closed(tmp_path: Path) -> None:
    shard = ShardFile(tmp_path / "x.safetensors", SPECS, dict.fromkeys(SPECS, 10))
    shard.put("b", 0, np.zeros((10, 5), np.float32))
    with pytest.raises(ValueError, match="not full"):
        shard.close()
    with pytest.raises(ValueError, match="its shard holds"):
        shard.put("b", 0, np.zeros((10, 5), np.float16))
    shard.abandon()


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 0.5, 0.99])
def test_a_file_cut_short_is_reported(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "x.safetensors"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CorruptRunError):
        Blob(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"not json",
        b'{"x": 3}',
        b'{"x": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32"}}',
    ],
)
def test_a_header_that_is_none_is_reported(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CorruptRunError):
        Blob(path)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CorruptRunError, match="missing"):
        Blob(tmp_path / "none.safetensors")


def test_the_header_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    n = int.from_bytes(data[:8], "little")
    assert n % 8 == 0 and json.loads(data[8 : 8 + n])["b"]["shape"] == [10, 5]
