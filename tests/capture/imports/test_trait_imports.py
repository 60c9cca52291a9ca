"""Vectors of traits from other tools: a control vector, a pipeline's files; what was exported comes back, and can be projected on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from synthetic import add_run
from synthetic_traits import add_responses, grid

import capture
from capture import exports as capture_exports
from warehouse import TraceStore, Warehouse, exports
from warehouse.errors import TracesError, UsageError
from warehouse.schema.sites import Key
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

D, LAYERS = 8, 4


def imported(path: Path, root: Path, run: str = "i", **options: Any) -> TraceStore:
    store = capture.import_traces(path, run=run, root=root, **options)
    assert [c for c in validate(store.path) if c.passed is False] == []
    return store


def vector(layer: int, width: int = D) -> np.ndarray:
    return np.random.default_rng(layer).standard_normal(width).astype(np.float32)


def control_vector(
    path: Path, width: int = D, architecture: str = "controlvector", layers: tuple[int, ...] = (1, 2)
) -> Path:
    writer = GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    for layer in layers:
        writer.add_tensor(f"direction.{layer}", vector(layer, width))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rows(store: TraceStore, columns: str = "layer, vector, gap") -> list[tuple[Any, ...]]:
    return store.query(f"SELECT {columns} FROM trait_vectors ORDER BY trait, method, layer").fetchall()


def test_a_control_vector_has_its_directions_and_their_lengths(tmp_path: Path) -> None:
    store = imported(control_vector(tmp_path / "happy.gguf"), tmp_path / "runs")
    for (layer, unit, gap), expected in zip(rows(store), (1, 2), strict=True):
        assert layer == expected
        np.testing.assert_allclose(np.asarray(unit) * gap, vector(layer), rtol=1e-6)
    assert rows(store, "trait, method, midpoint, n_pos") == [("happy", "imported", None, None)] * 2
    assert (store.meta.model.name, store.meta.options["from"]["model_hint"]) == ("llama", "llama")


@pytest.mark.parametrize("scale", ["unit", "gap"])
def test_what_was_exported_as_a_control_vector_comes_back(tmp_path: Path, scale: str) -> None:
    made = [
        {"trait": "loud", "method": "probe", "component": "residual", "layer": n, "gap": 2.5, "vector": (vector(n) / np.linalg.norm(vector(n))).tolist()}
        for n in range(LAYERS)
    ]  # fmt: skip
    add_run(tmp_path / "runs", "v", "trait-vectors", {"trait_vectors": made}, d_model=D, n_layers=LAYERS)
    with Warehouse(tmp_path / "runs") as wh:
        exports.control_vector(wh, "v", tmp_path / "loud.gguf", scale=scale)
    store = imported(tmp_path / "loud.gguf", tmp_path / "runs", "back")
    assert rows(store, "trait, method, layer") == [("loud", "probe", n) for n in (1, 2, 3)]
    for layer, unit, gap in rows(store):
        np.testing.assert_allclose(unit, made[layer]["vector"], atol=1e-7)
        assert gap == pytest.approx(2.5 if scale == "gap" else 1, rel=1e-6)
    assert store.meta.options["from"]["run_id"] == "v"


def test_what_was_exported_for_a_pipeline_comes_back(tmp_path: Path) -> None:
    row = {"trait": "loud", "method": "probe", "component": "residual", "norm": 2.0, "train_accuracy": 0.75}
    made = [row | {"layer": n, "vector": [0.6, 0.8, 0.0, 0.0]} for n in (0, 3)]
    add_run(tmp_path / "runs", "v", "trait-vectors", {"trait_vectors": made})
    with Warehouse(tmp_path / "runs") as wh:
        capture_exports.trait_tensors(wh, "v", tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out" / "vectors" / "loud" / "probe_layer3.pt"):
        store = imported(path, tmp_path / "runs", path.stem)
        found = rows(store, "trait, method, layer, norm, train_accuracy, vector")
        assert [f[:5] for f in found] == [("loud", "probe", n, 2.0, 0.75) for n in (0, 3)][-len(found) :]
        for f in found:
            np.testing.assert_allclose(f[5], [0.6, 0.8, 0, 0], atol=1e-7)


def test_means_that_were_exported_come_back_under_their_ids(tmp_path: Path) -> None:
    responses = grid(2)
    tensors = {
        ("mean.resid.post_mlp", n): np.random.default_rng(n).standard_normal((len(responses), D)).astype(np.float32)
        for n in range(LAYERS)
    }
    add_responses(tmp_path / "runs", "said", responses, tensors, n_layers=LAYERS)
    before = TraceStore(run_dir(tmp_path / "runs", "said"))
    with Warehouse(tmp_path / "runs") as wh:
        capture_exports.trait_tensors(wh, "said", tmp_path / "out")
    store = imported(tmp_path / "out" / "activations" / "all_layers.pt", tmp_path / "runs")
    keys = before.query("SELECT example_id, seq FROM responses ORDER BY ALL").fetchall()
    assert store.meta.counts.sequences == len(keys)
    for example_id, seq in keys:
        for layer in range(LAYERS):
            key = Key("dec", "mean.resid.post_mlp", layer)
            np.testing.assert_array_equal(store.rows(key, example_id, seq), before.rows(key, example_id, seq))


def test_a_run_is_projected_on_imported_vectors_of_its_model(tmp_path: Path, load_tiny: Callable[..., Any]) -> None:
    loaded = load_tiny()
    width = loaded.model.config.hidden_size
    control_vector(tmp_path / "happy.gguf", width)
    root = tmp_path / "runs"
    imported(tmp_path / "happy.gguf", root, "vectors", model=loaded)
    run = capture.next_token(loaded, ["The lamp was lit."], keep="resid", run="r", root=root)
    projected = capture.project(run, "happy", vectors="vectors", layers=(1, 2), run="p", root=root)
    (example,) = run.query("SELECT example_id FROM examples").fetchone()
    for layer in (1, 2):
        found = projected.query(
            f"SELECT projection FROM trait_projections WHERE layer = {layer} ORDER BY pos"
        ).fetchall()
        unit = vector(layer, width) / np.linalg.norm(vector(layer, width))
        expected = run.resid(example, "post_mlp", layer).astype(np.float32) @ unit
        np.testing.assert_allclose([p for (p,) in found], expected, rtol=1e-4, atol=1e-4)  # sums in float32


def test_what_is_no_vector_is_one_line_and_no_run(tmp_path: Path, load_tiny: Callable[..., Any]) -> None:
    root = tmp_path / "runs"

    def refused(path: Path, said: str, **options: Any) -> None:
        with pytest.raises(TracesError, match=said) as caught:
            capture.import_traces(path, run="no", root=root, **options)
        assert "\n" not in str(caught.value)
        assert not run_dir(root, "no").exists()

    whole = control_vector(tmp_path / "a.gguf")
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:60])
    refused(tmp_path / "cut.gguf", "no whole GGUF file")
    refused(
        control_vector(tmp_path / "model.gguf", architecture="llama"), "is a GGUF file of llama, not a control vector"
    )
    refused(whole, "vectors of width 8 up to layer 2, and .* has 3 layers of width", model=load_tiny())
    refused(whole, "is for files with tokens", tokenizer="smollm2")
    torch.save(torch.zeros(4), tmp_path / "zero.pt")
    (tmp_path / "zero_metadata.json").write_text(json.dumps({"trait": "calm", "layer": 1}))
    refused(tmp_path / "zero.pt", "the vector of calm in layer 1 holds NaN or infinity, or is 0")
    (tmp_path / "zero_metadata.json").write_text("{}")
    refused(tmp_path / "zero.pt", "does not say of which `layer`")
    torch.save(torch.zeros(3, 2, 4), tmp_path / "all_layers.pt")
    (tmp_path / "metadata.json").write_text(json.dumps({"n_layers": 5}))
    refused(tmp_path / "all_layers.pt", "has the shape .* says n_layers 5")
    with pytest.raises(UsageError, match="is for vectors of traits"):
        torch.save(
            {"blocks.0.hook_resid_post": torch.zeros(1, 2, 4), "tokens": torch.zeros(1, 2).long()}, tmp_path / "c.pt"
        )
        capture.import_traces(tmp_path / "c.pt", run="no", root=root, model=load_tiny())
