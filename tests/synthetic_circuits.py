"""A task's run of many pairs, circuits found for it and an evaluation of them, made of numbers from a seed: no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import synthetic

from capture.edges.edge_graph import EdgeGraph, LayerShape, Node
from warehouse.schema.tables import STORED

GRAPH = EdgeGraph([LayerShape(2, 1)] * 2)
"""Two layers of two heads that share a key-value head: 7 nodes, 36 edges."""
PAIRS = [f"p{i:02d}" for i in range(24)]
FOUND_ON, HELD_OUT = PAIRS[:4], PAIRS[4:]
SIZES = (0.01, 0.1, 0.5, 1.0)
DRAWS = 3
_SHAPE = {
    "n_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 1,
    "parallel": False,
    "heads_apart": True,
    "n_edges": 36,
    "n_nodes": 7,
}


def node_key(node: Node) -> dict[str, Any]:
    """Writes the columns that name a node."""
    return {"kind": node.kind, "layer": node.layer, "head": node.head}


def edge_keys() -> list[dict[str, Any]]:
    """Writes the columns that name each edge, in the graph's order."""
    nodes = [{f"source_{k}": v for k, v in node_key(n).items()} for n in GRAPH.nodes]
    sinks = [{"sink_kind": s.kind, "sink_layer": s.layer, "sink_head": s.head, "port": s.port} for s in GRAPH.sinks]
    return [nodes[n] | sinks[s] for n, s in zip(GRAPH.edge_nodes, GRAPH.edge_sinks, strict=True)]


def edge_scores(seed: int) -> np.ndarray:
    """Draws a score for each edge."""
    return np.random.default_rng(seed).normal(size=GRAPH.n_edges)


def ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks scores by size, 1 the largest."""
    place = np.empty(len(scores), dtype=int)
    place[np.argsort(-np.abs(scores), kind="stable")] = np.arange(1, len(scores) + 1)
    return place


def add_pairs(root: Path, run_id: str = "pairs", minute: int = 0) -> Path:
    """Adds a task's run: two templates and two corruptions, every second pair and every third."""
    pair = {"task": "made", "n_tokens": 3, "first_changed": 1, "n_changed": 1}
    rows = [
        pair | {"example_id": e, "seq": s, "role": role, "template": "AB"[i % 2], "corruption": f"c{i % 3 // 2}"}
        for i, e in enumerate(PAIRS)
        for s, role in enumerate(("clean", "corrupted"))
    ]
    return _add(root, run_id, "task", {"task_pairs": rows}, minute=minute)


def add_circuits(
    root: Path,
    run_id: str = "circuit",
    circuits: Mapping[str, np.ndarray] | None = None,
    examples: Mapping[str, int] | None = None,
    minute: int = 5,
    source: str = "pairs",
) -> Path:
    """Adds circuits from the scores of their edges, each by its name; a node's score is the sum of its edges'."""
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("circuits", "circuit_nodes", "circuit_edges", "circuit_node_scores")
    }
    for name, scores in (circuits or {"eap-ig": edge_scores(0), "random": edge_scores(1)}).items():
        of = {"circuit": name}
        method = name.split()[0]
        n = (examples or {}).get(name, len(FOUND_ON))
        facts = {
            "source_run_id": source,
            "task": "made",
            "corruption": "c0 | c1",
            "metric": "logit_diff",
            "level": "edge",
        }
        found = {
            "ablation": "resample",
            "n_examples": n,
            "n_templates": 2,
            "n_resamples": 100,
            "unit": "pair",
            "seed": 0,
        }
        told = {"n_selected_edges": 1, "n_selected_nodes": 1, "clean": 4.0, "corrupted": 0.0}
        tables["circuits"].append(of | {"method": method} | _SHAPE | facts | found | told)
        nodes = np.bincount(GRAPH.edge_nodes, weights=scores)
        tables["circuit_nodes"] += [
            of | node_key(node) | _scores(score, rank, nodes)
            for node, score, rank in zip(GRAPH.nodes, nodes, ranks(nodes), strict=True)
        ]
        tables["circuit_edges"] += [
            of | key | _scores(score, rank, scores)
            for key, score, rank in zip(edge_keys(), scores, ranks(scores), strict=True)
        ]
        tables["circuit_node_scores"] += [
            of | {"example_id": e, "score": score} | node_key(node)
            for e in FOUND_ON
            for node, score in zip(GRAPH.nodes, nodes, strict=True)
        ]
    return _add(root, run_id, "circuit", tables, parents=[source], minute=minute)


def value_rows(**columns: Any) -> list[dict[str, Any]]:
    """Writes values of the circuit, its complement and random ones, of every size and held-out pair.

    The model as it is scores 3 to 5, with all edges ablated -1 to 1; a circuit of size k keeps about sqrt(k) of that, its complement
    1 - sqrt(k), a random one k.
    """
    rng = np.random.default_rng(2)
    full, none = rng.uniform(3, 5, len(HELD_OUT)), rng.uniform(-1, 1, len(HELD_OUT))
    of = {
        "circuit_run_id": "circuit", "circuit": "eap-ig", "source_run_id": "pairs", "level": "edge", "selection": "abs",
        "ablation": "resample", "metric": "logit_diff", "held_out": True,
    }  # fmt: skip
    rows = []
    for size in SIZES:
        n = max(1, round(size * GRAPH.n_edges))
        variants = [("circuit", 0, size**0.5), ("complement", 0, 1 - size**0.5)]
        for variant, draw, kept in [*variants, *(("random", d, size) for d in range(DRAWS))]:
            values = none + (full - none) * (kept + (size < 1) * rng.normal(0, 0.2, len(HELD_OUT)))
            rows += [
                of | {"variant": variant, "draw": draw, "size": size, "example_id": e, "unit": e, "n_asked": n, "n_edges": n}
                | {"value": v, "full_value": f, "none_value": m} | columns
                for e, v, f, m in zip(HELD_OUT, values, full, none, strict=True)
            ]  # fmt: skip
    return rows


def add_evaluation(
    root: Path,
    run_id: str = "evaluation",
    rows: Sequence[Mapping[str, Any]] | None = None,
    minute: int = 6,
    parents: Sequence[str] = ("circuit", "pairs"),
) -> Path:
    """Adds an evaluation of these values."""
    tables = {"circuit_values": value_rows() if rows is None else rows}
    return _add(root, run_id, "circuit-evaluation", tables, parents=parents, minute=minute)


def _scores(score: float, rank: int, scores: np.ndarray) -> dict[str, Any]:
    return {"score": score, "low": score - 0.5, "high": score + 0.5, "rank": int(rank)} | {
        "selection_frequency": 1 / int(rank), "exact_effect": score * 2 if rank <= len(scores) // 2 else None
    }  # fmt: skip


def _add(root: Path, run_id: str, kind: str, tables: Mapping[str, Sequence[Mapping[str, Any]]], **more: Any) -> Path:
    """Adds a run whose rows are in the order of their keys, as published runs have them."""

    def place(name: str, row: Mapping[str, Any]) -> list[tuple[bool, Any]]:
        values = [row.get(k) for k in STORED[name].sort_key]
        return [(v is None, v) for v in values]

    rows = {name: sorted(found, key=lambda row: place(name, row)) for name, found in tables.items()}
    return synthetic.add_run(root, run_id, kind, rows, n_layers=2, n_heads=2, **more)
