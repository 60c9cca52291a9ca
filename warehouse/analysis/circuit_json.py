"""Files of circuits as other tools keep them: the JSON of EAP-IG's graphs, which the Mechanistic Interpretability Benchmark takes too.

    {"cfg": {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": false, "d_model": 768},
     "nodes": {"input": {"in_graph": true}, "a0.h0": {"in_graph": false}, …, "m0": …, "logits": …},
     "edges": {"input->a0.h0<q>": {"score": 0.5, "in_graph": true}, …, "a0.h0->m0": …, "m11->logits": …}}

`read_circuit_file` checks such a file, `to_json` writes one, `from_circuit` makes one of a stored circuit; `capture.circuits` makes a run of
one. A score there is of a loss, the metric with its sign turned: positive where the edge helps. Every query head has a key and a value
edge of its own: where heads are grouped, an edge to a key-value head is one to each of its query heads, and its score is shared out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from warehouse.analysis.stored_circuit import CircuitNode, CircuitSink, StoredCircuit
from warehouse.errors import UsageError
from warehouse.storage import strict_json
from warehouse.storage.files import read_file

PORTS = ("q", "k", "v")
_LARGEST = float(np.finfo(np.float64).max)


class Shape(NamedTuple):
    """What names the nodes and edges of a file."""

    n_layers: int
    n_heads: int
    parallel: bool

    @property
    def n_edges(self) -> int:
        """The number of edges."""
        own = 0 if self.parallel else self.n_heads  # heads of its own layer that an MLP reads
        before = sum(1 + layer * (self.n_heads + 1) for layer in range(self.n_layers))
        return before * (3 * self.n_heads + 1) + self.n_layers * own + 1 + self.n_layers * (self.n_heads + 1)

    def nodes(self) -> list[CircuitNode]:
        """Return the nodes in the file's order; the logits, which it has too, are no node here."""
        return [CircuitNode("embed"), *(node for layer in range(self.n_layers) for node in self._layer(layer))]

    def _layer(self, layer: int) -> list[CircuitNode]:
        return [*(CircuitNode("head", layer, h) for h in range(self.n_heads)), CircuitNode("mlp", layer)]

    def edges(self) -> Iterator[tuple[CircuitNode, CircuitSink]]:
        """Yield the edges in the file's order: of each layer, those of each node before it, and at last those to the logits."""
        stream = [CircuitNode("embed")]
        for layer in range(self.n_layers):
            into_heads = [CircuitSink("head", layer, h, port) for h in range(self.n_heads) for port in PORTS]
            into_mlp, own = CircuitSink("mlp", layer), self._layer(layer)
            for node in stream:
                yield from ((node, sink) for sink in (*into_heads, *([into_mlp] if self.parallel else [])))
            if not self.parallel:
                yield from ((node, into_mlp) for node in (*stream, *own[:-1]))
            stream += own
        yield from ((node, CircuitSink("logits")) for node in stream)


@dataclass(frozen=True)
class CircuitFile:
    """What a file holds, in its own order: N nodes and the logits, E edges."""

    cfg: dict[str, Any]
    node_in_graph: np.ndarray
    """(N + 1,) booleans, the logits last."""
    node_scores: np.ndarray
    """(N + 1,) NaN where there is none."""
    scores: np.ndarray
    """(E,) NaN where there is none."""
    in_graph: np.ndarray
    """(E,) booleans."""
    bare_nodes: bool = False
    """Whether a node is just true or false, as in older files."""

    @property
    def shape(self) -> Shape:
        """The shape that its `cfg` tells."""
        return Shape(self.cfg["n_layers"], self.cfg["n_heads"], self.cfg["parallel_attn_mlp"])


def read_circuit_file(path: Path) -> CircuitFile:
    """Read and check a file.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        UsageError: It cannot be read, is no such JSON, or has other nodes or edges than a model of its `cfg`.
    """
    try:
        return parse_circuit(strict_json.parse(read_file(path)))
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror or e}") from None
    except ValueError as e:
        raise UsageError(f"{path} is no circuit as EAP-IG and MIB write them: {e}.") from None


def parse_circuit(value: Any) -> CircuitFile:
    """Check what the JSON of a circuit holds; raises ValueError, whose message can follow a colon."""
    for part in ("cfg", "nodes", "edges"):
        if not isinstance(value, dict) or not isinstance(value.get(part), dict):
            raise ValueError(f'it has no "{part}" in braces')
    cfg, nodes, edges = value["cfg"], value["nodes"], value["edges"]
    for name in ("n_layers", "n_heads"):
        if type(cfg.get(name)) is not int or not 0 < cfg[name] < 1 << 16:
            raise ValueError(f"its cfg has {name} {cfg.get(name)!r}, which is no such number")
    if not isinstance(cfg.get("parallel_attn_mlp"), bool):
        raise ValueError("its cfg does not say whether parallel_attn_mlp is true or false")
    shape = Shape(cfg["n_layers"], cfg["n_heads"], cfg["parallel_attn_mlp"])
    of = f"a model of {shape.n_layers} layers of {shape.n_heads} heads, as its cfg says,"
    if len(edges) != shape.n_edges:
        raise ValueError(f"it has {len(edges):,} edges, and {of} has {shape.n_edges:,}")
    node_names = [*map(node_name, shape.nodes()), "logits"]
    edge_names = [edge_name(*edge) for edge in shape.edges()]
    found_nodes, found_edges = _in_order(nodes, node_names, "node", of), _in_order(edges, edge_names, "edge", of)
    if bare := all(isinstance(node, bool) for node in found_nodes):
        found_nodes = [{"in_graph": node} for node in found_nodes]
    return CircuitFile(
        cfg,
        np.array(list(map(_in_graph, found_nodes, node_names))),
        np.array(list(map(_score, found_nodes, node_names))),
        np.array(list(map(_score, found_edges, edge_names))),
        np.array(list(map(_in_graph, found_edges, edge_names))),
        bare,
    )


def to_json(file: CircuitFile) -> str:
    """Return a file's text."""

    def known(score: float) -> float | None:
        return None if np.isnan(score) else score

    names = [*map(node_name, file.shape.nodes()), "logits"]
    nodes: dict[str, Any] = {
        name: {"in_graph": kept} | ({} if np.isnan(score) else {"score": score})
        for name, kept, score in zip(names, file.node_in_graph.tolist(), file.node_scores.tolist(), strict=True)
    }
    if file.bare_nodes:
        nodes = {name: node["in_graph"] for name, node in nodes.items()}
    edges = {
        edge_name(*edge): {"score": known(score), "in_graph": kept}
        for edge, score, kept in zip(file.shape.edges(), file.scores.tolist(), file.in_graph.tolist(), strict=True)
    }
    return json.dumps({"cfg": file.cfg, "nodes": nodes, "edges": edges})


def from_circuit(circuit: StoredCircuit, keep: np.ndarray, cfg: Mapping[str, Any]) -> CircuitFile:
    """Make a file of a circuit.

    Args:
        circuit: The circuit.
        keep: (E,) its edges that are in the graph; nodes and logits that one leads from or to are so too.
        cfg: What the file says of the model besides its shape, such as `d_model`.

    Returns:
        What the file holds.

    Raises:
        UsageError: The file's format cannot tell of such a model: its attention is one node, or its layers are not alike.
    """
    facts = circuit.facts
    shape = Shape(facts["n_layers"], facts["n_heads"], facts["parallel"])
    named = f"Circuit '{circuit.run_id}/{circuit.name}'"
    if any(node.kind == "attn" for node in circuit.nodes):
        raise UsageError(
            f"{named} has attention as one node, as its model's heads cannot be told apart, and this format knows heads alone: "
            "export it as .graphml or .dot."
        )
    group = max(1, shape.n_heads // (facts["n_kv_heads"] or 1))
    place = {
        (circuit.nodes[node], circuit.sinks[sink]): i
        for i, (node, sink) in enumerate(zip(circuit.edge_nodes.tolist(), circuit.edge_sinks.tolist(), strict=True))
    }
    taken = [place.get((node, grouped(sink, group)), -1) for node, sink in shape.edges()]
    if set(taken) != set(place.values()):
        raise UsageError(
            f"{named} is of a model whose layers are not alike, and this format knows {shape.n_layers} layers of {shape.n_heads} "
            "heads and an MLP alone: export it as .graphml or .dot."
        )
    sign = loss_sign(facts["metric"])
    shares = np.array([group if s.port in ("k", "v") else 1 for _, s in shape.edges()])
    used = np.zeros(len(circuit.nodes) + 1, dtype=bool)
    used[circuit.edge_nodes[keep]] = True
    for sink in set(circuit.edge_sinks[keep].tolist()):
        used[list(circuit.feeds[sink]) or [-1]] = True
    order = [circuit.nodes.index(node) for node in shape.nodes()]
    return CircuitFile(
        {"n_layers": shape.n_layers, "n_heads": shape.n_heads, "parallel_attn_mlp": shape.parallel, **cfg},
        used[[*order, -1]],
        np.append(sign * circuit.node_values["score"][order], np.nan),
        sign * circuit.edge_values["score"][taken] / shares,
        keep[taken],
    )


def loss_sign(metric: str | None) -> int:
    """Return what a score here times it is one in a file: the metric is a loss already, or has its sign turned."""
    return 1 if metric == "kl" else -1


def grouped(sink: CircuitSink, group: int) -> CircuitSink:
    """Return the sink that a query head's is where `group` of them share a key-value head."""
    if sink.port in ("k", "v") and sink.head is not None:
        return sink._replace(head=sink.head // group)
    return sink


def node_name(node: CircuitNode) -> str:
    """Return a node's name in a file: `input`, `a0.h3` or `m0`."""
    return {"embed": "input", "head": f"a{node.layer}.h{node.head}"}.get(node.kind, f"m{node.layer}")


def edge_name(node: CircuitNode, sink: CircuitSink) -> str:
    """Return an edge's name in a file: `m0->a1.h3<v>`."""
    into = {"logits": "logits", "mlp": f"m{sink.layer}"}.get(sink.kind, f"a{sink.layer}.h{sink.head}<{sink.port}>")
    return f"{node_name(node)}->{into}"


def _in_order(found: dict[str, Any], names: Sequence[str], kind: str, of: str) -> list[Any]:
    """Return what is found under each name; raises ValueError where another name is there, or one is not."""
    for name in found.keys() - set(names):
        raise ValueError(f"it has the {kind} {name!r}, and {of} has none of that name")
    for name in names:
        if name not in found:
            raise ValueError(f"it lacks the {kind} {name!r}")
    return [found[name] for name in names]


def _in_graph(part: Any, name: str) -> bool:
    """Return whether a node or edge is in the graph; raises ValueError where it does not say."""
    kept = part.get("in_graph") if isinstance(part, dict) else None
    if not isinstance(kept, bool):
        raise ValueError(f"{name!r} does not say whether in_graph is true or false")
    if more := part.keys() - {"in_graph", "score"}:
        raise ValueError(f"{name!r} has {min(more)}, and circuits here are of nodes and edges alone")
    return kept


def _score(part: dict[str, Any], name: str) -> float:
    """Return a score, NaN where there is none; raises ValueError where it is no number."""
    score = part.get("score") if isinstance(part, dict) else None
    if score is None:
        return float("nan")
    if isinstance(score, bool) or not isinstance(score, int | float) or abs(score) > _LARGEST:
        raise ValueError(f"the score of {name!r} is {score!r}, which is no number")
    return float(score)
