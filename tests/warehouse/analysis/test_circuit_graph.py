"""A stored circuit is the graph that it was scored on, and the graph of a size has the edges that an evaluation of that size keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import circuit_rows as made
import numpy as np
import pytest

from capture.edges.edge_graph import EdgeGraph, LayerShape
from warehouse import Warehouse
from warehouse.analysis.circuit_graph import circuit_graph
from warehouse.analysis.circuit_selection import number_of_share, prune_edges, select_edges
from warehouse.analysis.graph_files import to_dot, write_graph
from warehouse.analysis.stored_circuit import load_circuit
from warehouse.errors import NotFoundError, UsageError

nx = pytest.importorskip("networkx")

GRAPH = EdgeGraph([LayerShape(4, 2), LayerShape(4, 2)])
ODD = EdgeGraph(
    [LayerShape(2, 2, apart=False), LayerShape(0, 0), LayerShape(2, 1, mlp=False), LayerShape(2, 2, parallel=True)]
)
"""Layers of all kinds: attention as one node, none, without an MLP, and parallel."""
SCORES = {
    ("embed", "L0H1.v"): -4.0, ("L0H2", "L1H1.q"): -3.0, ("embed", "L1H0.k"): 2.0, ("L1H1", "logits"): -1.0, ("M0", "M1"): 5.0,
}  # fmt: skip
"""The edges of a circuit; all others score 0. Key-value head 1 of layer 0 serves heads 2 and 3, head 0 of layer 1 heads 0 and 1."""


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("circuits") / "runs"
    random = np.random.default_rng(0)
    made.add_circuit(root, "one", GRAPH, {"eap-ig": lambda *e: SCORES.get(e, 0.0)}, node_score=lambda name: -len(name))
    made.add_circuit(root, "odd", ODD, {m: lambda *_: float(random.normal()) for m in ("eap", "gim")})
    made.add_circuit(root, "read", GRAPH, {"imported": lambda *_: None}, kept=[("embed", "L0H1.v"), ("L0H3", "logits")])
    made.add_circuit(root, "nodes", GRAPH, {})
    halves = {f"eap-ig {i}/2": lambda *e, i=i: SCORES.get(e, 0.0) * i for i in (1, 2)}
    made.add_circuit(root, "parts", GRAPH, halves | {"random": lambda *_: 9.0})
    with Warehouse(root) as wh:
        yield wh


@pytest.mark.parametrize(("name", "graph"), [("one", GRAPH), ("odd/eap", ODD)])
def test_arrays_are_those_of_the_model_s_graph(wh: Warehouse, name: str, graph: EdgeGraph) -> None:
    circuit = load_circuit(wh, name)
    assert [n.name for n in circuit.nodes] == [n.name for n in graph.nodes]
    assert [tuple(s) for s in circuit.sinks] == [(s.kind, s.layer, s.head, s.port) for s in graph.sinks]
    np.testing.assert_array_equal(circuit.edge_nodes, graph.edge_nodes)
    np.testing.assert_array_equal(circuit.edge_sinks, graph.edge_sinks)
    assert circuit.feeds == list(graph.feeds)


def test_a_size_has_the_edges_that_are_selected_and_pruned(wh: Warehouse) -> None:
    circuit = load_circuit(wh, "odd/gim")
    edges = (ODD.edge_nodes, ODD.edge_sinks, ODD.feeds)
    for selection in ("abs", "signed", "greedy"):
        for size in (0.02, 0.3, 1, 7):
            n = number_of_share(size, ODD.n_edges) if size <= 1 else size
            keep = prune_edges(select_edges(circuit.edge_values["score"], n, selection, *edges), *edges)
            np.testing.assert_array_equal(circuit.choose(size, selection), keep)
            found = circuit_graph(wh, "odd/gim", size=size, selection=selection)
            assert found.graph["n_edges"] == keep.sum() and found.graph["of_edges"] == ODD.n_edges
            assert nx.is_directed_acyclic_graph(found)
            assert all(nx.has_path(found, "embed", n) and nx.has_path(found, n, "logits") for n in found if keep.any())


def test_edges_have_their_ports_and_grouped_heads_share_theirs(wh: Warehouse) -> None:
    found = circuit_graph(wh, "one", size=5)
    assert {(a, b, key): facts["score"] for a, b, key, facts in found.edges(keys=True, data=True)} == {
        ("embed", "L0H2", "v"): -4.0, ("L0H2", "L1H1", "q"): -3.0, ("embed", "L1H1", "k"): 2.0, ("L1H1", "logits", ""): -1.0
    }  # fmt: skip
    assert found.edges["embed", "L0H2", "v"]["kv_head"] == 1 and "kv_head" not in found.edges["L0H2", "L1H1", "q"]
    assert found.nodes["L1H1"] == {"kind": "head", "layer": 1, "head": 1, "score": -4.0}
    assert found.nodes["embed"]["layer"] == -1 and found.nodes["logits"] == {"kind": "logits", "layer": 2}
    assert found.edges["embed", "L0H2", "v"]["rank"] == 2
    assert (found.graph["n_edges"], found.graph["circuit"], found.graph["task"]) == (4, "eap-ig", "made")


def test_an_imported_circuit_is_what_its_file_says(wh: Warehouse) -> None:
    found = circuit_graph(wh, "read")
    assert {(a, b) for a, b, _ in found.edges} == {("embed", "L0H3"), ("L0H3", "logits")}
    with pytest.raises(UsageError, match="No edge of circuit 'read/imported' has a score"):
        circuit_graph(wh, "read", size=0.1)


def test_parts_are_one_and_an_ensemble_goes_by_ranks(wh: Warehouse) -> None:
    whole = load_circuit(wh, "parts/eap-ig")
    np.testing.assert_allclose(whole.edge_values["score"], load_circuit(wh, "one").edge_values["score"] * 1.5)
    assert load_circuit(wh, "parts").name == "eap-ig", "what is random is not meant"
    assert load_circuit(wh, "parts/eap-ig 1/2").edge_values["rank"].min() == 1
    both = load_circuit(wh, "odd/ensemble")
    ranks = [load_circuit(wh, f"odd/{method}").edge_values["rank"] for method in ("eap", "gim")]
    order = both.order("abs")
    assert (np.diff((ranks[0] + ranks[1])[order]) >= 0).all() and len(order) == ODD.n_edges
    helps = both.edge_values["score"][both.order("signed")] < 0
    assert 0 < helps.sum() < len(helps) and (np.diff(helps.astype(int)) <= 0).all(), "what helps comes first"


def test_files_say_the_same(wh: Warehouse, tmp_path: Path) -> None:
    found = circuit_graph(wh, "one", size=5)
    write_graph(found, tmp_path / "c.graphml")
    again = nx.read_graphml(tmp_path / "c.graphml", force_multigraph=True)
    assert dict(again.nodes(data=True)) == dict(found.nodes(data=True))
    assert sorted((a, b, f["score"]) for a, b, f in again.edges(data=True)) == sorted(
        (a, b, f["score"]) for a, b, f in found.edges(data=True)
    )
    assert again.graph["run"] == "one" and again.graph["of_edges"] == GRAPH.n_edges
    dot = to_dot(found)
    assert re.findall(r'"(\w+)" -> "(\w+)" \[.*style=(\w+)\]', dot) == [
        ("embed", "L0H2", "solid"), ("embed", "L1H1", "dashed"), ("L0H2", "L1H1", "solid"), ("L1H1", "logits", "solid")
    ]  # fmt: skip
    assert dot.count("rank=same") == 4 and 'label="-4", color="#009E73", penwidth=5.00' in dot


def test_what_is_not_there_is_named(wh: Warehouse) -> None:
    for name, kind, says in (
        ("odd", UsageError, "has several circuits: name odd/eap or odd/gim"),
        ("odd/gem", NotFoundError, "No circuit 'gem'. Did you mean gim?"),
        (
            "nodes",
            UsageError,
            "'nodes' is of kind circuit, and has no circuits. Find some: traces circuit discover TASK",
        ),
        ("no", NotFoundError, "No run 'no'"),
    ):
        with pytest.raises(kind, match=re.escape(says)):
            circuit_graph(wh, name)
    for size in (0, -1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="a share of all edges, above 0 and up to 1, or their number"):
            circuit_graph(wh, "one", size=size)
    with pytest.raises(NotFoundError, match="No selection 'best'"):
        circuit_graph(wh, "one", selection="best")
