"""Running sums of scores over pairs: means, intervals and how often each is among the first, by bootstrap, in memory that does not grow.

A resample gives every unit, a pair or a template, a Poisson(1) weight, which is known from the seed and the unit's name alone (Chamandy et
al. 2012): so pairs may come in any order and in any process. Knows nothing of models, files or tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from safetensors.numpy import load_file, save_file

_COLUMNS = 1 << 14
"""Scores whose resamples are sorted at a time."""
_LEAST_UNITS = 2
"""Units without which there is no interval."""


class Weights:
    """The weights of units in R resamples."""

    def __init__(self, n_resamples: int, seed: int) -> None:
        self.n_resamples, self._seed = n_resamples, seed
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, units: Sequence[str]) -> np.ndarray:
        """Return the weights of B units, (R, B) float32."""
        return np.stack([self._of(unit) for unit in units], axis=1)

    def _of(self, unit: str) -> np.ndarray:
        if unit not in self._known:
            drawn = counter_generator(self._seed, f"weights\x1f{unit}").poisson(1.0, self.n_resamples)
            self._known[unit] = drawn.astype(np.float32)
        return self._known[unit]


def counter_generator(seed: int, name: str) -> np.random.Generator:
    """Return the generator of a seed and a name: it depends on nothing else."""
    return np.random.Generator(np.random.Philox(key=[seed, xxhash.xxh3_64_intdigest(name.encode())]))


@dataclass(frozen=True)
class Summary:
    """What is known of K scores."""

    score: np.ndarray
    """(K,) means over pairs."""
    rank: np.ndarray
    """(K,) 1 for the largest by size."""
    low: np.ndarray | None
    """(K,) the 2.5 and 97.5 percentiles of the resamples' means; None: there are none."""
    high: np.ndarray | None
    frequency: np.ndarray | None
    """(K,) share of the resamples in which each is among the first `n_first` by size."""
    n_first: int


class Tally:
    """Sums of K scores over pairs."""

    def __init__(self, size: int, n_resamples: int) -> None:
        self._total = np.zeros(size)
        self._sums = np.zeros((n_resamples, size), dtype=np.float32)

    def add(self, scores: np.ndarray, weights: np.ndarray) -> None:
        """Take in the scores (B, K) of pairs with weights (R, B)."""
        self._total += scores.sum(0, dtype=np.float64)
        self._sums += weights @ np.asarray(scores, dtype=np.float32)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the sums, to go on from."""
        return {f"{name} total": self._total, f"{name} sums": self._sums}

    def load(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from sums that `arrays` gave."""
        self._total, self._sums = arrays[f"{name} total"], arrays[f"{name} sums"]

    def summary(self, n: int, weights: np.ndarray, n_units: int, share: float) -> Summary:
        """Return what is known.

        Args:
            n: The pairs.
            weights: (R,) the sum of their weights in each resample.
            n_units: The units that they are of.
            share: Of all scores, how many count as the first.

        Returns:
            The means, ranks, intervals and frequencies.
        """
        score = self._total / n
        first = max(1, round(share * len(score)))
        drawn = weights > 0
        if n_units < _LEAST_UNITS or not drawn.any():
            return Summary(score, _ranks(score), None, None, None, first)
        means = self._sums[drawn] / weights[drawn, None]
        counts = np.zeros(len(score))
        for mean in means:
            counts[_order(mean)[:first]] += 1
        parts = [np.percentile(means[:, i : i + _COLUMNS], (2.5, 97.5), axis=0) for i in range(0, len(score), _COLUMNS)]
        low, high = np.concatenate(parts, axis=1)
        return Summary(score, _ranks(score), low, high, counts / len(means), first)


class RunningSums:
    """The tallies of several methods, and whatever else is summed over pairs."""

    def __init__(self, n_nodes: int, n_edges: Mapping[str, int | None], n_resamples: int) -> None:
        """Start at 0.

        Args:
            n_nodes: How many nodes have scores.
            n_edges: By method, how many edges; None: it scores nodes alone.
            n_resamples: The resamples.
        """
        self.nodes = {method: Tally(n_nodes, n_resamples) for method in n_edges}
        self.edges = {method: Tally(n, n_resamples) for method, n in n_edges.items() if n is not None}
        self.numbers: dict[str, np.ndarray] = {}

    def add(self, name: str, value: np.ndarray | float) -> None:
        """Add to a number, or an array of them."""
        self.numbers[name] = np.asarray(self.numbers.get(name, 0.0) + np.asarray(value, dtype=np.float64))

    def save(self, path: Path) -> None:
        """Write all sums to a file."""
        arrays = {f"number {name}": value for name, value in self.numbers.items()}
        for name, tally in self._tallies():
            arrays |= tally.arrays(name)
        save_file(arrays, path)

    def load(self, path: Path) -> None:
        """Go on from a file that `save` wrote."""
        arrays = load_file(path)
        self.numbers = {n.removeprefix("number "): x for n, x in arrays.items() if n.startswith("number ")}
        for name, tally in self._tallies():
            tally.load(name, arrays)

    def _tallies(self) -> Iterator[tuple[str, Tally]]:
        for level, tallies in (("nodes", self.nodes), ("edges", self.edges)):
            for method, tally in tallies.items():
                yield f"{method} {level}", tally


def _order(scores: np.ndarray) -> np.ndarray:
    """Return the places of scores, the largest by size first, of equal ones the earlier."""
    return np.argsort(-np.abs(scores), kind="stable")


def _ranks(scores: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[_order(scores)] = np.arange(1, len(scores) + 1)
    return ranks
