"""Rows of the tables `trait_projections` and `trait_dynamics` from arrays.

`project` hands over numbers by direction and token, or by direction and sequence; here they become whole columns in the order of the
tables' keys, with repeated values as codes into a dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from capture.traits import dynamics
from capture.traits.directions import Direction
from warehouse.storage.parquet import coded_table
from warehouse.storage.stored_tensors import Slice

_EMBEDDING = -1
"""Stands for layer NULL in an array of layers."""


class ProjectionRows:
    """Makes tables from arrays: whole columns, with repeated values as codes into a dictionary."""

    def __init__(self, source: str, directions: Sequence[Direction], sequences: Sequence[Slice]) -> None:
        self._source, self._directions = source, directions
        self._examples = pa.array([s.example_id for s in sequences])
        self._seqs = np.array([s.seq for s in sequences], np.int32)

    def projections(
        self,
        sequence: np.ndarray,
        pos: np.ndarray,
        projection: np.ndarray,
        norm: np.ndarray,
        velocity: np.ndarray,
        acceleration: np.ndarray,
        nth: np.ndarray,
    ) -> pa.Table:
        """Make the rows of `trait_projections`: n·K of them, all directions of a token together.

        Args:
            sequence: (n,): the place of each token's sequence.
            pos: (n,): each token's position in it.
            projection: (K, n).
            norm: (K, n): the states' lengths.
            velocity: (K, n).
            acceleration: (K, n).
            nth: (n,): each token's number among those that dynamics cover, `NO_TOKEN` for the others.

        Returns:
            The table.
        """
        k = len(self._directions)
        number = np.repeat(nth, k)
        return coded_table(
            "trait_projections",
            self._key_columns(sequence)
            | {
                "pos": np.repeat(pos.astype(np.int32), k),
                "projection": projection.T.ravel(),
                "token_norm": norm.T.ravel(),
                "velocity": pa.array(velocity.T.ravel(), mask=number < 1),
                "acceleration": pa.array(acceleration.T.ravel(), mask=number < 2),
            },
        )

    def dynamics(
        self,
        sequence: np.ndarray,
        counts: np.ndarray,
        first: np.ndarray,
        summary: dynamics.Dynamics,
        cosine: np.ndarray,
    ) -> pa.Table:
        """Make the rows of `trait_dynamics`, one a sequence and direction.

        Args:
            sequence: (S,): the places of the sequences.
            counts: (S,): how many of their tokens are covered.
            first: (S,): the position of the first of these.
            summary: How the projections move, (K, S) each.
            cosine: (K, S): mean cosines.

        Returns:
            The table.
        """
        k = len(self._directions)
        n = np.repeat(counts.astype(np.int32), k)

        def token(numbers: np.ndarray) -> pa.Array:
            flat = numbers.T.ravel().astype(np.int32)
            return pa.array(flat, mask=flat == dynamics.NO_TOKEN)

        return coded_table(
            "trait_dynamics",
            self._key_columns(sequence)
            | {
                "n_tokens": n,
                "first_pos": np.repeat(first.astype(np.int32), k),
                "mean_projection": summary.mean.T.ravel().astype(np.float32),
                "mean_cosine": cosine.T.ravel().astype(np.float32),
                "spread": summary.spread.T.ravel().astype(np.float32),
                "peak_velocity": pa.array(summary.peak_velocity.T.ravel(), mask=n < 2),
                "commitment_point": token(summary.commitment),
                "commitment_point_relative": token(summary.commitment_relative),
                "peak_point": token(summary.peak),
                "persistence": token(summary.persistence),
            },
        )

    def _key_columns(self, sequence: np.ndarray) -> dict[str, Any]:
        """Return the columns that name sequence and direction: all directions for each entry of `sequence`."""
        k, n = len(self._directions), len(sequence)
        layers = np.array([_EMBEDDING if d.layer is None else d.layer for d in self._directions], np.int32)
        columns = {
            "source_run_id": _dictionary_array(np.zeros(n * k, np.int32), [self._source]),
            "example_id": pa.DictionaryArray.from_arrays(np.repeat(sequence.astype(np.int32), k), self._examples),
            "seq": np.repeat(self._seqs[sequence], k),
            "layer": pa.array(np.tile(layers, n), mask=np.tile(layers == _EMBEDDING, n)),
        }
        for name in ("trait", "method", "component", "vectors_run_id"):
            values = [getattr(d, name) for d in self._directions]
            known = sorted(set(values))
            codes = np.array([known.index(v) for v in values], np.int32)
            columns[name] = _dictionary_array(np.tile(codes, n), known)
        return columns


def _dictionary_array(codes: np.ndarray, values: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(values))
