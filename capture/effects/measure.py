"""Measures the effects of interventions on a group of pairs: many edited copies a forward pass, each from its first changed layer.

In go pairs and the list of changes; out comes a row for each pair and change. A group's prompts are read once as they are; then,
layer by layer, copies of the prompts run with one change each. `effects_run` hands groups in and writes the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from capture.effects.options import Change, Options
from capture.effects.task_pairs import CLEAN, CORRUPTED, PromptPair
from capture.interventions.reference import PositionMeans, pad
from capture.interventions.restart import Passed, Restart
from capture.interventions.site_edits import Edit, chain_edits
from capture.model.body import padding_id
from capture.model.lm_head import LMHead
from capture.model.loading import Loaded
from capture.recording.metrics import LEAST_DIFFERENCE, Targets, log_probs, metric
from warehouse.schema.sites import Key

StoredValues = Callable[[Key, str, int], np.ndarray]
"""Reads what a run has stored of a site for an example and seq, (T, *row_shape)."""

_LOGIT_ROWS = 256
"""Rows of logits that exist at a time."""


@dataclass(frozen=True)
class Effect:
    """What an intervention did to a prompt: a row of `effects`."""

    intervention_id: int
    example_id: str
    seq: int
    metric: str
    baseline: float
    value: float
    effect: float
    effect_normalised: float | None


@dataclass(frozen=True)
class _Group:
    """The prompts of a group, as the model reads them: its n clean ones, then its n corrupted ones."""

    pairs: Sequence[PromptPair]
    passed: Passed
    ends: torch.Tensor
    """(2n,) the last position of each."""
    targets: Targets
    clean_log_probs: torch.Tensor | None
    scores: np.ndarray
    """(2, n) the metric of each prompt as it is."""


class Measurer:
    """Runs the pairs of a task under interventions."""

    def __init__(
        self,
        loaded: Loaded,
        restart: Restart,
        changes: Sequence[Change],
        options: Options,
        metric_name: str,
        means: PositionMeans | None,
        own_means: bool,
        stored: StoredValues | None,
    ) -> None:
        """Prepare to measure.

        Args:
            loaded: The model.
            restart: Runs it.
            changes: The interventions.
            options: What was asked for.
            metric_name: The metric.
            means: What `mean` puts in.
            own_means: The means are over the task's own prompts: each prompt gets those of the others.
            stored: Reads what `patch` puts in, where it comes from a run.
        """
        self._loaded, self._restart, self._changes, self._options = loaded, restart, changes, options
        self._metric, self._means, self._own_means, self._stored = metric_name, means, own_means, stored
        self._head = LMHead(loaded.anatomy.body)
        self._keys = list(dict.fromkeys(change.key for change in changes))
        self._side = loaded.anatomy.main.side

    def __call__(self, pairs: Sequence[PromptPair]) -> Iterator[list[Effect]]:
        """Measure all changes on a group of pairs.

        Args:
            pairs: The pairs, whose prompts make one batch.

        Yields:
            The effects of each forward pass.
        """
        group = self._read(pairs)
        values: dict[Key, torch.Tensor | None] = {}
        numbered = list(enumerate(self._changes))
        for layer, same in groupby(numbered, key=lambda item: item[1].first_layer):
            values.clear()  # those of one layer are in memory at a time, apart from what was read
            rows = [(i, n) for n, change in same for i, pair in enumerate(pairs) if change.applies(len(pair))]
            for part in self._passes(rows, len(group.passed.tokens[self._side][0][0])):
                yield self._run(group, layer, part, values)

    def _read(self, pairs: Sequence[PromptPair]) -> _Group:
        """Read a group's prompts as they are."""
        prompts = [pair.ids[seq] for seq in (CLEAN, CORRUPTED) for pair in pairs]
        needed = self._keys if self._options.from_pair or self._own_means else ()
        passed = self._restart.read({self._side: pad(prompts, padding_id(self._loaded.model))}, needed)
        ends = torch.tensor([len(ids) - 1 for ids in prompts])
        targets = Targets.of([pair.targets for pair in pairs])
        n = torch.arange(len(prompts))
        logits = self._logits(passed.last[n.to(passed.last.device), ends.to(passed.last.device)])
        clean = log_probs(logits[: len(pairs)]) if self._metric == "kl" else None
        both = torch.cat([torch.arange(len(pairs))] * 2)
        scores = metric(self._metric, logits, targets[both], None if clean is None else clean[both])
        return _Group(pairs, passed, ends, targets, clean, scores.reshape(2, -1))

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([self._head(rows).float().clone() for rows in states.split(_LOGIT_ROWS)])

    def _passes(self, rows: list[tuple[int, int]], length: int) -> Iterator[list[tuple[int, int]]]:
        """Cut (pair, change) rows into forward passes of equal size."""
        most = max(1, self._options.batch_tokens // length)
        n = -(-len(rows) // most)
        size = -(-len(rows) // n) if n else 1
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _run(
        self, group: _Group, layer: int, rows: list[tuple[int, int]], values: dict[Key, torch.Tensor | None]
    ) -> list[Effect]:
        """Run one pass: a copy of a prompt in each row, with one change."""
        n, seq = len(group.pairs), self._options.seq
        copied = torch.tensor([pair + seq * n for pair, _ in rows])
        edits: dict[Key, Edit] = {}
        at: dict[tuple[Key, bool], list[tuple[int, int, Change]]] = {}
        for row, (pair, c) in enumerate(rows):
            change = self._changes[c]
            at.setdefault((change.key, change.intervention.head is None), []).append((row, pair, change))
        for (key, _), changed in at.items():
            if key not in values:
                values[key] = self._values(group, key)
            edit = _row_edit(changed, values[key], group.ends)
            edits[key] = chain_edits([edits[key], edit]) if key in edits else edit
        last = self._restart.run(group.passed, copied, layer, edits)
        device = last.device
        ends = group.ends[copied].to(device)
        logits = self._logits(last[torch.arange(len(rows), device=device), ends])
        pairs = torch.tensor([pair for pair, _ in rows])
        clean = None if group.clean_log_probs is None else group.clean_log_probs[pairs.to(logits.device)]
        scores = metric(self._metric, logits, group.targets[pairs], clean)
        return [self._effect(group, pair, c, float(score)) for (pair, c), score in zip(rows, scores, strict=True)]

    def _effect(self, group: _Group, pair: int, change: int, value: float) -> Effect:
        clean, corrupted = (float(x) for x in group.scores[:, pair])
        baseline = float(group.scores[self._options.seq, pair])
        apart = clean - corrupted
        effect = value - baseline
        normalised = effect / apart if abs(apart) >= LEAST_DIFFERENCE[self._metric] else None
        example = group.pairs[pair].example_id
        return Effect(change, example, self._options.seq, self._metric, baseline, value, effect, normalised)

    def _values(self, group: _Group, key: Key) -> torch.Tensor | None:
        """Return what is put in at a site, for each pair: (n, T, *row_shape); None for zero."""
        n, kind = len(group.pairs), self._options.kind
        if kind == "zero":
            return None
        if self._options.from_pair:
            return group.passed.values[key][n:] if self._options.seq == CLEAN else group.passed.values[key][:n]
        if kind == "mean":
            assert self._means is not None
            return _padded([self._mean(group, key, i) for i in range(n)])
        assert self._stored is not None
        return _padded(
            [torch.from_numpy(self._stored(key, pair.example_id, self._options.seq)) for pair in group.pairs]
        )

    def _mean(self, group: _Group, key: Key, pair: int) -> torch.Tensor:
        assert self._means is not None
        if not self._own_means:
            return self._means.mean(key)[: len(group.pairs[pair])]
        own = group.passed.values[key][pair + self._options.seq * len(group.pairs)]
        return self._means.mean_without(key, own[: len(group.pairs[pair])])


def _padded(values: list[torch.Tensor]) -> torch.Tensor:
    """Return (n, T, *row_shape) from n tensors (T', *row_shape)."""
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)


def _row_edit(at: Sequence[tuple[int, int, Change]], values: torch.Tensor | None, ends: torch.Tensor) -> Edit:
    """Make the edit that changes some rows of a batch at one site, each at its own head and position.

    Args:
        at: (row of the batch, pair, change) of each.
        values: (n, T, *row_shape) what is put in, by pair; None: zero.
        ends: (2n,) the last position of each prompt.

    Returns:
        The edit.
    """
    rows = torch.tensor([r for r, _, _ in at])
    pairs = torch.tensor([pair for _, pair, _ in at])
    heads = _indices(change.intervention.head for _, _, change in at)
    positions = _indices(int(ends[pair]) if change.pos == -1 else change.pos for _, pair, change in at)

    def edit(x: torch.Tensor) -> torch.Tensor:
        new, device = x.clone(), x.device
        index: tuple[Any, ...] = (rows.to(device), slice(None) if positions is None else positions.to(device))
        source: tuple[Any, ...] = (pairs.to(device), index[1])
        if heads is not None:
            index, source = (*index, heads.to(device)), (*source, heads.to(device))
        if values is None:
            new[index] = 0
        else:
            part = values.to(device, x.dtype)
            width = x.shape[1] - part.shape[1]
            if width:  # values of a run, without the padding of this batch
                part = torch.nn.functional.pad(part, (*[0, 0] * (part.ndim - 2), 0, width))
            new[index] = part[source]
        return new

    return edit


def _indices(values: Any) -> torch.Tensor | None:
    """Return indices as a tensor; None where there are none."""
    listed = list(values)
    return None if listed[0] is None else torch.tensor(listed)


def check_reference_length(means: PositionMeans, pairs: Sequence[PromptPair], own: bool) -> list[PromptPair]:
    """Return the pairs for whose every position there is another prompt, or a reference, to take a mean of."""
    least = 2 if own else 1
    return [p for p in pairs if len(p) <= len(means.counts) and int(means.counts[len(p) - 1]) >= least]


def by_name(effects: Sequence[Effect], source_run_id: str) -> Mapping[str, list[Any]]:
    """Return effects as columns of the table `effects`."""
    return {
        "source_run_id": [source_run_id] * len(effects),
        **{name: [getattr(e, name) for e in effects] for name in Effect.__dataclass_fields__},
    }
