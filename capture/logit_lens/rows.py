"""Rows of the table `logit_lens` from what a lens has read.

The writer's thread makes them, while the model reads the next slice (`deferred_tables`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from capture.logit_lens.layer_reader import LensReadings
from capture.logit_lens.positions import SequencePositions
from capture.sequences.decoding import decode_tokens
from warehouse.storage.parquet import to_table


class LensRows:
    """Makes rows of the table `logit_lens` for one run."""

    def __init__(self, source: str, tokenizer: Any, layers: list[int | None], vocabulary: int) -> None:
        self._source, self._tokenizer, self._layers = source, tokenizer, layers
        self._texts = np.full(vocabulary, None, object)
        """Text of each token by its id; each is decoded by itself, once."""

    def deferred_tables(
        self, pieces: list[SequencePositions], readings: LensReadings
    ) -> Callable[[], dict[str, pa.Table]]:
        """Return a function that makes the rows, for the writer's thread to call."""
        return lambda: {"logit_lens": self._table(pieces, readings)}

    def _table(self, pieces: list[SequencePositions], readings: LensReadings) -> pa.Table:
        """Make the rows layer by layer, and in each layer position by position."""
        n_layers, n, k = readings.topk_ids.shape
        lengths = [len(p.positions) for p in pieces]
        next_ids = np.tile(np.concatenate([p.next_ids for p in pieces]), n_layers).astype(np.int32)
        last = next_ids < 0
        offsets = pa.array(np.arange(0, (n_layers * n + 1) * k, k, dtype=np.int32))
        layers = pa.array(self._layers, pa.int32())

        def lists(values: pa.Array) -> pa.ListArray:
            return pa.ListArray.from_arrays(offsets, values)

        def where_next(values: np.ndarray) -> pa.Array:
            return pa.array(values.reshape(-1), mask=last)

        return to_table(
            "logit_lens",
            {
                "source_run_id": pa.repeat(pa.scalar(self._source), n_layers * n),
                "example_id": np.tile(np.repeat([p.example_id for p in pieces], lengths), n_layers).tolist(),
                "seq": pa.array(np.tile(np.repeat([p.seq for p in pieces], lengths), n_layers).astype(np.int32)),
                "pos": pa.array(np.tile(np.concatenate([p.positions for p in pieces]), n_layers).astype(np.int32)),
                "layer": layers.take(pa.array(np.repeat(np.arange(n_layers), n))),
                "topk_ids": lists(pa.array(readings.topk_ids.reshape(-1))),
                "topk_tokens": lists(self._decoded(readings.topk_ids.reshape(-1))),
                "topk_probs": lists(pa.array(readings.topk_probs.reshape(-1))),
                "actual_id": where_next(next_ids),
                "actual_token": self._decoded(next_ids, last),
                "actual_rank": where_next(readings.rank),
                "actual_prob": where_next(readings.prob),
                "entropy": pa.array(readings.entropy.reshape(-1)),
                "kl_to_final": pa.array(readings.kl.reshape(-1)),
            },
        )

    def _decoded(self, ids: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
        """Return the texts of ids, NULL where they are missing."""
        present = ids if missing is None else ids[~missing]
        texts = self._texts[present]
        if new := sorted({int(i) for i in present[texts == None]}):  # noqa: E711  elementwise
            self._texts[new] = decode_tokens(self._tokenizer, new)
            texts = self._texts[present]
        if missing is not None:
            texts, known = np.full(len(ids), None, object), texts
            texts[~missing] = known
        return pa.array(texts, pa.string())
