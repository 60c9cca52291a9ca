"""A circuit of a run as arrays: its nodes, what they feed, and its edges with their scores, in the order in which they follow in the model.

In: a catalog and a circuit, named as RUN or RUN/CIRCUIT. Out: a `StoredCircuit`, which graphs, pictures and files of circuits are made
of. `choose` says which of its edges are in it, by the selection that evaluations use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from warehouse.analysis.circuit_name import ENSEMBLE, IMPORTED, find_circuit
from warehouse.analysis.circuit_selection import SELECTIONS, number_of_share, order_edges, prune_edges
from warehouse.catalog.catalog import Catalog
from warehouse.errors import NotFoundError, UsageError

NUMBERS = ("score", "low", "high", "rank", "selection_frequency", "exact_effect")
"""What nodes and edges have besides their keys and `in_graph`."""
_VALUES = (*NUMBERS, "in_graph")


class CircuitNode(NamedTuple):
    """What adds to the residual stream; capture calls it a node too."""

    kind: str
    """`embed`, `head`, `attn` (an attention block as one) or `mlp`."""
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """`embed`, `L3H2`, `A3` or `M3`."""
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        return "embed" if self.kind == "embed" else f"{self.kind[0].upper()}{self.layer}"


class CircuitSink(NamedTuple):
    """What reads the residual stream."""

    kind: str
    """`head`, `mlp` or `logits`."""
    layer: int | None = None
    head: int | None = None
    """The query head at port q, the key-value head at k and v."""
    port: str | None = None
    """`q`, `k` or `v` of a head."""


@dataclass(frozen=True)
class StoredCircuit:
    """A circuit and the graph that it is a part of: N nodes, E edges."""

    run_id: str
    name: str
    facts: Mapping[str, Any]
    """Its row of the table `circuits`."""
    nodes: Sequence[CircuitNode]
    sinks: Sequence[CircuitSink]
    edge_nodes: np.ndarray
    """(E,) the node that each edge leads from."""
    edge_sinks: np.ndarray
    """(E,) the sink that it leads to."""
    node_values: Mapping[str, np.ndarray]
    """(N,) by the names in `NUMBERS`, NaN where there is none, and `in_graph`, 1 or 0."""
    edge_values: Mapping[str, np.ndarray]
    """(E,) likewise."""

    @cached_property
    def feeds(self) -> list[tuple[int, ...]]:
        """By sink, the nodes that it is an input of: a key-value head is one of every head of its group."""
        place = {node: i for i, node in enumerate(self.nodes)}
        heads = Counter((sink.layer, sink.port) for sink in self.sinks)
        found = []
        for sink in self.sinks:
            own = [CircuitNode("mlp", sink.layer)] if sink.kind == "mlp" else []
            if sink.kind == "head" and sink.head is not None:
                group = max(1, heads[sink.layer, "q"] // heads[sink.layer, sink.port])
                own = [CircuitNode("head", sink.layer, sink.head * group + h) for h in range(group)]
                if CircuitNode("attn", sink.layer) in place:
                    own = [CircuitNode("attn", sink.layer)]
            found.append(tuple(place[node] for node in own if node in place))
        return found

    def choose(self, size: float | None = None, selection: str = "abs") -> np.ndarray:
        """Say which edges are in the circuit.

        Args:
            size: How large it is: a share of all edges, or above 1 their number, before those that dangle are dropped; None: 0.01, and of
                an imported circuit what its file says.
            selection: `abs`, `signed` or `greedy`, as `circuit_selection` has them.

        Returns:
            (E,) True for its edges.

        Raises:
            UsageError: The size is no share or number of edges, or no edge has a score to choose it by.
            NotFoundError: There is no such selection.
        """
        if selection not in SELECTIONS:
            raise NotFoundError("selection", selection, SELECTIONS)
        if size is not None and not (0 < size <= 1 or (size > 1 and float(size).is_integer())):
            raise UsageError(f"--size {size:g}: a share of all edges, above 0 and up to 1, or their number.")
        if size is None and self.name == IMPORTED:
            return self.edge_values["in_graph"] == 1
        if np.isnan(self.edge_values["score"]).all():
            raise UsageError(
                f"No edge of circuit '{self.run_id}/{self.name}' has a score, so that none can be chosen by it."
            )
        share = 0.01 if size is None else size
        n = number_of_share(share, len(self.edge_nodes)) if share <= 1 else int(share)
        return self.lead_somewhere(self.order(selection)[:n])

    def order(self, selection: str) -> np.ndarray:
        """Return the edges by their places, the best first."""
        values = self.edge_values["score"]
        if self.name == ENSEMBLE:  # the first the largest, with the sign of its mean score
            values = np.where(values > 0, 1, -1) / self.edge_values["rank"]
        return order_edges(values, selection, self.edge_nodes, self.edge_sinks, self.feeds)

    def lead_somewhere(self, edges: np.ndarray) -> np.ndarray:
        """Return which edges are left of some, (E,) booleans, when those that dangle are dropped."""
        taken = np.zeros(len(self.edge_nodes), dtype=bool)
        taken[edges] = True
        return prune_edges(taken, self.edge_nodes, self.edge_sinks, self.feeds)


def load_circuit(catalog: Catalog, circuit: str) -> StoredCircuit:
    """Load a circuit with edges.

    Args:
        catalog: The warehouse.
        circuit: RUN, where it has one beside a random one, or RUN/CIRCUIT; of a run in parts a method names the mean of its parts, and
            `ensemble` is the mean of ranks of the run's methods.

    Returns:
        The circuit.

    Raises:
        UsageError: The run has no circuits, several, or this one has scores of nodes alone.
        NotFoundError: There is no such run or circuit.
    """
    found = find_circuit(catalog, circuit)
    run_id, name, of_edges, of_nodes, where = found
    facts = _columns(catalog, "circuits", run_id, "TRUE" if name == ENSEMBLE else where, "circuit")
    edges = _columns(catalog, of_edges, run_id, where, _EDGE_ORDER)
    scored = _columns(catalog, of_nodes, run_id, where, _NODE_ORDER)
    sources = list(map(CircuitNode, edges["source_kind"], edges["source_layer"], edges["source_head"]))
    read = list(map(CircuitSink, edges["sink_kind"], edges["sink_layer"], edges["sink_head"], edges["port"]))
    with_scores = list(map(CircuitNode, scored["kind"], scored["layer"], scored["head"]))
    if not read:
        raise UsageError(
            f"Circuit '{found.place}' has scores of nodes alone, and no edges. See traces circuit discover --help (--level)"
        )
    nodes = sorted({*sources, *with_scores}, key=_place_in_stream)
    sinks = list(dict.fromkeys(read))
    place, sink_place = {n: i for i, n in enumerate(nodes)}, {s: i for i, s in enumerate(sinks)}
    node_values = {c: np.full(len(nodes), np.nan) for c in _VALUES}
    for column, values in node_values.items():
        values[[place[n] for n in with_scores]] = _numbers(scored, column, len(with_scores))
    return StoredCircuit(
        run_id,
        name,
        {column: values[0] for column, values in facts.items()} | ({"method": name} if name == ENSEMBLE else {}),
        nodes,
        sinks,
        np.array([place[n] for n in sources]),
        np.array([sink_place[s] for s in read]),
        node_values,
        {c: _numbers(edges, c, len(read)) for c in _VALUES},
    )


_EDGE_ORDER = (
    "sink_layer, sink_kind = 'mlp', list_position(['q', 'k', 'v'], port), sink_head, source_layer NULLS FIRST, source_kind = 'mlp', "
    "source_head"
)
_NODE_ORDER = "layer NULLS FIRST, kind = 'mlp', head"


def _place_in_stream(node: CircuitNode) -> tuple[int, bool, int]:
    return (-1 if node.layer is None else node.layer, node.kind == "mlp", node.head or 0)


def _columns(catalog: Catalog, table: str, run_id: str, where: str, order: str) -> dict[str, list[Any]]:
    """Return rows of a circuit as columns."""
    query = f"SELECT * FROM {table} WHERE run_id = ? AND {where} ORDER BY {order}"
    return catalog.attempt(lambda: catalog.cursor().execute(query, [run_id]).to_arrow_table().to_pydict())


def _numbers(columns: Mapping[str, list[Any]], name: str, n: int) -> np.ndarray:
    """Return a column as numbers, NaN where it has none; the means of parts have no intervals."""
    return np.array(columns.get(name, [None] * n), dtype=np.float64)
