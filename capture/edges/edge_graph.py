"""The graph of a decoder: nodes that write to the residual stream, sinks that read it, and an edge from each node to each sink after it.

Nodes stand in the order in which they are added to the stream, so that a sink reads the first few of them: all edges of a sink lie
together, in the order of the nodes. Scores, masks and rows of edges are arrays in that order. Knows nothing of models, tensors or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PORTS = ("q", "k", "v")


@dataclass(frozen=True)
class Node:
    """What adds to the residual stream."""

    kind: str
    """`embed`, `head`, `attn` (an attention block as one, where its heads cannot be told apart) or `mlp`."""
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """`embed`, `L3H2`, `A3` or `M3`."""
        return {
            "embed": "embed",
            "head": f"L{self.layer}H{self.head}",
            "attn": f"A{self.layer}",
            "mlp": f"M{self.layer}",
        }[self.kind]


@dataclass(frozen=True)
class Sink:
    """What reads the residual stream."""

    kind: str
    """`head`, `mlp` or `logits`."""
    layer: int | None = None
    head: int | None = None
    """The query head at port q, the key-value head at k and v."""
    port: str | None = None
    """`q`, `k` or `v` of a head."""

    @property
    def name(self) -> str:
        """`L3H2.q`, `M3` or `logits`."""
        return {"head": f"L{self.layer}H{self.head}.{self.port}", "mlp": f"M{self.layer}", "logits": "logits"}[
            self.kind
        ]


@dataclass(frozen=True)
class LayerShape:
    """What one layer has."""

    heads: int
    """Query heads; 0: it does not attend."""
    kv_heads: int
    apart: bool = True
    """Its heads write to the stream one by one; else the attention block is one node."""
    mlp: bool = True
    parallel: bool = False
    """Its MLP reads the stream that its attention reads."""


class EdgeGraph:
    """All nodes, sinks and edges of a decoder."""

    def __init__(self, layers: Sequence[LayerShape]) -> None:
        """Lay out the graph of a decoder with these layers."""
        self.layers = tuple(layers)
        nodes, sinks, reads, feeds = [Node("embed")], list[Sink](), list[int](), list[tuple[int, ...]]()
        for i, layer in enumerate(layers):
            before, written = len(nodes), []
            if layer.heads:
                written = [Node("head", i, h) for h in range(layer.heads)] if layer.apart else [Node("attn", i)]
            group = layer.heads // layer.kv_heads if layer.heads else 1
            for port in PORTS:
                for head in range(layer.heads if port == "q" else layer.kv_heads if layer.heads else 0):
                    own = range(head, head + 1) if port == "q" else range(head * group, (head + 1) * group)
                    sinks.append(Sink("head", i, head, port))
                    reads.append(before)
                    feeds.append(tuple(before + h for h in own) if layer.apart else (before,))
            nodes += written
            if layer.mlp:
                sinks.append(Sink("mlp", i))
                reads.append(before if layer.parallel else len(nodes))
                feeds.append((len(nodes),))
                nodes.append(Node("mlp", i))
        sinks.append(Sink("logits"))
        reads.append(len(nodes))
        feeds.append(())
        self.nodes, self.sinks = tuple(nodes), tuple(sinks)
        self.reads = np.array(reads)
        """(n_sinks,): sink i reads nodes[:reads[i]]."""
        self.feeds = tuple(feeds)
        """By sink: the nodes that it is an input of; a key-value head is one of every head of its group."""
        self.starts = np.concatenate([[0], np.cumsum(self.reads)])
        """(n_sinks + 1,): sink i has edges starts[i] to starts[i + 1]."""

    @property
    def n_edges(self) -> int:
        """The number of edges."""
        return int(self.starts[-1])

    @cached_property
    def edge_nodes(self) -> np.ndarray:
        """(E,) the node that each edge leads from."""
        return np.concatenate([np.arange(n) for n in self.reads])

    @cached_property
    def edge_sinks(self) -> np.ndarray:
        """(E,) the sink that each edge leads to."""
        return np.repeat(np.arange(len(self.sinks)), self.reads)

    def edges_of_nodes(self, nodes: np.ndarray) -> np.ndarray:
        """Return the edges that lead from nodes: (E,) of (N,) booleans."""
        return np.asarray(nodes, dtype=bool)[self.edge_nodes]
