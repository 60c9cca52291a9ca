"""A loaded circuit as rows for the page: the edges that a picture shows, its nodes, and the edges of one node.

In: a circuit and the edges chosen of it. Out: tables of them, and the statements that a reader could ask himself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from warehouse.analysis.stored_circuit import NUMBERS
from warehouse.console.kept_circuits import LOGITS, Chosen, KeptCircuit, sink_name
from warehouse.errors import NotFoundError
from warehouse.schema.quoting import sql_text


def edge_rows(kept: KeptCircuit, chosen: Chosen, keep: np.ndarray) -> pa.Table:
    """Return a row an edge, the best first.

    Args:
        kept: The circuit.
        chosen: What was chosen of it.
        keep: (E,) True for the edges that are shown.

    Returns:
        What each leads from and to, `into` which nodes its sink feeds, and its numbers.
    """
    found = kept.circuit
    edges = chosen.order[keep[chosen.order]]
    fed = kept.fed_by(keep)
    sinks = found.edge_sinks[edges].tolist()
    columns: dict[str, Any] = {
        "circuit_run_id": pa.array([found.run_id] * len(edges), pa.string()),
        "circuit": pa.array([found.name] * len(edges), pa.string()),
        "source": pa.array([found.nodes[n].name for n in found.edge_nodes[edges].tolist()], pa.string()),
        "sink": pa.array([sink_name(found.sinks[k], fed[k]) for k in sinks], pa.string()),
        "into": pa.array([fed[k] for k in sinks], pa.list_(pa.string())),
        "port": pa.array([found.sinks[k].port for k in sinks], pa.string()),
    }
    return pa.table(columns | _numbers(found.edge_values, edges))


_END = {
    "way": pa.string(),
    "source": pa.string(),
    "sink": pa.string(),
    "port": pa.string(),
    "layer": pa.int32(),
    "head": pa.int32(),
}


def node_rows(kept: KeptCircuit, chosen: Chosen, name: str) -> tuple[pa.Table, int]:
    """Return a row an edge into or out of a node, the largest score first.

    Args:
        kept: The circuit.
        chosen: What was chosen of it.
        name: The node, such as `L5H3`.

    Returns:
        The rows, whose `layer` and `head` are those of the other end (no head where several share it), and how many lead in.

    Raises:
        NotFoundError: The model has no such node.
    """
    found, fed = kept.circuit, kept.fed_by(chosen.keep)
    names = [node.name for node in found.nodes]
    if name not in (*names, LOGITS):
        raise NotFoundError("node", name, [*names, LOGITS])
    edges = chosen.order[chosen.keep[chosen.order]]
    into = np.array([name in fed[k] for k in found.edge_sinks[edges].tolist()], dtype=bool)
    out = np.array([names[n] == name for n in found.edge_nodes[edges].tolist()], dtype=bool)
    every = np.concatenate([edges[into], edges[out]])
    told = []
    for place, edge in enumerate(every.tolist()):
        leads_in = place < into.sum()
        source, sink_place = found.nodes[found.edge_nodes[edge]], found.edge_sinks[edge]
        sink = found.sinks[sink_place]
        shared = not leads_in and len(fed[sink_place]) > 1
        layer, head = (source.layer, source.head) if leads_in else (sink.layer, sink.head)
        ends = (source.name, sink_name(sink, fed[sink_place]), sink.port)
        told.append(("in" if leads_in else "out", *ends, layer, None if shared else head))
    columns = zip(*told, strict=True) if told else [()] * len(_END)
    ends_of = {name: pa.array(values, kind) for (name, kind), values in zip(_END.items(), columns, strict=True)}
    table = pa.table(ends_of | _numbers(found.edge_values, every))
    first = np.argsort(-np.abs(np.nan_to_num(found.edge_values["score"][every])), kind="stable")
    return table.take(pa.array(first)), int(into.sum())


def _numbers(values: Any, places: np.ndarray) -> dict[str, pa.Array]:
    """Return the numbers of edges or nodes as columns, NULL for what is not known."""
    return {name: pa.array(values[name][places], from_pandas=True) for name in NUMBERS}


def nodes_of(kept: KeptCircuit, shown: np.ndarray, keep: np.ndarray) -> list[dict[str, Any]]:
    """Return the nodes that the shown edges join, from the embedding to the logits.

    Args:
        kept: The circuit.
        shown: (E,) True for the edges that are shown.
        keep: (E,) True for all that were chosen.

    Returns:
        By node its name, numbers, and how many of all chosen edges lead in and out.
    """
    found = kept.circuit
    fed_shown, fed_all = kept.fed_by(shown), kept.fed_by(keep)
    joined = {found.nodes[n].name for n in found.edge_nodes[shown].tolist()}
    joined |= {name for k in found.edge_sinks[shown].tolist() for name in fed_shown[k]}
    n_out = np.bincount(found.edge_nodes[keep], minlength=len(found.nodes))
    n_in: dict[str, int] = {}
    for sink in found.edge_sinks[keep].tolist():
        for name in fed_all[sink]:
            n_in[name] = n_in.get(name, 0) + 1
    told: list[dict[str, Any]] = []
    for place, each in enumerate(found.nodes):
        if each.name in joined:
            numbers = {name: float(found.node_values[name][place]) for name in NUMBERS}
            known = {name: None if np.isnan(x) else x for name, x in numbers.items()}
            about = {"name": each.name, "kind": each.kind, "layer": each.layer, "head": each.head}
            told.append(about | known | {"n_in": n_in.get(each.name, 0), "n_out": int(n_out[place])})
    if LOGITS in joined:
        told.append(
            {"name": LOGITS, "kind": LOGITS, "layer": None, "head": None, "n_in": n_in.get(LOGITS, 0), "n_out": 0}
        )
    return told


def edges_sql(kept: KeptCircuit, selection: str, n: int) -> str:
    """Return the statement for the edges that were asked for, before those that dangle are dropped."""
    order = {"signed": "score", "abs": "rank", "greedy": "rank"}[selection]
    return f"SELECT * FROM {_table(kept)} ORDER BY {order} LIMIT {n}"


def node_sql(kept: KeptCircuit, name: str) -> str:
    """Return the statement for the edges that leave a node, or enter the logits."""
    places = {each.name: each for each in kept.circuit.nodes}
    if name not in places:
        return f"SELECT * FROM {_table(kept)} AND sink_kind = 'logits' ORDER BY rank"
    each = places[name]
    where = [
        f"source_kind = '{each.kind}'",
        *(f"source_{k} = {v}" for k, v in (("layer", each.layer), ("head", each.head)) if v is not None),
    ]
    return f"SELECT * FROM {_table(kept)} AND {' AND '.join(where)} ORDER BY rank"


def _table(kept: KeptCircuit) -> str:
    """Return where the edges are, as what follows FROM."""
    found = kept.circuit
    run = f"run_id = {sql_text(found.run_id)}"
    if found.name == "ensemble":
        return f"circuit_edge_ensembles WHERE {run}"
    if found.facts.get("circuit") == found.name:
        return f"circuit_edges WHERE {run} AND circuit = {sql_text(found.name)}"
    return f"circuit_edge_means WHERE {run} AND method = {sql_text(found.name)}"
