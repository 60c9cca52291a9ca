"""Runs of circuits made of a graph and of scores that a test writes down: no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import synthetic

from capture.edges.edge_graph import EdgeGraph, Node, Sink

Score = Callable[[str, str], float | None]
"""An edge's score by the names of its ends; None: it has none."""


def add_circuit(
    root: Path,
    run_id: str,
    graph: EdgeGraph,
    circuits: Mapping[str, Score],
    *,
    facts: Mapping[str, Any] | None = None,
    node_score: Callable[[str], float | None] = lambda name: None,
    kept: Sequence[tuple[str, str]] | None = None,
    **more: Any,
) -> Path:
    """Adds a run of circuits by name; `kept`: the edges that an imported circuit's file has in the graph."""
    first = graph.layers[0]
    rows: dict[str, list[dict[str, Any]]] = {"circuits": [], "circuit_nodes": [], "circuit_edges": []}
    for name, score in sorted(circuits.items()):
        method = name.split(" ")[0]
        rows["circuits"].append(
            {"circuit": name, "method": method, "task": "made", "metric": "logit_diff", "level": "edge", "source_run_id": "task",
             "n_layers": len(graph.layers), "n_heads": first.heads, "n_kv_heads": first.kv_heads, "parallel": first.parallel,
             "heads_apart": first.apart, "n_examples": 2, "n_edges": graph.n_edges, "n_nodes": len(graph.nodes)}
            | dict(facts or {})
        )  # fmt: skip
        rows["circuit_nodes"] += [
            {"circuit": name, "kind": n.kind, "layer": n.layer, "head": n.head, "score": node_score(n.name)}
            for n in graph.nodes
        ]
        edges = [
            {"circuit": name, "source_kind": n.kind, "source_layer": n.layer, "source_head": n.head, "sink_kind": s.kind,
             "sink_layer": s.layer, "sink_head": s.head, "port": s.port, "score": score(n.name, s.name),
             "in_graph": None if kept is None else (n.name, s.name) in kept}
            for n, s in ends(graph)
        ]  # fmt: skip
        known = sorted((e for e in edges if e["score"] is not None), key=lambda e: -abs(e["score"]))
        for rank, edge in enumerate(known, 1):
            edge["rank"] = rank
        rows["circuit_edges"] += edges
    return synthetic.add_run(root, run_id, "circuit", rows, n_layers=len(graph.layers), n_heads=first.heads, **more)


def ends(graph: EdgeGraph) -> list[tuple[Node, Sink]]:
    """The ends of every edge, in the graph's order."""
    pairs = zip(graph.edge_nodes.tolist(), graph.edge_sinks.tolist(), strict=True)
    return [(graph.nodes[node], graph.sinks[sink]) for node, sink in pairs]


def names(graph: EdgeGraph) -> list[tuple[str, str]]:
    """The names of the ends of every edge, in the graph's order."""
    return [(node.name, sink.name) for node, sink in ends(graph)]
