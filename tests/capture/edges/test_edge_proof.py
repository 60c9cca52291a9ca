"""A model's edges are proven once, and again where its weights are others."""

from __future__ import annotations

import torch
import zoo

from capture.edges.edge_proof import examine_edges
from capture.model.examine import examine


def test_edges_are_proven_once_and_anew_for_other_weights() -> None:
    model = zoo.build("llama")
    anatomy = examine(model)
    first = examine_edges(anatomy)
    assert examine_edges(anatomy) is first
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert examine_edges(anatomy) is not first
