"""A circuit as a networkx graph: what adds to the residual stream, and the edges through which it is read.

In: a catalog and a circuit of it. Out: a graph whose nodes are the embedding, heads, MLPs and the logits. Users of Python and `traces circuit
export` call `circuit_graph`, pictures `graph_of`; `graph_files` writes what they return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from warehouse.analysis.graph_files import check_networkx
from warehouse.analysis.stored_circuit import NUMBERS, StoredCircuit, load_circuit
from warehouse.catalog.catalog import Catalog

if TYPE_CHECKING:
    import networkx as nx

LOGITS = "logits"
"""The node that reads last."""


def circuit_graph(
    catalog: Catalog, circuit: str, *, size: float | None = None, selection: str = "abs"
) -> nx.MultiDiGraph:
    """Return a circuit of a size as a graph, without the edges that dangle.

    Example:
        graph = circuit_graph(wh, "ioi-circuit", size=0.01)
        sorted(graph.edges(data="score"), key=lambda edge: edge[2])[:10]

    Args:
        catalog: The warehouse.
        circuit: RUN, or RUN/CIRCUIT where the run has several.
        size: A share of all edges, or above 1 their number, before those that dangle are dropped; None: 0.01, and of an imported circuit
            what its file says.
        selection: `abs`: the largest scores; `signed`: the most negative, which is what helps; `greedy`: the largest that lead on to the
            logits.

    Returns:
        A graph whose nodes have `kind` (embed, head, attn, mlp, logits), `layer` (-1: embed) and `head`, whose edges have `port` (q, k or v
        of a head), and both `score`, `low`, `high`, `rank`, `selection_frequency` and `exact_effect` where they are known. An edge to a
        key-value head leads to each query head of its group that the circuit reads, with the same numbers and `kv_head`. The graph has
        `run`, `circuit`, `task`, `metric`, `method`, `selection`, `n_edges` and `of_edges`, the number of all.

    Raises:
        UsageError: networkx is not installed, or there is no such circuit with edges.
        NotFoundError: There is no such run, circuit or selection.
    """
    check_networkx()
    found = load_circuit(catalog, circuit)
    return graph_of(found, found.choose(size, selection), selection)


def graph_of(circuit: StoredCircuit, keep: np.ndarray, selection: str) -> nx.MultiDiGraph:
    """Make the graph of those edges of a circuit, (E,) booleans; what is not known is left out."""
    import networkx as nx

    facts = {name: circuit.facts[name] for name in ("task", "metric", "method") if circuit.facts[name] is not None}
    graph = nx.MultiDiGraph(
        run=circuit.run_id,
        circuit=circuit.name,
        **facts,
        selection=selection,
        n_edges=int(keep.sum()),
        of_edges=len(keep),
    )
    leads = set(circuit.edge_nodes[keep].tolist())
    read = [[n for n in fed if n in leads] or list(fed) for fed in circuit.feeds]
    used = leads | {node for sink in circuit.edge_sinks[keep].tolist() for node in read[sink]}
    for number in sorted(used):
        node = circuit.nodes[number]
        own = {"kind": node.kind, "layer": -1 if node.layer is None else node.layer, "head": node.head}
        graph.add_node(node.name, **_known(own), **_numbers(circuit.node_values, number))
    graph.add_node(LOGITS, kind=LOGITS, layer=circuit.facts["n_layers"])
    for edge in np.flatnonzero(keep).tolist():
        sink = circuit.sinks[circuit.edge_sinks[edge]]
        ends = [circuit.nodes[node].name for node in read[circuit.edge_sinks[edge]]] or [LOGITS]
        own = {"port": sink.port, "kv_head": sink.head if sink.port in ("k", "v") else None}
        for end in ends:
            graph.add_edge(
                circuit.nodes[circuit.edge_nodes[edge]].name,
                end,
                key=sink.port or "",
                **_known(own),
                **_numbers(circuit.edge_values, edge),
            )
    return graph


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _numbers(values: dict[str, np.ndarray] | Any, place: int) -> dict[str, float | int]:
    """Return the numbers of a node or an edge that are known."""
    found = {name: float(values[name][place]) for name in NUMBERS}
    return {name: int(x) if name == "rank" else x for name, x in found.items() if not np.isnan(x)}
