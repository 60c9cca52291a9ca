"""A control vector is read by gguf itself: names, numbers, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from synthetic import add_run

from warehouse import Warehouse, exports
from warehouse.errors import UsageError

gguf = pytest.importorskip("gguf")
D, LAYERS = 8, 4


def vector(layer: int, method: str) -> list[float]:
    x = np.random.default_rng([layer, len(method)]).standard_normal(D).astype(np.float32)
    return (x / np.linalg.norm(x)).tolist()


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("vectors") / "runs"
    rows = [
        {"trait": "loud", "method": method, "component": component, "layer": layer, "gap": 2.5, "vector": vector(layer or 0, method)}
        for method in ("mean_diff", "probe")
        for component in ("residual", "attn_out")
        for layer in (None, *range(LAYERS))
        if not (component == "attn_out" and layer is None)
    ]  # fmt: skip
    add_run(root, "one", "trait-vectors", {"trait_vectors": rows}, d_model=D, n_layers=LAYERS)
    other = rows[1] | {"trait": "calm", "method": "ica"}
    add_run(root, "two", "trait-vectors", {"trait_vectors": [rows[1], other]}, d_model=D, n_layers=LAYERS)
    with Warehouse(root) as wh:
        yield wh


def text(reader: object, key: str) -> str:
    field = reader.get_field(key)
    return bytes(field.parts[-1]).decode()


@pytest.mark.parametrize("scale, factor", [("unit", 1), ("gap", 2.5)])
def test_gguf_reads_a_direction_a_layer(wh: Warehouse, tmp_path: Path, scale: str, factor: float) -> None:
    file = tmp_path / "loud.gguf"
    assert exports.control_vector(wh, "one", file, scale=scale) == [1, 2, 3]
    reader = gguf.GGUFReader(file)
    assert text(reader, "general.architecture") == "controlvector"
    assert text(reader, "trace_warehouse.trait") == "loud" and text(reader, "trace_warehouse.method") == "mean_diff"
    assert text(reader, "trace_warehouse.run_id") == "one" and text(reader, "controlvector.model_hint")
    tensors = {t.name: t for t in reader.tensors}
    assert set(tensors) == {f"direction.{n}" for n in (1, 2, 3)}
    for n in (1, 2, 3):
        tensor = tensors[f"direction.{n}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(tensor.data, np.array(vector(n, "mean_diff"), np.float32) * np.float32(factor))


def test_layers_and_method_can_be_chosen(wh: Warehouse, tmp_path: Path) -> None:
    assert exports.control_vector(wh, "one", tmp_path / "x.gguf", method="probe", layers=[2]) == [2]
    (tensor,) = gguf.GGUFReader(tmp_path / "x.gguf").tensors
    assert np.array_equal(tensor.data, np.array(vector(2, "probe"), np.float32))


@pytest.mark.parametrize(
    "run, options, says",
    [
        ("one", {"layers": [0]}, "from 1 on"),
        ("one", {"layers": [9]}, "No layer with a vector '9'"),
        ("one", {"trait": "lout"}, "Did you mean loud"),
        ("one", {"scale": "big"}, "There is: unit, gap"),
        ("two", {}, "--trait: calm, loud"),
    ],
)
def test_what_is_unclear_is_asked(wh: Warehouse, tmp_path: Path, run: str, options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        exports.control_vector(wh, run, tmp_path / "x.gguf", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_without_force(wh: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        exports.control_vector(wh, "one", tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_text() == "mine"
    exports.control_vector(wh, "one", tmp_path / "x.gguf", force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
