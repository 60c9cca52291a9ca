"""Which edges are in a circuit: the best by their scores, without those that lead nowhere.

In: arrays over the edges of a model's graph. `edge_nodes` is the node that each edge leads from, `edge_sinks` the sink that it leads to,
`feeds` names for each sink the nodes that it is an input of (a key-value head is one of every head of its group; the logits, none).
Out: booleans over the edges. Evaluation, exports and pictures of circuits take their edges from here, so that they are the same ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import chain

import numpy as np

SELECTIONS = ("abs", "signed", "greedy")
"""By size of the score; the most negative first (that is what helps); by size too, but from the logits upwards."""


def number_of_share(share: float, total: int) -> int:
    """Return how many edges a share of all is: at least 1."""
    return max(1, round(share * total))


def order_edges(
    scores: np.ndarray, how: str, edge_nodes: np.ndarray, edge_sinks: np.ndarray, feeds: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """Order edges, the best first; of equal ones the earlier, and those without a score (NaN) last.

    Args:
        scores: (E,) the score of each edge: negative where the edge helps.
        how: `abs`, `signed` or `greedy` (again and again the largest |score| whose sink is the logits or feeds a node that an edge
            taken before leads from).
        edge_nodes: (E,) the node that each edge leads from.
        edge_sinks: (E,) the sink that it leads to.
        feeds: By sink, the nodes that it is an input of.

    Returns:
        Edges by their places; of `greedy` those alone that lead on to the logits.

    Raises:
        ValueError: `how` is none of these.
    """
    if how not in SELECTIONS:
        raise ValueError(f"selection {how!r} is none of {', '.join(SELECTIONS)}")
    order = np.argsort(scores if how == "signed" else -np.abs(scores), kind="stable")  # NaN goes last
    return _from_logits(order, edge_nodes, edge_sinks, feeds) if how == "greedy" else order


def select_edges(
    scores: np.ndarray,
    n: int,
    how: str,
    edge_nodes: np.ndarray,
    edge_sinks: np.ndarray,
    feeds: Sequence[tuple[int, ...]],
) -> np.ndarray:
    """Take the n first edges of `order_edges`: (E,) booleans."""
    taken = np.zeros(len(scores), dtype=bool)
    taken[order_edges(scores, how, edge_nodes, edge_sinks, feeds)[:n]] = True
    return taken


def prune_edges(
    keep: np.ndarray, edge_nodes: np.ndarray, edge_sinks: np.ndarray, feeds: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """Drop the edges that dangle: of those left, each lies on a path from the embedding to the logits.

    Where corrupted values stand in for all other edges, dropping them changes no value: a node without an input in the circuit writes what it
    writes for the corrupted prompt, and a node that no path leads from is not read.

    Args:
        keep: (E,) True for the edges of the circuit.
        edge_nodes: (E,) the node that each edge leads from.
        edge_sinks: (E,) the sink that it leads to.
        feeds: By sink, the nodes that it is an input of. The embedding is the node that nothing feeds.

    Returns:
        (E,) True for the edges that are left.
    """
    fed_sinks = np.repeat(np.arange(len(feeds)), [len(nodes) for nodes in feeds])
    fed_nodes = np.fromiter(chain.from_iterable(feeds), dtype=np.intp, count=len(fed_sinks))
    n_nodes = 1 + max(edge_nodes.max(initial=-1), fed_nodes.max(initial=-1))
    reached = np.ones(n_nodes, dtype=bool)
    reached[fed_nodes] = False
    before = -1
    while (now := int(reached.sum())) != before:
        before = now
        read = np.zeros(len(feeds), dtype=bool)
        read[edge_sinks[keep & reached[edge_nodes]]] = True
        reached[fed_nodes[read[fed_sinks]]] = True
    useful = np.array([not nodes for nodes in feeds], dtype=bool)
    before = -1
    while (now := int(useful.sum())) != before:
        before = now
        used = np.zeros(n_nodes, dtype=bool)
        used[edge_nodes[keep & useful[edge_sinks]]] = True
        useful[fed_sinks[used[fed_nodes]]] = True
    left: np.ndarray = keep & reached[edge_nodes] & useful[edge_sinks]
    return left


def random_edges(n: int, total: int, seed: int) -> np.ndarray:
    """Draw n of `total` edges, each as likely as the next: (total,) booleans, the same for the same seed."""
    taken = np.zeros(total, dtype=bool)
    taken[np.random.default_rng(seed).permutation(total)[:n]] = True
    return taken


def _from_logits(
    order: np.ndarray, edge_nodes: np.ndarray, edge_sinks: np.ndarray, feeds: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """Reorder edges that are sorted, best first, so that each one's sink is reached by those before it."""
    of_sink: list[list[int]] = [[] for _ in feeds]
    for rank, edge in enumerate(order.tolist()):
        of_sink[edge_sinks[edge]].append(rank)
    into: dict[int, list[int]] = {}
    for sink, nodes in enumerate(feeds):
        for node in nodes:
            into.setdefault(node, []).append(sink)
    open_sinks = {sink for sink, nodes in enumerate(feeds) if not nodes}
    heap = [rank for sink in open_sinks for rank in of_sink[sink]]
    heapq.heapify(heap)
    path = []
    while heap:
        path.append(edge := int(order[heapq.heappop(heap)]))
        for sink in into.get(int(edge_nodes[edge]), []):
            if sink not in open_sinks:
                open_sinks.add(sink)
                for rank in of_sink[sink]:
                    heapq.heappush(heap, rank)
    return np.array(path, dtype=np.intp)
