"""int8 codes: what comes back is half a step from what was recorded, and what must stay exact is the same bits."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from warehouse.errors import CorruptRunError
from warehouse.storage.blobs import Blob, ShardFile, TensorSpec
from warehouse.storage.coded_shard import COMPANIONS_CHECKSUM, companions_checksum, write_coded
from warehouse.storage.int8 import COMPANIONS
from warehouse.storage.objects import ObjectPath

RNG = np.random.default_rng(3)
FIRSTS = np.arange(0, 6000, 40)


def rows(dtype: type, shape: tuple[int, ...] = (24,)) -> np.ndarray:
    """Dimensions of many sizes and centres, one that never changes, heavy tails, huge first tokens, one huge row among the others."""
    x = RNG.standard_t(4, (6000, *shape)) * np.geomspace(1e-3, 10, shape[-1]) + RNG.normal(size=shape) * 5
    x[..., 3] = 2.5
    x[FIRSTS] *= 900
    x[77] *= 500
    return x.clip(-6e4, 6e4).astype(dtype)


@pytest.fixture(params=[np.float16, np.float32, ml_dtypes.bfloat16], ids=["F16", "F32", "BF16"])
def coded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    recorded = {
        "resid.L0": rows(request.param),
        "v.L0": rows(request.param, (3, 8)),
        "q.L0": rows(request.param, (3, 8)),
    }
    if request.param != np.float16:
        recorded["resid.L0"][:, 5] = (RNG.uniform(-3e38, 3e38, 6000)).astype(request.param)  # a range beyond float32's
    dtype = request.node.callspec.id
    shard = ShardFile(
        tmp_path / "recorded",
        {n: TensorSpec(dtype, x.shape[1:]) for n, x in recorded.items()},
        dict.fromkeys(recorded, 6000),
    )
    for name, x in recorded.items():
        shard.put(name, 0, x)
    shard.close()
    write_coded(tmp_path / "recorded", tmp_path / "coded.safetensors", {"resid.L0": FIRSTS, "v.L0": FIRSTS})
    return tmp_path / "coded.safetensors", recorded


def test_half_a_scale_at_most_and_what_is_exact_to_the_bit(coded: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, recorded = coded
    with Blob(path) as blob:
        assert set(blob.tensors) == set(recorded)
        assert blob.rows("q.L0", 10, 20).tobytes() == recorded["q.L0"][10:20].tobytes()  # not coded
        for name in ("resid.L0", "v.L0"):
            x, read = recorded[name].astype(np.float32), blob.rows(name, 0, 6000)
            centre, scale, exact, exact_rows, outliers, places = (blob.tensor(f"{name}.{c}") for c in COMPANIONS)
            assert blob.dtype(name) == read.dtype == np.float32
            with np.errstate(over="ignore"):
                allowed = scale * 0.5 + np.spacing(np.abs(centre)) + np.spacing(np.abs(x))
                assert (np.abs(read - x) <= allowed).all()
            assert set(FIRSTS) | {77} <= set(exact_rows.tolist())
            assert exact.tobytes() == recorded[name][exact_rows].tobytes()
            assert np.array_equal(read[exact_rows], x[exact_rows])
            assert np.array_equal(read.reshape(-1)[places], x.reshape(-1)[places])
            assert len(places) > 0 and outliers.dtype == recorded[name].dtype
            assert np.array_equal(read[..., 3], x[..., 3])
            for chosen in (RNG.integers(0, 6000, 500), np.array([5999, 0, 0, 77]), np.zeros(0, np.int64)):
                out = np.empty((len(chosen), *x.shape[1:]), np.float32)
                blob.take_into(out, name, chosen)
                assert np.array_equal(out, read[chosen])
            for start, end in ((0, 1), (39, 81), (6000, 6000)):
                assert np.array_equal(blob.rows(name, start, end), read[start:end])
        head = np.empty((2, 8), np.float16)
        blob.take_into(head, "v.L0", np.array([41, 5]), head=1)
        assert np.array_equal(head, blob.rows("v.L0", 0, 50)[[41, 5], 1].astype(np.float16))


def test_anyone_reads_the_file(coded: tuple[Path, dict[str, np.ndarray]]) -> None:
    """safetensors alone, and the formula of the documentation, give what we read."""
    path, _ = coded
    with safe_open(path, framework="numpy") as f, Blob(path) as blob:
        assert f.get_slice("resid.L0").get_dtype() == "I8"
        if f.get_slice("resid.L0.exact").get_dtype() == "BF16":
            pytest.skip("numpy has no bfloat16")
        part = {c: f.get_tensor(f"resid.L0.{c}") for c in COMPANIONS}
        values = part["centre"] + part["scale"] * f.get_tensor("resid.L0").astype(np.float32)
        values.reshape(-1)[part["outlier_places"]] = part["outliers"]
        values[part["exact_rows"]] = part["exact"]
        assert np.array_equal(values, blob.rows("resid.L0", 0, 6000))
        assert f.metadata()[COMPANIONS_CHECKSUM] == companions_checksum({n: f.get_tensor(n) for n in blob.companions})


def test_one_sequence_of_one_token(tmp_path: Path) -> None:
    shard = ShardFile(tmp_path / "r", {"resid.L0": TensorSpec("F16", (4,))}, {"resid.L0": 1})
    shard.put("resid.L0", 0, np.array([[1, 2, 3, 60000]], np.float16))
    shard.close()
    write_coded(tmp_path / "r", tmp_path / "c", {"resid.L0": np.array([0])})
    with Blob(tmp_path / "c") as blob:
        assert blob.rows("resid.L0", 0, 1).tolist() == [[1, 2, 3, 60000]]


def test_companions_that_do_not_fit_are_damage(coded: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = coded
    with Blob(path) as blob:
        blob.tensor("resid.L0.exact_rows")
        start = blob._starts["resid.L0.exact_rows"]
    with path.open("r+b") as f:
        f.seek(start)
        f.write((1 << 40).to_bytes(8, "little"))
    with Blob(path) as blob, pytest.raises(CorruptRunError, match="companions of other rows"):
        blob.rows("resid.L0", 0, 1)


def test_of_an_object_codes_are_one_request_and_what_lies_beside_them_one_more(
    coded: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, requests = coded[0].read_bytes(), list[tuple[int, int]]()

    def read_range(path: ObjectPath, start: int, end: int) -> memoryview:
        requests.append((start, end))
        return memoryview(data)[start:end]

    monkeypatch.setattr(ObjectPath, "read_start", lambda path, most: (memoryview(data)[:most], len(data)))
    monkeypatch.setattr(ObjectPath, "read_range", read_range)
    with Blob(coded[0]) as blob, Blob(ObjectPath.parse("s3://bucket/coded.safetensors")) as far:
        for name in ("resid.L0", "v.L0", "q.L0"):
            requests.clear()
            assert np.array_equal(far.rows(name, 100, 140), blob.rows(name, 100, 140))
            assert len(requests) == (1 if name == "q.L0" else 2)
            chosen = np.array([3000, 40, 77, 3000])
            out, expected = (np.empty((4, *blob.shape(name)[1:]), np.float32) for _ in range(2))
            far.take_into(out, name, chosen)
            blob.take_into(expected, name, chosen)
            assert np.array_equal(out, expected) and sum(end - start for start, end in requests) < len(data)
