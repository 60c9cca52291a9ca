"""How alike the states of two models are, layer by layer, and along which directions they moved: `layer_similarity`, `moved_directions`.

States come from a sample of the tokens that both runs share. Similarities are debiased linear CKA (`cka`), of all pairs of layers, and
orthogonal Procrustes (`procrustes`), of those that are asked for, since each takes a singular value decomposition. Directions are those
of the differences of the two models' states at the same tokens, in layers of the same number and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from capture.comparisons.cka import debiased_cka
from capture.comparisons.jackknife import interval
from capture.comparisons.options import Options, choose_layers, state_key
from capture.comparisons.predictor import read_states
from capture.comparisons.procrustes import procrustes
from capture.comparisons.run_pair import RunPair
from capture.comparisons.sample import Sample
from warehouse.schema.arrow import arrow_schema
from warehouse.storage.parquet import to_table
from warehouse.storage.trace_store import TraceStore


class LayerStates:
    """States of a sample of tokens in the layers of two models."""

    def __init__(self, pair: RunPair, sample: Sample, options: Options) -> None:
        """Read the states, in the dtype that they are stored in; raises UsageError as `choose_layers` does."""
        self._names, self._sample, self._options = pair.names, sample, options
        self.layers = tuple(choose_layers(store, options) for store in pair.stores)
        self._states = [
            [_states(store, sample, layer, side) for layer in layers]
            for side, (store, layers) in enumerate(zip(pair.stores, self.layers, strict=True))
        ]

    def similarity(self) -> pa.Table:
        """Return the rows of `layer_similarity`."""
        sample, options = self._sample, self._options
        a, b = self._states
        found = debiased_cka(a, b, sample.bounds)
        sizes = np.diff(sample.bounds)
        low, high = interval(found.full, found.left_out, sizes, correlation=True)
        shuffled = np.random.default_rng(options.seed).permutation(sample.tokens)
        rows: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers[0]):
            for j, other in enumerate(self.layers[1]):
                rotated: dict[str, Any] = dict.fromkeys(
                    ("procrustes", "procrustes_low", "procrustes_high", "procrustes_chance")
                )
                if options.pairs == "all" or (options.pairs == "same" and layer == other):
                    rotated |= self._rotated(a[i], b[j], shuffled)
                ends = (low[i, j], high[i, j]) if sample.by_example else (np.nan, np.nan)
                rows.append(
                    self._keys()
                    | {"layer": layer, "other_layer": other, "cka": found.full[i, j], "cka_low": ends[0], "cka_high": ends[1]}
                    | rotated
                    | {"n_tokens": sample.tokens, "n_examples": sample.examples}
                )  # fmt: skip
        return _table("layer_similarity", rows)

    def _rotated(self, x: np.ndarray, y: np.ndarray, shuffled: np.ndarray) -> dict[str, Any]:
        """Return the Procrustes similarity of two layers, as columns."""
        found = procrustes(x, y, self._sample.bounds, shuffled)
        if found is None:
            return {}
        low, high = interval(np.array(found.full), found.left_out, np.diff(self._sample.bounds), correlation=True)
        ends = {"procrustes_low": float(low), "procrustes_high": float(high)} if self._sample.by_example else {}
        return {"procrustes": found.full, "procrustes_chance": found.chance} | ends

    def directions(self) -> pa.Table:
        """Return the rows of `moved_directions`: none of layers of other widths, or that did not move at all."""
        rows: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers[0]):
            if layer not in self.layers[1]:
                continue
            x, y = self._states[0][i], self._states[1][self.layers[1].index(layer)]
            if x.shape == y.shape:
                rows += [
                    self._keys() | {"layer": layer, "n_tokens": self._sample.tokens} | direction
                    for direction in moved_directions(x, y, self._options.directions)
                ]
        return _table("moved_directions", rows)

    def _keys(self) -> dict[str, Any]:
        return {"source_run_id": self._names[0], "other_run_id": self._names[1]}


def moved_directions(x: np.ndarray, y: np.ndarray, k: int) -> list[dict[str, Any]]:
    """Find the orthogonal directions along which states moved most.

    They are the right singular vectors of the differences of the states, not centred, so that what all tokens move by is among them.

    Args:
        x: States of n tokens in the first model, (n, D).
        y: Of the same tokens in the other.
        k: How many directions.

    Returns:
        Columns of `moved_directions` a direction, the largest share first; none where the states are equal.
    """
    from scipy.linalg import eigh

    first = x.astype(np.float32)
    moved = y.astype(np.float32) - first
    gram = (moved.T @ moved).astype(np.float64)
    total = float(np.trace(gram))
    if not total > 0:
        return []
    n, width = moved.shape
    values, vectors = eigh(gram, subset_by_index=[max(0, width - k), width - 1])
    rows = []
    for rank in range(1, min(k, width) + 1):
        vector = vectors[:, -rank]
        along = moved @ vector
        if along.mean() < 0:  # a direction has no sign: it points where the tokens went
            vector, along = -vector, -along
        rows.append(
            {
                "rank": rank,
                "share": min(1.0, max(0.0, float(values[-rank]) / total)),
                "mean_shift": float(along.mean()),
                "sd_shift": float(along.std()),
                "rms_moved": float(np.sqrt(total / n)),
                "rms_state": float(np.sqrt(np.einsum("nd,nd->", first, first, dtype=np.float64) / n)),
                "vector": vector.astype(np.float32).tolist(),
            }
        )
    return rows


def _states(store: TraceStore, sample: Sample, layer: int | None, side: int) -> np.ndarray:
    """Return the states of a sample in one layer of the first model (side 0) or of the other, (n, D) as stored."""
    places = [(p.example_id, p.seq, p.positions if side == 0 else p.other_positions) for p in sample.pieces]
    return read_states(store, state_key(layer), places)


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows of a table; NaN becomes NULL."""
    names = arrow_schema(name).names
    return to_table(name, {column: [_known(row.get(column)) for row in rows] for column in names})


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value
