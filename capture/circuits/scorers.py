"""The methods that score nodes and edges, each as one object that takes a batch of pairs.

In: pairs as a model reads them. Out: `Scores`, one of every node, and of every edge where they are asked for, for each pair. `discover_run`
makes a scorer for each method and sums what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from capture.circuits.options import EXACT, RANDOM, DiscoverOptions, level_of
from capture.circuits.pairs import PairReader, ReadPairs
from capture.circuits.tally import counter_generator
from capture.edges.edge_model import EdgeModel
from capture.edges.edge_scores import score_batch
from capture.edges.masked_pass import masked_states
from capture.effects.measure import Measurer
from capture.effects.options import Change
from capture.effects.options import Options as EffectOptions
from capture.interventions.intervention import Intervention
from capture.model.loading import Loaded
from warehouse.errors import UsageError


@dataclass(frozen=True)
class Scores:
    """The scores of B pairs."""

    nodes: np.ndarray
    """(B, N) float64."""
    edges: np.ndarray | None = None
    """(B, E)."""
    gap: float = 0.0
    """Of `eap-ig`: by how much the embedding's score misses the change of the metric, summed over pairs."""


Score = Callable[[ReadPairs], Scores]


@dataclass(frozen=True)
class Scorer:
    """A method."""

    method: str
    level: str
    """`edge`: nodes and edges have scores; `node`: nodes alone."""
    score: Score
    passes: float
    """What a pair costs, about, in forward passes of one prompt, to say beforehand."""


def make_scorers(loaded: Loaded, reader: PairReader, options: DiscoverOptions) -> list[Scorer]:
    """Make the methods that were asked for; raises UsageError for one that the metric leaves nothing to."""
    return [_make(loaded, reader, options, method, level_of(method, options.level)) for method in options.methods]


def _make(loaded: Loaded, reader: PairReader, options: DiscoverOptions, method: str, level: str) -> Scorer:
    model, edges = reader.model, level == "edge"
    n_nodes, n_edges = len(model.graph.nodes), model.graph.n_edges
    if method == RANDOM:
        return Scorer(method, level, lambda read: _random(model, read, options.seed, edges), 0)
    if method == EXACT:
        measure = ExactNodes(loaded, reader)
        if edges:
            return Scorer(
                method, level, lambda read: _exact_edges(reader, measure, read), NODE * n_nodes + MASKED * n_edges
            )
        return Scorer(method, level, lambda read: Scores(measure(read)), NODE * n_nodes)
    if reader.metric == "kl" and method != "eap-ig":
        raise UsageError(
            f"--method {method} takes one gradient, on the clean prompt, where kl has none: use eap-ig, or another --metric."
        )

    def score(read: ReadPairs) -> Scores:
        found = score_batch(
            model, read.states, read.objective, read.ends, method=method, steps=options.steps, edges=edges
        )
        return Scores(found.nodes, found.edges, float(found.gaps.sum()))

    return Scorer(method, level, score, GRADIENT * (options.steps if method == "eap-ig" else 2))


GRADIENT, NODE, MASKED = 3, 0.25, 2
"""What a gradient, a patched node and an edge-masked pass cost, about, in forward passes of one prompt."""


class ExactNodes:
    """Patches one node after the other, as `traces ablate --kind resample` does."""

    def __init__(self, loaded: Loaded, reader: PairReader) -> None:
        """Name the change that each node is."""
        model = reader.model
        self._n = len(model.graph.nodes)
        changes = [_change(model, i) for i in range(self._n)]
        options = EffectOptions(kind="resample", metric=reader.metric, batch_tokens=reader.batch_tokens)
        self._measure = Measurer(loaded, model.restart, changes, options, reader.metric, None, False, None)

    def __call__(self, read: ReadPairs) -> np.ndarray:
        """Return the effects (B, N)."""
        place = {pair.example_id: i for i, pair in enumerate(read.pairs)}
        effects = np.empty((len(read.pairs), self._n))
        for group in self._measure(read.pairs):
            for found in group:
                effects[place[found.example_id], found.intervention_id] = found.effect
        return effects


def _change(model: EdgeModel, number: int) -> Change:
    """Return the intervention that gives a node the corrupted prompt's value."""
    node = model.graph.nodes[number]
    if node.layer is None:
        key = model.key("resid.embed")
    else:
        key = model.key("mlp_out", node.layer) if node.kind == "mlp" else model.attn_key(node.layer)
    return Change(Intervention(key.site, key.layer, "resample", head=node.head), key, None)


def patch_edges(reader: PairReader, read: ReadPairs, edges: Sequence[int]) -> np.ndarray:
    """Give edges the corrupted prompt's values, one after the other.

    Args:
        reader: Reads the model.
        read: B pairs.
        edges: The edges.

    Returns:
        (B, edges) effects: the metric with the edge corrupted less that with every edge kept, both of an edge-masked pass.
    """
    keep = np.ones(reader.model.graph.n_edges, dtype=bool)
    effects = np.empty((len(read.pairs), len(edges)))
    whole = reader.value(read, masked_states(reader.model, read.states, keep))
    for i, edge in enumerate(edges):
        keep[edge] = False
        effects[:, i] = reader.value(read, masked_states(reader.model, read.states, keep)) - whole
        keep[edge] = True
    return effects


def _exact_edges(reader: PairReader, measure: ExactNodes, read: ReadPairs) -> Scores:
    return Scores(measure(read), patch_edges(reader, read, range(reader.model.graph.n_edges)))


def _random(model: EdgeModel, read: ReadPairs, seed: int, edges: bool) -> Scores:
    """Draw the scores of edges for each pair; a node's is the sum of those that leave it."""
    graph = model.graph
    nodes = np.empty((len(read.pairs), len(graph.nodes)))
    drawn = np.empty((len(read.pairs), graph.n_edges), dtype=np.float32)
    for i, pair in enumerate(read.pairs):
        drawn[i] = counter_generator(seed, f"scores\x1f{pair.example_id}").standard_normal(graph.n_edges, np.float32)
        nodes[i] = np.bincount(graph.edge_nodes, drawn[i], len(graph.nodes))
    return Scores(nodes, drawn if edges else None)
