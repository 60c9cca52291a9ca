"""A circuit that a run has, as evaluation needs it: its scores in the order of a model's graph, and which pairs it was found on.

In: a warehouse, and a circuit named as RUN or RUN/NAME. Out: a `FoundCircuit`, looked up before a model is loaded, and its scores once
there is a graph to put them on. `evaluate_run` and its command call it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture.circuits.circuit_rows import shape_columns
from capture.edges.edge_graph import EdgeGraph, Node, Sink
from warehouse.analysis import circuit_name
from warehouse.analysis.circuit_name import ENSEMBLE, IMPORTED, RANDOM, CircuitName
from warehouse.catalog.catalog import Catalog
from warehouse.errors import UsageError
from warehouse.storage.trace_store import TraceStore

_SHAPE = ("n_layers", "n_heads", "n_kv_heads", "heads_apart", "n_edges", "n_nodes")
_EDGE = "source_kind, source_layer, source_head, sink_kind, sink_layer, sink_head, port"
_NODE = "kind, layer, head"


@dataclass(frozen=True)
class CircuitScores:
    """The scores of a circuit."""

    values: np.ndarray
    """(E,) of edges or (N,) of nodes, NaN where there is none."""
    in_graph: np.ndarray | None
    """Which of them an imported circuit has, where no value says how to choose."""


@dataclass(frozen=True)
class FoundCircuit:
    """A circuit of a run."""

    store: TraceStore
    named: CircuitName
    facts: Mapping[str, Any]
    """A row of `circuits`: its own, that of a part or of a method."""
    catalog: Catalog

    @property
    def run_id(self) -> str:
        """The run that has it."""
        return self.named.run_id

    @property
    def name(self) -> str:
        """Its name in the run."""
        return self.named.name

    @property
    def place(self) -> str:
        """Its name, with its run's."""
        return self.named.place

    def found_on(self) -> set[str]:
        """Return the example_ids of the pairs that any circuit of the run was found on."""
        return {
            example for (example,) in self.store.query("SELECT DISTINCT example_id FROM circuit_node_scores").fetchall()
        }

    def level(self, wanted: str) -> str:
        """Return what the circuit is chosen by; raises UsageError where edges are wanted and have no scores."""
        if wanted == "edge" and self.facts["level"] == "node":
            raise UsageError(f"Circuit '{self.place}' has scores of nodes alone: --level node.")
        return wanted or str(self.facts["level"])

    def scores(self, graph: EdgeGraph, level: str) -> CircuitScores:
        """Put its scores on a model's graph.

        Args:
            graph: The graph.
            level: `edge` or `node`.

        Returns:
            The scores.

        Raises:
            UsageError: The circuit is of another model.
        """
        shape = shape_columns(graph)
        for name in _SHAPE:
            if self.facts[name] != shape[name]:
                remedy = (
                    " Import it with --model, which puts shared heads together."
                    if name == "n_kv_heads" and self.name == IMPORTED
                    else ""
                )
                raise UsageError(
                    f"Circuit '{self.place}' is of another model: its {name} is {self.facts[name]}, here it is {shape[name]}.{remedy}"
                )
        rows = self._rows(level)
        places = (_edge_places if level == "edge" else _node_places)(graph, rows)
        total = graph.n_edges if level == "edge" else len(graph.nodes)
        if -1 in places:
            raise UsageError(
                f"Circuit '{self.place}' is of another model: it has {level}s that the model does not have."
            )
        values, known = np.full(total, np.nan), np.zeros(total, dtype=bool)
        values[places] = [np.nan if score is None else score for *_, score, _ in rows]
        known[places] = [bool(given) for *_, given in rows]
        if np.isnan(values).all():
            if not known.any():
                raise UsageError(f"Circuit '{self.place}' has no {level} with a score, so that none can be chosen.")
            return CircuitScores(np.where(known, 1.0, np.nan), known)
        return CircuitScores(values, None)

    def _rows(self, level: str) -> list[tuple[Any, ...]]:
        """Return rows of a key, a score, and whether an imported circuit has it."""
        columns, table = (_EDGE, self.named.edges) if level == "edge" else (_NODE, self.named.nodes)
        score = "score"
        if self.name == ENSEMBLE:  # the first the largest, with the sign of its mean score
            score = "CASE WHEN score > 0 THEN 1 ELSE -1 END / rank"
        given = "in_graph" if table in ("circuit_edges", "circuit_nodes") else "NULL"
        query = f"SELECT {columns}, {score}, {given} FROM {table} WHERE run_id = ? AND {self.named.where}"
        return self.catalog.attempt(lambda: self.catalog.cursor().execute(query, [self.run_id]).fetchall())


def find_circuit(catalog: Catalog, text: str) -> FoundCircuit:
    """Find a circuit, named as RUN or RUN/NAME; raises UsageError and NotFoundError as `circuit_name.find_circuit` does."""
    named = circuit_name.find_circuit(catalog, text)
    store = catalog.run(named.run_id)
    answer = store.query("SELECT * FROM circuits ORDER BY circuit")
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]
    if named.name == ENSEMBLE:
        levels = {row["level"] for row in rows if row["method"] != RANDOM}
        facts = rows[0] | {"level": "edge" if "edge" in levels else "node"}
    else:
        facts = next(row for row in rows if named.name in (row["circuit"], row["method"]))
    return FoundCircuit(store, named, facts, catalog)


def _node_places(graph: EdgeGraph, rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """Return which node each row is of; -1: there is none."""
    nodes = {node: i for i, node in enumerate(graph.nodes)}
    return [nodes.get(Node(*row[:3]), -1) for row in rows]


def _edge_places(graph: EdgeGraph, rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """Return which edge each row is of; -1: there is none."""
    nodes = {node: i for i, node in enumerate(graph.nodes)}
    sinks = {sink: i for i, sink in enumerate(graph.sinks)}
    ends = [(nodes.get(Node(*row[:3]), -1), sinks.get(Sink(*row[3:7]), -1)) for row in rows]
    return [
        int(graph.starts[sink]) + node if 0 <= node < graph.reads[sink] and sink >= 0 else -1 for node, sink in ends
    ]
