"""Edges of every family that can be built small: what must follow of scores and masks, without a list of names.

Every thirteenth family is tried each time, all of them with what is slow. Many masks are tried in one batch, each on a row of its own: row n drops
the edges of node n, or those into sink n, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
import zoo

from capture.edges.edge_graph import PORTS
from capture.edges.edge_model import Ablation, EdgeModel, PairStates
from capture.edges.edge_proof import examine_edges
from capture.edges.edge_scores import GRADIENT_METHODS, BatchScores, score_batch
from capture.edges.masked_pass import masked_states
from capture.interventions.site_edits import Edit, edit_sites
from capture.model.body import probe_ids
from capture.model.examine import examine
from capture.model.tolerances import states_tolerance
from warehouse.errors import TracesError
from warehouse.schema.sites import Key

LENGTH, SHORT = 10, 7
DECODERS = [name for name, family in zoo.FAMILIES.items() if family.kind == "causal"]
ALLOWED = states_tolerance(torch.float32)
"""Relative to the largest value: a kernel rounds otherwise for another number of rows."""


class Case(NamedTuple):
    model: EdgeModel
    states: PairStates
    """Of two pairs."""
    best: int
    """The token that the first clean prompt is answered with; the metric is its logit less that of the least likely one."""
    least: int

    def metric(self, logits: torch.Tensor) -> torch.Tensor:
        return (logits[:, self.best] - logits[:, self.least]).double()

    def score(self, states: PairStates, method: str, ends: list[int] | None = None) -> BatchScores:
        at = torch.tensor(ends or [LENGTH - 1] * len(states))
        return score_batch(self.model, states, self.metric, at, method=method, steps=2)

    def copies(self, n: int) -> PairStates:
        """The first pair n times."""
        clean, corrupted = ids(self.model)
        return read(self.model, clean[:1].expand(n, -1), corrupted[:1].expand(n, -1))

    def edited(self, n: int, edits: Mapping[Key, Edit]) -> torch.Tensor:
        """Last states (n, T, D) of the first clean prompt under edits."""
        tokens = self.states.ids[:1].expand(n, -1)
        with torch.no_grad(), edit_sites(self.model.anatomy, edits):
            return self.model.anatomy.body({self.model.side: (tokens, torch.ones_like(tokens))}).last[self.model.side]


def ids(model: EdgeModel) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [probe_ids(model.anatomy.body.model, LENGTH, seed=seed) for seed in range(4)]
    return torch.cat(rows[:2]), torch.cat(rows[2:])


def read(
    model: EdgeModel, clean: torch.Tensor, corrupted: torch.Tensor, mask: torch.Tensor | None = None
) -> PairStates:
    return model.read(clean, corrupted, torch.ones_like(clean) if mask is None else mask)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if i % 13 else []) for i, name in enumerate(DECODERS)],
)
def case(request: pytest.FixtureRequest) -> Case:
    try:
        model = examine_edges(examine(zoo.build(request.param)))
    except TracesError as e:
        pytest.skip(str(e))
    states = read(model, *ids(model))
    logits = model.logits(states.clean_last, torch.tensor([LENGTH - 1] * 2))[0]
    return Case(model, states, int(logits.argmax()), int(logits.argmin()))


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).abs().max()) <= ALLOWED * float(wanted.abs().max())


def moved(found: torch.Tensor, away: torch.Tensor) -> bool:
    """Whether every row is another than the one that it was."""
    return bool(((found - away).abs().amax((1, 2)) > 1e-5 * away.abs().max()).all())


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_the_edges_of_a_node_add_up_to_its_score(case: Case, method: str) -> None:
    scores, graph = case.score(case.states, method), case.model.graph
    assert scores.edges is not None and scores.edges.shape == (2, graph.n_edges)
    for nodes, edges in zip(scores.nodes, scores.edges, strict=True):
        sums = np.bincount(graph.edge_nodes, weights=edges, minlength=len(graph.nodes))
        assert np.abs(nodes).max() > 1e-4, "else zeros are compared"
        np.testing.assert_allclose(sums, nodes, rtol=0, atol=ALLOWED * np.abs(nodes).max())
    assert (np.abs(scores.nodes) > 0).all(), "every node does something"


def test_all_edges_give_the_clean_prompt_and_none_the_corrupted_one(case: Case) -> None:
    n = case.model.graph.n_edges
    assert moved(case.states.clean_last, case.states.corrupted_last)
    assert same(masked_states(case.model, case.states, np.ones(n, bool)), case.states.clean_last)
    assert same(masked_states(case.model, case.states, np.zeros(n, bool)), case.states.corrupted_last)
    one_each = np.array([[True] * n, [False] * n])
    both = torch.stack([case.states.clean_last[0], case.states.corrupted_last[1]])
    assert same(masked_states(case.model, case.states, one_each), both)


@pytest.mark.parametrize("kind", ["resample", "zero", "mean"])
def test_a_node_without_its_edges_is_the_node_patched(case: Case, kind: str) -> None:
    """Its values replaced by the corrupted prompt's, nothing, or a mean, wherever they are read."""
    model, graph = case.model, case.model.graph
    n = len(graph.nodes)
    states = case.copies(n)
    means = {key: case.states.corrupted(key).mean(0) for key in model.written_keys}
    ablation = {"resample": None, "zero": model.ablation("zero"), "mean": Ablation("mean", means)}[kind]

    def instead(key: Key, x: torch.Tensor) -> torch.Tensor:
        return states.corrupted(key)[0] if ablation is None else ablation.values(key, x[:1])[0]

    edits: dict[Key, Edit] = {}

    def replace(key: Key, first: int, heads: bool = False) -> None:
        def edit(x: torch.Tensor) -> torch.Tensor:
            new = x.clone()
            for h in range(x.shape[2] if heads else 1):
                place = (first + h, slice(None), h) if heads else (first,)
                new[place] = instead(key, x)[:, h] if heads else instead(key, x)
            return new

        edits[key] = edit

    replace(model.key("resid.embed"), 0)
    for i, layer in enumerate(model.layers):
        replace(model.attn_key(i), layer.first_node, heads=layer.heads is not None)
        if layer.mlp_factor is not None:
            replace(model.key("mlp_out", i), layer.first_node + layer.n_attn_nodes)
    dropped = np.stack([~graph.edges_of_nodes(row) for row in np.eye(n, dtype=bool)])
    found = masked_states(model, states, dropped, ablation)
    assert moved(found, states.clean_last)
    first = 1 if kind == "zero" else 0  # without an embedding there is nothing to norm but rounding
    assert same(found[first:], case.edited(n, edits)[first:])


def test_a_sink_without_its_edges_is_its_q_k_v_or_output_patched(case: Case) -> None:
    model, graph = case.model, case.model.graph
    n = len(graph.sinks)
    states = case.copies(n)
    inputs = [model.key(port, i) for i in range(len(model.layers)) for port in PORTS]
    tokens = ids(model)[1][:1]
    values = model.restart.read({model.side: (tokens, torch.ones_like(tokens))}, inputs).values
    edits: dict[Key, Edit] = {}

    def replace(key: Key, rows: dict[int, int | None]) -> None:
        def edit(x: torch.Tensor) -> torch.Tensor:
            new = x.clone()
            for row, head in rows.items():
                place = (row,) if head is None else (row, slice(None), head)
                own = values[key][0] if key in values else states.corrupted(key)[0]
                new[place] = own if head is None else own[:, head]
            return new

        edits[key] = edit

    for i in range(len(model.layers)):
        of_layer = [(row, sink) for row, sink in enumerate(graph.sinks) if sink.layer == i]
        for port in PORTS:
            replace(model.key(port, i), {row: sink.head for row, sink in of_layer if sink.port == port})
        if model.layers[i].mlp_factor is not None:
            replace(model.key("mlp_out", i), {row: None for row, sink in of_layer if sink.kind == "mlp"})
    dropped = np.stack([graph.edge_sinks != sink for sink in range(n)])
    found = masked_states(model, states, dropped)
    assert moved(found, states.clean_last)
    assert same(found[:-1], case.edited(n, edits)[:-1])
    assert same(found[-1], states.corrupted_last[0]), "the logits read nothing of the clean prompt"


def test_any_mask_is_each_part_given_its_own_stream(case: Case) -> None:
    """A slow way that runs the whole model again for every q, k, v and MLP, given the stream that the mask leaves for it."""
    keep = np.random.default_rng(0).random((2, case.model.graph.n_edges)) < 0.5
    found = masked_states(case.model, case.states, keep)
    assert moved(found, case.states.clean_last) and moved(found, case.states.corrupted_last)
    for row in range(2):
        assert same(found[row], slowly(case, row, keep[row]))


def slowly(case: Case, row: int, keep: np.ndarray) -> torch.Tensor:
    model, graph, states = case.model, case.model.graph, case.states
    changes = torch.zeros(0)
    """(nodes so far, T, D): what each writes less what it writes for the corrupted prompt."""

    def given(first: int, n: int, key: Key) -> Mapping[Key, torch.Tensor]:
        """The streams (n, T, D) of n sinks that read at one place."""
        edges = [np.arange(graph.starts[sink], graph.starts[sink + 1]) for sink in range(first, first + n)]
        kept = torch.stack([changes[: len(own)][keep[own]].sum(0) for own in edges])
        return {key: states.corrupted(key)[row] + kept}

    def run(put: Mapping[Key, torch.Tensor], want: Key | None = None) -> torch.Tensor:
        """What a site is, or the last states, with other values put in."""
        seen = []

        def wanted(x: torch.Tensor) -> torch.Tensor:
            seen.append(x.clone())
            return x

        edits: dict[Key, Edit] = {key: (lambda x, value=value: value.to(x.dtype)) for key, value in put.items()}
        tokens = states.ids[row : row + 1].expand(len(next(iter(put.values()))), -1)
        with torch.no_grad(), edit_sites(model.anatomy, edits if want is None else edits | {want: wanted}):
            last = model.anatomy.body({model.side: (tokens, torch.ones_like(tokens))}).last[model.side]
        return seen[0] if seen else last

    embed = model.key("resid.embed")
    changes = (states.clean(embed) - states.corrupted(embed))[row : row + 1]
    sink = 0
    for i, layer in enumerate(model.layers):
        entry, attn, inputs = model.key("resid.pre_attn", i), model.attn_key(i), {}
        for port in PORTS:
            n = model.anatomy.main.layers[i].shapes[port][0]
            found = run(given(sink, n, entry), model.key(port, i))
            inputs[model.key(port, i)] = torch.stack([found[h, :, h] for h in range(n)], 1)[None]
            sink += n
        changes = torch.cat([changes, model.written(i, run(inputs, attn) - states.corrupted(attn)[row])[0]])
        if layer.mlp_factor is not None:
            key = model.key("mlp_out", i)
            made = run(given(sink, 1, model.read_key(i)), key) - states.corrupted(key)[row]
            changes = torch.cat([changes, made * layer.mlp_factor])
            sink += 1
    return run(given(sink, 1, model.final_key))[0]


def test_scores_are_the_metrics_slope_along_the_edges(case: Case) -> None:
    """Every edge turned up and down a little, each by an amount of its own, with masks between true and false."""
    graph, scores = case.model.graph, case.score(case.states, "eap").edges
    assert scores is not None
    direction, ends = np.random.default_rng(1).standard_normal(graph.n_edges), torch.tensor([LENGTH - 1] * 2)
    step, values = 0.003, []  # smaller, and rounding shows; larger, and other experts are chosen
    for sign in (1, -1):
        last = masked_states(case.model, case.states, 1 + sign * step * direction)
        values.append(case.metric(case.model.logits(last, ends)).numpy())
    slope, size = (values[0] - values[1]) / (2 * step), np.sqrt(np.square(scores).sum(1))
    assert np.all(np.abs(slope + scores @ direction) <= 0.05 * size), "rounding and the kinks of ReLUs are up to 0.03"


def test_a_pair_does_not_depend_on_the_others_of_its_batch_nor_on_padding(case: Case) -> None:
    clean, corrupted = ids(case.model)
    mask = torch.ones_like(clean)
    mask[1, SHORT:] = 0
    keep = np.random.default_rng(2).random((2, case.model.graph.n_edges)) < 0.5
    together = read(case.model, clean * mask, corrupted * mask, mask)
    scores, states = case.score(together, "eap", [LENGTH - 1, SHORT - 1]), masked_states(case.model, together, keep)
    for row, length in enumerate((LENGTH, SHORT)):
        one = read(case.model, clean[row : row + 1, :length], corrupted[row : row + 1, :length])
        alone = case.score(one, "eap", [length - 1])
        for found, wanted in ((scores.nodes, alone.nodes), (scores.edges, alone.edges)):
            assert found is not None and wanted is not None
            np.testing.assert_allclose(found[row], wanted[0], rtol=0, atol=ALLOWED * np.abs(alone.nodes).max())
        assert same(states[row, :length], masked_states(case.model, one, keep[row])[0])
