"""Files of trait pipelines are plain tensors: means over the response's own tokens, and vectors as long as their method made them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import add_run
from synthetic_traits import LENGTH, PROMPT, RESPONSE, add_responses, grid

from capture import exports
from warehouse import Warehouse
from warehouse.errors import UsageError

LAYERS, D = 4, 6


@pytest.mark.parametrize("means", [False, True])
def test_activations_are_means_over_the_response(means: bool, tmp_path: Path) -> None:
    responses = grid(2)
    shape = (len(responses), D) if means else (len(responses), LENGTH, D)
    site = "mean.resid.post_mlp" if means else "resid.post_mlp"
    tensors = {(site, n): np.random.default_rng(n).standard_normal(shape).astype(np.float32) for n in range(LAYERS)}
    add_responses(tmp_path / "runs", "said", responses, tensors, n_layers=LAYERS)
    with Warehouse(tmp_path / "runs") as wh:
        assert exports.trait_tensors(wh, "said", tmp_path / "out") == ["activations/all_layers.pt"]
    found = torch.load(tmp_path / "out" / "activations" / "all_layers.pt", weights_only=True)
    about = json.loads((tmp_path / "out" / "activations" / "metadata.json").read_text(encoding="utf-8"))
    assert found.shape == (about["n_examples"], about["n_layers"], about["hidden_dim"]) == (len(responses), LAYERS, D)
    places = {(r.example_id, r.sample): i for i, r in enumerate(responses)}
    for row, said in zip(found.numpy(), about["examples"], strict=True):
        at = places[said["example_id"], said["seq"]]
        assert said["polarity"] == responses[at].polarity
        for n in range(LAYERS):
            x = tensors[site, n][at]
            expected = x if means else x[PROMPT : PROMPT + RESPONSE].mean(axis=0)
            np.testing.assert_allclose(row[n], expected, rtol=1e-6)  # the order of a sum of four


def test_vectors_have_their_own_length(tmp_path: Path) -> None:
    row = {"trait": "loud", "method": "probe", "component": "residual", "norm": 2.0, "train_accuracy": 0.75}
    rows = [row | {"layer": n, "vector": [0.6, 0.8, 0.0, 0.0]} for n in (0, 3)]
    add_run(tmp_path / "runs", "v", "trait-vectors", {"trait_vectors": rows})
    with Warehouse(tmp_path / "runs") as wh:
        exports.trait_tensors(wh, "v", tmp_path / "out")
    folder = tmp_path / "out" / "vectors" / "loud"
    assert sorted(p.name for p in folder.iterdir()) == [
        "probe_layer0.pt", "probe_layer0_metadata.json", "probe_layer3.pt", "probe_layer3_metadata.json",
    ]  # fmt: skip
    assert torch.equal(torch.load(folder / "probe_layer3.pt", weights_only=True), torch.tensor([1.2, 1.6, 0.0, 0.0]))
    about = json.loads((folder / "probe_layer3_metadata.json").read_text(encoding="utf-8"))
    assert (about["trait"], about["method"], about["layer"]) == ("loud", "probe", 3)
    assert (about["vector_norm"], about["train_accuracy"]) == (2.0, 0.75)


def test_a_run_with_neither_says_so(tmp_path: Path) -> None:
    add_run(tmp_path / "runs", "r", "next-token", {"examples": [{"example_id": "e", "n_seqs": 1}]})
    with Warehouse(tmp_path / "runs") as wh, pytest.raises(UsageError, match="neither responses nor vectors"):
        exports.trait_tensors(wh, "r", tmp_path / "out")
