"""Proves on a probe that a model's edges are all that its heads and MLPs read, so that scores and masked passes mean what they say.

In: a model's anatomy. Out: its `EdgeModel`, or a UsageError with what does not hold. `circuits` and the check of a model call this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from capture.edges.edge_model import EdgeModel, PairStates
from capture.edges.edge_scores import score_batch
from capture.edges.masked_pass import masked_states
from capture.model.anatomy import Anatomy
from capture.model.body import probe_ids
from capture.model.hashes import weights_hash
from capture.model.tolerances import states_tolerance
from warehouse.errors import TracesError, UsageError

_LENGTH = 9
"""Tokens of the probe's prompts."""


@dataclass(frozen=True)
class EdgeProof:
    """How exactly a model's edges hold on a probe, each relative to the largest value compared with."""

    masks: float
    """The largest difference of an edge-masked pass: all edges kept from the clean prompt's states, none from the corrupted one's."""
    sums: float
    """The largest difference between a node's score and the sum of its edges' scores."""


def examine_edges(anatomy: Anatomy) -> EdgeModel:
    """Take a model apart into nodes and edges, and prove that they hold, once for weights that stay as they are.

    Args:
        anatomy: The model's.

    Returns:
        The model's edges.

    Raises:
        UsageError: It cannot be taken apart, has no language-model head, or reads its stream by more than its edges.
    """
    body = anatomy.body.model
    weights = weights_hash(body), body.device
    known, model = anatomy.kept.get("edges", (None, None))
    if known != weights:
        model = _proven(anatomy)
        anatomy.kept["edges"] = weights, model
    return model


def _proven(anatomy: Anatomy) -> EdgeModel:
    try:
        model = EdgeModel(anatomy)
    except UsageError:
        raise
    except TracesError as e:
        raise UsageError(str(e)) from e
    proof = prove_edges(model)
    allowed = states_tolerance(anatomy.body.model.dtype)
    for error, what in (
        (proof.masks, "an edge-masked pass is not the pass that it should be"),
        (proof.sums, "a node's edges do not add up to it"),
    ):
        if not error <= allowed:
            raise UsageError(
                f"{model.name}: edges cannot be told apart: {what}, by {error:.1e} of it: its heads or MLPs read more of the stream than "
                "their q, k, v and inputs."
            )
    return model


def prove_edges(model: EdgeModel) -> EdgeProof:
    """Measure on a probe how exactly a model's edges hold.

    Args:
        model: The model.

    Returns:
        The errors.
    """
    ids = torch.cat([probe_ids(model.anatomy.body.model, _LENGTH, seed=seed) for seed in (0, 1)])
    states = model.read(ids[:1], ids[1:], torch.ones_like(ids[:1]))
    masks = max(
        _error(masked_states(model, states, np.full(model.graph.n_edges, keep)), last)
        for keep, last in ((True, states.clean_last), (False, states.corrupted_last))
    )
    return EdgeProof(masks, _prove_sums(model, states))


def _prove_sums(model: EdgeModel, states: PairStates) -> float:
    ends = torch.tensor([_LENGTH - 1])
    logits = model.logits(states.clean_last, ends)[0]
    best, least = int(logits.argmax()), int(logits.argmin())
    scores = score_batch(model, states, lambda x: (x[:, best] - x[:, least]).double(), ends, method="eap")
    assert scores.edges is not None
    sums = np.bincount(model.graph.edge_nodes, weights=scores.edges[0], minlength=len(model.graph.nodes))
    return float(np.abs(sums - scores.nodes[0]).max() / max(np.abs(scores.nodes).max(), 1e-30))


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the largest difference; in half precision the median token's, as rounding may send single tokens to other experts."""
    by_token = (found.float() - wanted.float()).abs().amax(-1).flatten()
    error = by_token.max() if wanted.dtype in (torch.float32, torch.float64) else by_token.median()
    return float(error / wanted.float().abs().max())
