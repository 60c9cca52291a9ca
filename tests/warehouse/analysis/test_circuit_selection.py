"""Edges are taken by their scores, and what is left of them leads from the embedding to the logits."""

from __future__ import annotations

import numpy as np
import pytest

from warehouse.analysis.circuit_selection import number_of_share, prune_edges, random_edges, select_edges

# embed (0), two heads (1, 2) that share a key head, an MLP (3); sinks: their queries, the shared key, the MLP, the logits
FEEDS = [(1,), (2,), (1, 2), (3,), ()]
READS = [[0], [0], [0], [0, 1, 2], [0, 1, 2, 3]]
EDGES = [(node, sink) for sink, nodes in enumerate(READS) for node in nodes]
NODES, SINKS = np.array(EDGES).T


def kept(*edges: tuple[int, int]) -> np.ndarray:
    return np.array([edge in edges for edge in EDGES])


def taken(scores: dict[tuple[int, int], float], n: int, how: str) -> list[tuple[int, int]]:
    values = np.array([scores.get(edge, 0.0) for edge in EDGES])
    return [edge for edge, t in zip(EDGES, select_edges(values, n, how, NODES, SINKS, FEEDS), strict=True) if t]


def left(*edges: tuple[int, int]) -> list[tuple[int, int]]:
    return [e for e, k in zip(EDGES, prune_edges(kept(*edges), NODES, SINKS, FEEDS), strict=True) if k]


def test_the_best_are_taken_by_size_by_sign_or_from_the_logits() -> None:
    scores = {(0, 0): -5.0, (1, 4): -1.0, (0, 3): 4.0, (3, 4): 0.5, (0, 2): float("nan")}
    assert taken(scores, 2, "abs") == [(0, 0), (0, 3)]
    assert taken(scores, 2, "signed") == [(0, 0), (1, 4)]
    assert taken(scores, 2, "greedy") == [
        (0, 0),
        (1, 4),
    ]  # the logits read head 1, whose query edge is now within reach
    assert taken(scores, 4, "greedy") == [(0, 0), (0, 3), (1, 4), (3, 4)]
    assert taken(scores, 0, "abs") == [] and taken({}, 2, "abs") == EDGES[:2]
    for how in ("abs", "signed", "greedy"):
        assert (0, 2) not in taken(scores, len(EDGES) - 1, how) and taken(scores, 99, how) == EDGES


def test_edges_that_dangle_are_pruned() -> None:
    assert left((0, 0), (1, 4)) == [(0, 0), (1, 4)]
    assert left((0, 0), (1, 3), (3, 4), (2, 4)) == [(0, 0), (1, 3), (3, 4)]  # head 2 has no input
    assert left((0, 0), (1, 3), (0, 4)) == [(0, 4)]  # the MLP is not read, so head 1 is not either
    assert left((0, 2), (2, 4)) == [(0, 2), (2, 4)] and left((1, 4)) == []  # a key head is an input of both heads
    assert left(*EDGES) == EDGES


def test_greedy_circuits_reach_the_logits_and_random_ones_come_again() -> None:
    random = np.random.default_rng(0)
    for n in range(1, len(EDGES)):
        scores = random.normal(size=len(EDGES))
        chosen = select_edges(scores, n, "greedy", NODES, SINKS, FEEDS)
        assert chosen.sum() == n
        useful, before = {4}, set()
        while useful != before:
            before = set(useful)
            read = {node for (node, sink), c in zip(EDGES, chosen, strict=True) if c and sink in useful}
            useful |= {sink for sink, nodes in enumerate(FEEDS) if read & set(nodes)}
        assert all(sink in useful for (_, sink), c in zip(EDGES, chosen, strict=True) if c)
    assert random_edges(3, 10, 1).sum() == 3 and (random_edges(3, 10, 1) == random_edges(3, 10, 1)).all()
    assert len({tuple(random_edges(3, 10, seed)) for seed in range(5)}) > 1


def test_a_share_is_at_least_one_edge() -> None:
    assert [number_of_share(share, 1000) for share in (0.0001, 0.001, 0.0126, 1)] == [1, 1, 13, 1000]


def test_another_way_of_selecting_is_refused() -> None:
    with pytest.raises(ValueError, match="none of abs, signed, greedy"):
        taken({}, 1, "best")
