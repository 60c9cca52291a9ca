"""Edges of real models: the published figures of greater-than in GPT-2, where its weights are at hand, and SmolLM2."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from capture.edges.edge_model import EdgeModel
from capture.edges.edge_proof import examine_edges
from capture.edges.edge_scores import score_batch
from capture.edges.masked_pass import masked_states
from capture.model import loading
from capture.model.loading import Loaded
from warehouse.analysis.circuit_selection import prune_edges, select_edges
from warehouse.errors import TracesError

pytestmark = pytest.mark.slow


class Prompts(NamedTuple):
    """Pairs about a later year, and by pair the tokens that are right (1) and wrong (-1): (B, V)."""

    clean: torch.Tensor
    corrupted: torch.Tensor
    signs: torch.Tensor

    def batches(self, size: int) -> list[Prompts]:
        return [Prompts(*parts) for parts in zip(*(x.split(size) for x in self), strict=True)]

    @property
    def ends(self) -> torch.Tensor:
        return torch.full((len(self.clean),), self.clean.shape[1] - 1)

    def metric(self, logits: torch.Tensor) -> torch.Tensor:
        """The probability of all years that are later less that of the others."""
        return (logits.double().softmax(1) * self.signs).sum(1)


def read_prompts(loaded: Loaded, path: Path, most: int) -> Prompts:
    """The first prompts of the length that most have."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file)]
    years = [loaded.tokenizer(f"{year:02d}", add_special_tokens=False)["input_ids"] for year in range(100)]
    whole = all(len(ids) == 1 for ids in years)  # else digit by digit: the first is compared, where it decides
    found, signs = [], []
    for row in rows:
        ids = [loaded.tokenizer(row[name])["input_ids"] for name in ("clean", "corrupted")]
        year, sign = int(row["label"]), torch.zeros(loaded.model.config.vocab_size, dtype=torch.float64)
        for other in range(100):
            if whole or other // 10 != year // 10:
                sign[years[other][0]] = 1 if other > year else -1
        if len(ids[0]) == len(ids[1]):
            found.append(ids)
            signs.append(sign)
    lengths = [len(clean) for clean, _ in found]
    usual = max(set(lengths), key=lengths.count)
    chosen = [i for i, length in enumerate(lengths) if length == usual][:most]
    clean, corrupted = (torch.tensor([found[i][role] for i in chosen]) for role in (0, 1))
    return Prompts(clean, corrupted, torch.stack([signs[i] for i in chosen]))


def found_by(model: EdgeModel, prompts: Prompts, method: str) -> np.ndarray:
    """The mean score of each edge."""
    total = np.zeros(model.graph.n_edges)
    for batch in prompts.batches(12):
        states = model.read(batch.clean, batch.corrupted, torch.ones_like(batch.clean))
        scores = score_batch(model, states, batch.metric, batch.ends, method=method, steps=5)
        assert scores.edges is not None
        total += scores.edges.sum(0)
    return total / len(prompts.clean)


def value_of(model: EdgeModel, prompts: Prompts, keep: np.ndarray) -> float:
    """The mean metric with the edges that are kept."""
    values = []
    for batch in prompts.batches(12):
        states = model.read(batch.clean, batch.corrupted, torch.ones_like(batch.clean))
        values.append(batch.metric(model.logits(masked_states(model, states, keep), batch.ends)))
    return float(torch.cat(values).mean())


def greedy(model: EdgeModel, scores: np.ndarray, n: int) -> np.ndarray:
    places = (model.graph.edge_nodes, model.graph.edge_sinks, model.graph.feeds)
    return prune_edges(select_edges(scores, n, "greedy", *places), *places)


def test_greater_than_in_gpt2_has_the_published_figures(shared: Callable[[str], Path]) -> None:
    """Of Hanna et al.'s own run over 1,008 pairs, 200 edges taken greedily: .814 with all edges, .732 by EAP-IG, .666 by EAP.

    Over the 300 pairs that are at hand means move by about .02; points between the embeddings are other ones here, middles and not ends.
    """
    try:
        loaded = loading.load("gpt2", device="cpu")
    except TracesError as e:
        pytest.skip(f"GPT-2's weights are not in the cache: {e}")
    prompts = read_prompts(loaded, shared("circuits/greater_than.csv"), most=300)
    model = examine_edges(loaded.anatomy)
    assert model.graph.n_edges == 32_491
    full = value_of(model, prompts, np.ones(model.graph.n_edges, dtype=bool))
    by_ig, by_eap = (
        value_of(model, prompts, greedy(model, found_by(model, prompts, method), 200)) for method in ("eap-ig", "eap")
    )
    assert full == pytest.approx(0.814, abs=0.03)
    assert by_ig == pytest.approx(0.732, abs=0.06) and by_eap == pytest.approx(0.666, abs=0.08)
    assert by_ig > by_eap


def test_the_error_of_integrated_gradients_falls_with_the_steps_on_a_real_model(
    smollm2: Loaded, shared: Callable[[str], Path]
) -> None:
    prompts = read_prompts(smollm2, shared("circuits/greater_than.csv"), most=2)
    model, errors = EdgeModel(smollm2.anatomy), []
    states = model.read(prompts.clean, prompts.corrupted, torch.ones_like(prompts.clean))
    for steps in (1, 5):
        scores = score_batch(model, states, prompts.metric, prompts.ends, method="eap-ig", steps=steps, edges=False)
        errors.append(abs(scores.gaps.sum()) / abs(scores.changes.sum()))
    assert errors[1] < errors[0] / 2 and errors[1] < 0.2, errors
