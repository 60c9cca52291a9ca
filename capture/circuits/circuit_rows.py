"""Rows of the tables of circuits, from scores in the order of a model's graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from capture.circuits.tally import Summary
from capture.edges.edge_graph import EdgeGraph
from warehouse.storage.parquet import to_table


def shape_columns(graph: EdgeGraph) -> dict[str, Any]:
    """Return what the table `circuits` says of a model."""
    layers = [layer for layer in graph.layers if layer.heads]
    return {
        "n_layers": len(graph.layers),
        "n_heads": max((layer.heads for layer in layers), default=0),
        "n_kv_heads": max((layer.kv_heads for layer in layers), default=0),
        "parallel": any(layer.parallel for layer in graph.layers),
        "heads_apart": all(layer.apart for layer in layers),
        "n_edges": graph.n_edges,
        "n_nodes": len(graph.nodes),
    }


def pair_rows(circuit: str, graph: EdgeGraph, examples: Sequence[str], scores: np.ndarray) -> pa.Table:
    """Return rows of `circuit_node_scores`, of scores (B, N) of pairs."""
    n = len(graph.nodes)
    columns = {
        "circuit": [circuit] * scores.size,
        "example_id": np.repeat(np.array(examples, dtype=object), n).tolist(),
        **{name: values * len(examples) for name, values in node_columns(graph).items()},
        "score": scores.ravel().tolist(),
    }
    return to_table("circuit_node_scores", columns)


def node_rows(circuit: str, graph: EdgeGraph, found: Summary, exact: np.ndarray | None) -> pa.Table:
    """Return the rows of `circuit_nodes`; `exact` are effects (N,), NaN where there is none."""
    return to_table(
        "circuit_nodes",
        {"circuit": [circuit] * len(graph.nodes), **node_columns(graph), **_score_columns(found, exact)},
    )


def edge_rows(circuit: str, graph: EdgeGraph, found: Summary, exact: np.ndarray | None) -> pa.Table:
    """Return the rows of `circuit_edges`; `exact` are effects (E,), NaN where there is none."""
    columns = {"circuit": [circuit] * graph.n_edges, **edge_columns(graph)}
    return to_table("circuit_edges", {**columns, **_score_columns(found, exact)})


def node_columns(graph: EdgeGraph) -> dict[str, list[Any]]:
    """Return the columns that tell nodes apart."""
    return {name: [getattr(node, name) for node in graph.nodes] for name in ("kind", "layer", "head")}


def edge_columns(graph: EdgeGraph) -> dict[str, list[Any]]:
    """Return the columns that tell edges apart."""
    sources = [graph.nodes[i] for i in graph.edge_nodes]
    sinks = [graph.sinks[i] for i in graph.edge_sinks]
    return {
        "source_kind": [n.kind for n in sources],
        "source_layer": [n.layer for n in sources],
        "source_head": [n.head for n in sources],
        "sink_kind": [s.kind for s in sinks],
        "sink_layer": [s.layer for s in sinks],
        "sink_head": [s.head for s in sinks],
        "port": [s.port for s in sinks],
    }


def _score_columns(found: Summary, exact: np.ndarray | None) -> Mapping[str, Any]:
    n = len(found.score)
    return {
        "score": pa.array(found.score),
        "low": _nullable(found.low, n),
        "high": _nullable(found.high, n),
        "rank": pa.array(found.rank.astype(np.int32)),
        "selection_frequency": _nullable(found.frequency, n),
        "exact_effect": _nullable(exact, n),
        "in_graph": pa.nulls(n, pa.bool_()),
    }


def _nullable(values: np.ndarray | None, n: int) -> pa.Array:
    """Return doubles, with NULL for NaN."""
    if values is None:
        return pa.nulls(n, pa.float64())
    return pa.array(values.astype(np.float64), from_pandas=True)
