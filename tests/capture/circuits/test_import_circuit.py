"""A circuit of a file becomes a run, and the run's file is the one that was read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capture
from capture.edges.edge_model import EdgeModel
from warehouse import Warehouse
from warehouse.analysis.circuit_json import Shape, edge_name, node_name
from warehouse.analysis.stored_circuit import load_circuit
from warehouse.errors import RunExistsError, UsageError
from warehouse.validation.validate import validate

LLAMA = Shape(3, 4, False)
"""The tests' tiny models."""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Writes a file of a circuit; returns its path and what it holds."""

    def write(shape: Shape = LLAMA, **cfg: Any) -> tuple[Path, dict[str, Any]]:
        draw = random.Random(1)
        named = {"n_layers": shape.n_layers, "n_heads": shape.n_heads, "parallel_attn_mlp": shape.parallel}
        value = {
            "cfg": cfg | named,
            "nodes": {n: {"in_graph": draw.random() < 0.5} for n in [*map(node_name, shape.nodes()), "logits"]},
            "edges": {
                edge_name(*edge): {"score": draw.gauss(0, 1), "in_graph": draw.random() < 0.1} for edge in shape.edges()
            },
        }
        path = tmp_path / "circuit.json"
        path.write_text(json.dumps(value))
        return path, value

    return write


def test_a_run_of_a_file_is_the_file(write: Callable, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    path, value = write(d_model=32, model_name="tiny")
    value["edges"]["m2->logits"]["score"] = 9.0
    value["edges"]["input->m0"]["score"] = None
    value["nodes"]["m2"]["score"] = 2.0
    path.write_text(json.dumps(value))
    store = capture.import_circuit(path, run="read", root=root)
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    assert (store.meta.kind, store.meta.model.weights_hash, store.meta.model.n_kv_heads) == ("circuit", "", 4)
    ask = "SELECT source_layer, sink_kind, score, rank FROM circuit_edges WHERE rank = 1 OR score IS NULL ORDER BY rank"
    assert store.query(ask).fetchall() == [(2, "logits", -9.0, 1), (None, "mlp", None, None)], (
        "a score here is of no loss"
    )
    assert store.query("SELECT kind, layer, score FROM circuit_nodes WHERE rank = 1").fetchall() == [("mlp", 2, -2.0)]
    assert store.query("SELECT DISTINCT circuit, method, metric, n_edges, parallel FROM circuits").fetchall() == [
        ("imported", "imported", None, LLAMA.n_edges, False)
    ]  # fmt: skip
    capture.export_circuit(store, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == path.read_text()
    assert capture.import_circuit(path, run="read", root=root, skip_existing=True).path == store.path
    with pytest.raises(RunExistsError):
        capture.import_circuit(path, run="read", root=root)
    for name, says in (("c.svg", "End it in .json, .graphml or .dot"), ("runs/c.json", "is in the warehouse")):
        with pytest.raises(UsageError, match=says):
            capture.export_circuit(store, tmp_path / name)
    pytest.importorskip("networkx")
    graph = capture.export_circuit(store, tmp_path / "c.dot", size=0.1, selection="greedy")
    assert graph.read_text().startswith("digraph")


@pytest.mark.slow
def test_older_files_of_parallel_models_come_back_too(write: Callable, tmp_path: Path) -> None:
    path, value = write(Shape(2, 3, True))
    value["nodes"] = {name: node["in_graph"] for name, node in value["nodes"].items()}
    path.write_text(json.dumps(value))
    store = capture.import_circuit(path, run="read", root=tmp_path / "runs")
    capture.export_circuit(store, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == path.read_text()


def test_with_its_model_heads_are_grouped_as_the_model_has_them(
    write: Callable, tmp_path: Path, load_tiny: Callable
) -> None:
    path, value = write()
    model = load_tiny("llama")
    graph = EdgeModel(model.anatomy).graph
    store = capture.import_circuit(path, run="read", root=tmp_path, model=model)
    assert store.meta.model.weights_hash and store.meta.model.n_kv_heads == 2
    with Warehouse(tmp_path) as wh:
        circuit = load_circuit(wh, "read")
    np.testing.assert_array_equal(circuit.edge_nodes, graph.edge_nodes)
    np.testing.assert_array_equal(circuit.edge_sinks, graph.edge_sinks)
    for edge, (node, sink) in enumerate(zip(graph.edge_nodes, graph.edge_sinks, strict=True)):
        source, of = graph.nodes[node], graph.sinks[sink]
        if of.port != "k" or source.kind != "mlp":
            continue
        own = [value["edges"][f"m{source.layer}->a{of.layer}.h{2 * of.head + i}<k>"] for i in (0, 1)]
        assert circuit.edge_values["score"][edge] == pytest.approx(-sum(e["score"] for e in own))
        assert circuit.edge_values["in_graph"][edge] == any(e["in_graph"] for e in own)
    total = sum(edge["score"] for edge in value["edges"].values())
    assert circuit.edge_values["score"].sum() == pytest.approx(-total)


def test_a_file_of_another_model_is_refused(write: Callable, tmp_path: Path, load_tiny: Callable) -> None:
    path, _ = write(Shape(2, 4, True))
    says = "is of a model of 2 layers of 4 heads, parallel, and .* has 3 layers of 4 heads, not parallel"
    with pytest.raises(UsageError, match=says):
        capture.import_circuit(path, run="read", root=tmp_path / "runs", model=load_tiny("llama"))
    with pytest.raises(UsageError, match="No such file"):
        capture.import_circuit(tmp_path / "none.json", run="read", root=tmp_path / "runs")
    assert not list(tmp_path.glob("runs/*")), "nothing is left of it"
