"""Files of circuits are read and written back as they were, and whatever else a file holds is refused in one line."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import circuit_rows as made
import numpy as np
import pytest

from capture.edges.edge_graph import EdgeGraph, LayerShape
from warehouse import Warehouse
from warehouse.analysis.circuit_json import Shape, edge_name, from_circuit, node_name, read_circuit_file, to_json
from warehouse.analysis.stored_circuit import load_circuit
from warehouse.errors import UsageError

GROUPED = EdgeGraph([LayerShape(4, 2), LayerShape(4, 2)])


def content(shape: Shape, **cfg: Any) -> dict[str, Any]:
    """What a file holds of a model of that shape, each edge and node with a score."""
    draw = random.Random(0)
    names = [*map(node_name, shape.nodes()), "logits"]
    return {
        "cfg": {"n_layers": shape.n_layers, "n_heads": shape.n_heads, "parallel_attn_mlp": shape.parallel} | cfg,
        "nodes": {name: {"in_graph": draw.random() < 0.5, "score": draw.gauss(0, 1)} for name in names},
        "edges": {
            edge_name(*edge): {"score": draw.gauss(0, 1), "in_graph": draw.random() < 0.01} for edge in shape.edges()
        },
    }


def test_edges_are_named_and_ordered_as_in_published_files() -> None:
    names = [edge_name(*edge) for edge in Shape(2, 2, False).edges()]
    assert names[:3] == ["input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>"]
    assert names[6:10] == ["input->m0", "a0.h0->m0", "a0.h1->m0", "input->a1.h0<q>"]
    assert names[-2:] == ["a1.h1->logits", "m1->logits"] and len(names) == 46
    parallel = [edge_name(*edge) for edge in Shape(2, 2, True).edges()]
    assert set(names) - set(parallel) == {f"a{layer}.h{h}->m{layer}" for layer in (0, 1) for h in (0, 1)}
    assert parallel[5:8] == ["input->a0.h1<v>", "input->m0", "input->a1.h0<q>"]
    for shape in (Shape(12, 12, False), Shape(5, 3, True), Shape(1, 1, False)):
        graph = EdgeGraph([LayerShape(shape.n_heads, shape.n_heads, parallel=shape.parallel)] * shape.n_layers)
        assert len({edge_name(*edge) for edge in shape.edges()}) == shape.n_edges == graph.n_edges
    assert Shape(12, 12, False).n_edges == 32_491


def test_a_file_of_gpt2_s_shape_is_written_back_as_it_was(tmp_path: Path) -> None:
    text = json.dumps(content(Shape(12, 12, False), d_model=768))
    (tmp_path / "c.json").write_text(text)
    assert to_json(read_circuit_file(tmp_path / "c.json")) == text


@pytest.mark.skipif("CIRCUIT_JSON" not in os.environ, reason="CIRCUIT_JSON names no published file")
def test_a_published_file_is_written_back_as_it_was() -> None:
    path = Path(os.environ["CIRCUIT_JSON"])
    assert json.loads(to_json(read_circuit_file(path))) == json.loads(path.read_text())


def test_older_files_and_what_has_no_score(tmp_path: Path) -> None:
    value = content(Shape(1, 2, False))
    value["nodes"] = {name: node["in_graph"] for name, node in value["nodes"].items()}
    value["edges"]["input->m0"]["score"] = None
    (tmp_path / "c.json").write_text(json.dumps(value))
    file = read_circuit_file(tmp_path / "c.json")
    assert json.loads(to_json(file)) == value and np.isnan(file.scores).sum() == 1


def put(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """Puts a value into a file's content."""

    def change(value: dict[str, Any]) -> None:
        for name in path[:-1]:
            value = value[name]
        value[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.pop("edges"), 'it has no "edges" in braces'),
        (put("cfg", "n_layers", to=3), "it has 46 edges, and a model of 3 layers of 2 heads, as its cfg says, has 100"),
        (put("cfg", "n_heads", to=1 << 60), "its cfg has n_heads 1152921504606846976, which is no such number"),
        (put("cfg", "n_layers", to=True), "its cfg has n_layers True"),
        (put("cfg", "parallel_attn_mlp", to=None), "does not say whether parallel_attn_mlp"),
        (put("nodes", "a7.h0", to={"in_graph": True}), "it has the node 'a7.h0'"),
        (lambda value: value["nodes"].pop("m1"), "it lacks the node 'm1'"),
        (lambda value: put("edges", "m9->m0", to=value["edges"].pop("input->m0"))(value), "it has the edge 'm9->m0'"),
        (put("edges", "input->m0", to={"score": 1.0}), "'input->m0' does not say whether in_graph is true or false"),
        (put("edges", "input->m0", "score", to="1"), "the score of 'input->m0' is '1', which is no number"),
        (put("edges", "input->m0", "score", to=float("inf")), "the score of 'input->m0' is inf"),
        (put("nodes", "m0", "neurons", to=[True]), "'m0' has neurons, and circuits here are of nodes and edges alone"),
    ],
)  # fmt: skip
def test_what_is_no_circuit_is_one_line(tmp_path: Path, change: Callable[[Any], object], says: str) -> None:
    value = content(Shape(2, 2, False))
    change(value)
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(UsageError) as error:
        read_circuit_file(tmp_path / "c.json")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_json_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"cfg": ')
    for path, says in (
        (tmp_path / "c.json", "at line 1"),
        (tmp_path / "d.json", "No such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(UsageError, match=says):
            read_circuit_file(path)


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("exports") / "runs"
    scores = dict(zip(made.names(GROUPED), np.random.default_rng(0).normal(size=GROUPED.n_edges).tolist(), strict=True))
    for run, facts in (("helps", {}), ("kl", {"metric": "kl"})):
        made.add_circuit(
            root, run, GROUPED, {"eap": lambda *e: scores[e]}, facts=facts, node_score=lambda n: len(n) / 8
        )
    odd = [LayerShape(2, 2), LayerShape(2, 2, mlp=False)]
    made.add_circuit(root, "odd", EdgeGraph(odd), {"eap": lambda *_: 1.0})
    made.add_circuit(root, "block", EdgeGraph([LayerShape(2, 2, apart=False)]), {"eap": lambda *_: 1.0})
    with Warehouse(root) as wh:
        yield wh


def test_a_key_value_head_is_shared_out_among_its_query_heads(wh: Warehouse) -> None:
    circuit = load_circuit(wh, "helps")
    keep = circuit.choose(0.4, "greedy")
    value = json.loads(to_json(from_circuit(circuit, keep, {"d_model": 64})))
    assert value["cfg"] == {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 64}
    assert len(value["edges"]) == Shape(2, 4, False).n_edges
    of = dict(
        zip(made.names(GROUPED), zip(circuit.edge_values["score"].tolist(), keep.tolist(), strict=True), strict=True)
    )
    for head in range(4):
        for port, there, share in (("q", head, 1), ("k", head // 2, 2), ("v", head // 2, 2)):
            for source, name in (("embed", "input"), ("L0H3", "a0.h3"), ("M0", "m0")):
                score, kept = of[source, f"L1H{there}.{port}"]
                assert value["edges"][f"{name}->a1.h{head}<{port}>"] == {"score": -score / share, "in_graph": kept}
    total = sum(edge["score"] for edge in value["edges"].values())
    assert total == pytest.approx(-circuit.edge_values["score"].sum()) and abs(total) > 1
    assert value["nodes"]["input"] == {"in_graph": True, "score": -5 / 8} and value["nodes"]["logits"] == {
        "in_graph": True
    }
    assert {name for name, node in value["nodes"].items() if node["in_graph"]} >= {
        name.split("->")[0] for name, edge in value["edges"].items() if edge["in_graph"]
    }


def test_a_score_there_is_of_a_loss(wh: Warehouse) -> None:
    files = [from_circuit(c, c.choose(), {}) for c in map(lambda run: load_circuit(wh, run), ("helps", "kl"))]
    np.testing.assert_array_equal(files[0].scores, -files[1].scores)
    np.testing.assert_array_equal(files[0].in_graph, files[1].in_graph)


def test_a_model_that_the_format_cannot_tell_of_is_refused(wh: Warehouse) -> None:
    for run, says in (("odd", "whose layers are not alike"), ("block", "attention as one node")):
        circuit = load_circuit(wh, run)
        with pytest.raises(UsageError, match=says):
            from_circuit(circuit, circuit.choose(1), {})
