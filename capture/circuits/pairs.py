"""The pairs that circuits are found and tried on: which of them, what a resample draws, and how a model answers them.

In: a task's run, and a model's edges. Out: `split_pairs` divides pairs into those to find a circuit on and those held out, `read_units`
says which pairs are drawn together, `PairReader` reads a batch of them. `discover_run` and `evaluate_run` call all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from capture.edges.edge_model import EdgeModel, PairStates
from capture.effects.task_pairs import CLEAN, CORRUPTED, PromptPair, group_pairs
from capture.interventions.reference import pad
from capture.model.body import padding_id
from capture.recording.metrics import Targets, log_probs, metric_tensor
from warehouse.storage.trace_store import TraceStore

MOST_TOKENS = 2048
"""Tokens of a batch, at most, where no number is given."""

_MEMORY = 1 << 30
"""Bytes that a batch takes, about, where no number of tokens is given."""
_LEAST_TEMPLATES = 5
"""Templates that a task has at least for them to be drawn, and not its pairs."""


def split_pairs(pairs: Sequence[PromptPair], share: float, seed: int) -> tuple[list[PromptPair], list[PromptPair]]:
    """Divide pairs into those that a circuit is found on, at least one, and those held out; their order is kept, and does not matter."""
    drawn = sorted((p.example_id for p in pairs), key=lambda example: _hash(seed, example))
    found = set(drawn[: max(1, round(share * len(pairs)))])
    return [p for p in pairs if p.example_id in found], [p for p in pairs if p.example_id not in found]


def _hash(seed: int, example_id: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}\x1f{example_id}".encode())


@dataclass(frozen=True)
class Units:
    """What a resample of a task draws."""

    name: str
    """`pair` or `template`."""
    of: dict[str, str]
    """By example_id."""
    templates: dict[str, str | None]
    """By example_id."""
    corruptions: dict[str, str]
    """By example_id."""

    def of_pairs(self, pairs: Sequence[PromptPair]) -> list[str]:
        """Return the unit of each pair."""
        return [self.of[p.example_id] for p in pairs]


def read_units(store: TraceStore) -> Units:
    """Read what a resample of a task draws: templates where it has five or more, else pairs."""
    rows = store.query("SELECT example_id, template, corruption FROM task_pairs WHERE seq = 0").fetchall()
    templates = {example: template for example, template, _ in rows}
    drawn = len(set(templates.values())) >= _LEAST_TEMPLATES and None not in templates.values()
    of = {example: str(template) if drawn else example for example, template in templates.items()}
    return Units(
        "template" if drawn else "pair", of, templates, {example: corruption for example, _, corruption in rows}
    )


@dataclass(frozen=True)
class ReadPairs:
    """A batch of B pairs as a model reads them."""

    pairs: Sequence[PromptPair]
    states: PairStates
    ends: torch.Tensor
    """(B,) their last positions."""
    metric: str
    targets: Targets
    clean_log_probs: torch.Tensor | None
    """(B, V), where the metric compares with them."""

    def objective(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the metric of each pair, (B,), of logits (B, V); differentiable."""
        return metric_tensor(self.metric, logits, self.targets, self.clean_log_probs)


class PairReader:
    """Reads pairs with a model, and their metric."""

    def __init__(self, model: EdgeModel, metric: str, batch_tokens: int | None, *, backward: bool) -> None:
        """Prepare to read batches.

        Args:
            model: The model.
            metric: The metric.
            batch_tokens: The most tokens of a batch; None: as many as take 1 GB, and at most 2,048.
            backward: Scores are computed of them.
        """
        self.model, self.metric = model, metric
        self._padding = padding_id(model.anatomy.body.model)
        own = 2 * _MEMORY // model.bytes_per_token(backward)
        self.batch_tokens = batch_tokens if batch_tokens is not None else min(MOST_TOKENS, own)

    def groups(self, pairs: Sequence[PromptPair]) -> Iterator[list[PromptPair]]:
        """Group pairs into batches."""
        return group_pairs(list(pairs), self.batch_tokens)

    def read(self, pairs: Sequence[PromptPair]) -> ReadPairs:
        """Run both prompts of pairs as they are."""
        clean, mask = pad([p.ids[CLEAN] for p in pairs], self._padding)
        corrupted, _ = pad([p.ids[CORRUPTED] for p in pairs], self._padding)
        states = self.model.read(clean, corrupted, mask)
        ends = torch.tensor([len(p) - 1 for p in pairs])
        expected = None
        if self.metric == "kl":
            with torch.no_grad():
                expected = log_probs(self.model.logits(states.clean_last, ends))
        return ReadPairs(pairs, states, ends, self.metric, Targets.of([p.targets for p in pairs]), expected)

    def value(self, read: ReadPairs, last: torch.Tensor) -> np.ndarray:
        """Return the metric of pairs, (B,) float64, of their last hidden states (B, T, D)."""
        with torch.no_grad():
            values: np.ndarray = read.objective(self.model.logits(last, read.ends)).cpu().numpy()
        return values
