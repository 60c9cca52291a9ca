"""The engine of circuits against a model whose circuits are known: what it finds must be them, and they must be all there is."""

from __future__ import annotations

from functools import cache

import induction_model
import numpy as np
import pytest
import torch
from induction_model import CIRCUITS, N_TOKENS, Pairs

from capture.edges.edge_model import EdgeModel, PairStates
from capture.edges.edge_proof import examine_edges
from capture.edges.edge_scores import score_batch
from capture.edges.masked_pass import masked_states
from capture.model.examine import examine

NOISE = (0.0, 0.01)
"""0.01: logits move by about a tenth."""


@cache
def model_of(noise: float) -> EdgeModel:
    return examine_edges(examine(induction_model.build(noise)))


def true_edges(model: EdgeModel, corruption: str) -> np.ndarray:
    graph = model.graph
    names = [
        (graph.nodes[n].name, graph.sinks[s].name) for n, s in zip(graph.edge_nodes, graph.edge_sinks, strict=True)
    ]
    found = np.array([name in CIRCUITS[corruption] for name in names])
    assert found.sum() == len(CIRCUITS[corruption])
    return found


def read(model: EdgeModel, pairs: Pairs) -> PairStates:
    return model.read(pairs.clean, pairs.corrupted, pairs.mask)


def values(model: EdgeModel, pairs: Pairs, last: torch.Tensor) -> np.ndarray:
    """The metric of each pair, of last states."""
    return pairs.metric(model.logits(last, pairs.ends)).double().numpy()


def auroc(scores: np.ndarray, true: np.ndarray) -> float:
    """How often a true edge has a larger |score| than another one; a tie counts half."""
    found, others = np.abs(scores[true])[:, None], np.abs(scores[~true])
    return float((found > others).mean() + (found == others).mean() / 2)


@pytest.mark.parametrize("noise", NOISE)
def test_it_solves_induction(noise: float) -> None:
    """At every place of B, however far back; and not where A was not there."""
    pairs = induction_model.make_pairs("first A", n=64, length=N_TOKENS - 2)
    model = induction_model.build(noise)
    with torch.no_grad():
        for ids, solved in ((pairs.clean, True), (pairs.corrupted, False)):
            logits = model(input_ids=ids).logits[:, -1]
            assert bool((logits.argmax(1) == pairs.right).all()) == solved
            chances = logits.softmax(1)[torch.arange(len(logits)), pairs.right]
            assert bool((chances > 0.95).all()) if solved else bool((chances < 0.5).all())


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("corruption", CIRCUITS)
def test_exact_patching_finds_the_true_edges_and_integrated_gradients_do(corruption: str, noise: float) -> None:
    model, pairs = model_of(noise), induction_model.make_pairs(corruption, n=3)
    true = true_edges(model, corruption)
    n = model.graph.n_edges
    effects = np.zeros(n)
    for i in range(len(pairs.clean)):  # every edge of a pair is a row of one batch
        one = Pairs(*(x[i : i + 1].expand(n, *x.shape[1:]) for x in pairs))
        states = read(model, one)
        effects += values(model, one, masked_states(model, states, ~np.eye(n, dtype=bool)))
        effects -= values(model, one, states.clean_last)
    assert auroc(effects, true) == 1.0
    assert (effects[true] < 0).all(), "an edge that helps has a negative effect"
    assert np.abs(effects[true]).min() > 10 * np.abs(effects[~true]).max()
    scores = score_batch(model, read(model, pairs), pairs.metric, pairs.ends, method="eap-ig", steps=5).edges
    assert scores is not None and auroc(scores.mean(0), true) >= 0.99
    assert (scores.mean(0)[true] < 0).all()


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("corruption", CIRCUITS)
def test_the_true_circuit_is_all_there_is(corruption: str, noise: float) -> None:
    """Faithfulness of the true edges alone, and of all others without them."""
    model, pairs = model_of(noise), induction_model.make_pairs(corruption)
    true, states = true_edges(model, corruption), read(model, pairs)
    full, none = (values(model, pairs, x).mean() for x in (states.clean_last, states.corrupted_last))
    allowed = 1e-4 if noise == 0 else 0.02  # noise opens other ways, which carry about a hundredth
    for keep, expected in ((true, 1.0), (~true, 0.0)):
        kept = values(model, pairs, masked_states(model, states, keep)).mean()
        assert abs((kept - none) / (full - none) - expected) <= allowed
    for edge in np.flatnonzero(true):  # and each of them is needed
        kept = values(model, pairs, masked_states(model, states, true & (np.arange(len(true)) != edge))).mean()
        assert abs((kept - none) / (full - none)) <= allowed


def test_the_error_of_integrated_gradients_falls_with_the_steps() -> None:
    """Attention that is all or nothing is what they need many steps for."""
    model, pairs = model_of(0.01), induction_model.make_pairs("last A", n=3)
    states, errors = read(model, pairs), []
    for steps in (1, 4, 16):
        scores = score_batch(model, states, pairs.metric, pairs.ends, method="eap-ig", steps=steps, edges=False)
        errors.append(abs(scores.gaps.sum()) / abs(scores.changes.sum()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.1 > 0.01 > errors[-1], errors
    plain = score_batch(model, states, pairs.metric, pairs.ends, method="eap", edges=False)
    assert np.isnan(plain.gaps).all()
