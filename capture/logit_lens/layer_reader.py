"""Read a model's predictions off stored states, layer by layer: the lens itself.

Stored states go through the model's own final norm and unembedding. The final distribution of a slice comes first and stays in
memory, as every other layer is compared with it; logits exist for one slice and one layer at a time. `lens_run` hands slices of
positions in, `rows` takes the readings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from capture.logit_lens.options import SIDE, state_key
from capture.logit_lens.positions import SequencePositions
from capture.model.body import vocabulary_size
from capture.model.examine import examine
from capture.model.final_norm import FinalNorm
from capture.model.lm_head import LMHead
from capture.model.loading import Loaded
from capture.recording.diagnostics import Reading, divergence, read
from warehouse.errors import CorruptRunError, TracesError
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore

_SLICE_BYTES = 64 << 20
"""Float32 logits that exist at a time; the final probabilities take as much again."""
_PIECE_BYTES = 6 << 20
"""Logits that are read together: with final probabilities and scratch of the same size, they stay in the processor's cache."""


class LensReadings(NamedTuple):
    """What a lens reads at n positions: (layers, n) each, and (layers, n, k) for the top k; columns of `logit_lens`."""

    topk_ids: np.ndarray
    topk_probs: np.ndarray
    prob: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray


def slice_rows(vocabulary: int) -> int:
    """Return the largest number of positions that are read together."""
    return max(1, _SLICE_BYTES // (vocabulary * 4))


class LayerReader:
    """Reads slices of positions in all layers.

    It keeps the buffers beside the logits from slice to slice, as allocating that much memory each time takes long.
    """

    def __init__(self, loaded: Loaded, store: TraceStore, layers: list[int | None], k: int) -> None:
        """Prepare norm and head; raises UsageError where the model's way from states to logits is not known."""
        anatomy = examine(loaded.model)
        self._head, self._norm = LMHead(anatomy.body), FinalNorm(anatomy)
        self._store, self._layers = store, layers
        self._dtype, self._device = loaded.model.dtype, loaded.model.device
        self._last = store.meta.model.stack(SIDE).n_layers - 1
        self._rows, self.vocabulary = vocabulary_size(loaded.model), self._head.vocabulary
        self._k = min(k, self.vocabulary)
        self._piece = max(1, min(slice_rows(self.vocabulary), _PIECE_BYTES // (self.vocabulary * 4)))
        self._final = torch.empty(0)
        self._scratch = torch.empty(0)

    def __call__(self, pieces: list[SequencePositions]) -> LensReadings:
        """Read a slice in all layers.

        Args:
            pieces: Its positions, n in all.

        Returns:
            The readings.

        Raises:
            CorruptRunError: The run's tokens or rows do not fit the model.
            TracesError: What the head makes of a layer is NaN.
        """
        ids = np.concatenate([p.next_ids for p in pieces])
        if ids.max() >= self._rows or ids.min() < -1:
            raise CorruptRunError(
                f"Run '{self._store.meta.run_id}': its tokens have the id {ids.max()}, and the model {self._rows:,} "
                "rows in its embedding. Validate it: traces runs validate "
                f"{self._store.meta.run_id}"
            )
        self._head.check_targets(ids)
        next_ids = torch.from_numpy(ids).clamp(min=0)
        with torch.no_grad():
            final, _ = self._check_finite(self._last, self._read(self._final_state(pieces), next_ids, None))
            readings = [
                (final, torch.zeros_like(final.entropy))
                if layer == self._last
                else self._check_finite(
                    layer, self._read(self._norm(self._states(state_key(layer), pieces)), next_ids, final.entropy)
                )
                for layer in self._layers
            ]
        columns = (
            [r.topk_ids for r, _ in readings],
            [r.topk_probs for r, _ in readings],
            [r.true_prob for r, _ in readings],
            [r.true_rank for r, _ in readings],
            [r.entropy for r, _ in readings],
            [kl for _, kl in readings],
        )
        return LensReadings(*(torch.stack(c).cpu().numpy() for c in columns))

    def _check_finite(self, layer: int | None, reading: tuple[Reading, torch.Tensor]) -> tuple[Reading, torch.Tensor]:
        """Return a layer's reading; raises TracesError where it is NaN."""
        if bool(reading[0].log_sum.isnan().any()):
            dtype = str(self._dtype).removeprefix("torch.")
            where = "the embedding" if layer is None else f"layer {layer}"
            remedy = (
                "it is the last layer, which all others are compared with."
                if layer == self._last
                else "leave that layer out of --layers."
            )
            raise TracesError(
                f"Run '{self._store.meta.run_id}': what the model's head makes of {where} is NaN or infinity in {dtype}; {remedy}"
            )
        return reading

    def _final_state(self, pieces: list[SequencePositions]) -> torch.Tensor:
        """Return the states after the final norm, (n, D): as stored, or computed from the last block's output."""
        key = Key(SIDE, "hidden", self._last + 1)
        if self._store.has(key):
            return self._states(key, pieces)
        return self._norm(self._states(state_key(self._last), pieces))

    def _states(self, key: Key, pieces: list[SequencePositions]) -> torch.Tensor:
        """Return stored states as (n, *row_shape) in the model's dtype, on its device."""
        rows = []
        for p in pieces:
            stored = self._store.rows(key, p.example_id, p.seq)
            if p.positions.max() >= len(stored):
                run = self._store.meta.run_id
                raise CorruptRunError(
                    f"Run '{run}': {p.example_id} has {len(stored)} rows of {key.site}, and a token at {p.positions.max()}. "
                    f"Validate it: traces runs validate {run}"
                )
            rows.append(stored[p.positions])
        return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(self._device, self._dtype)

    def _read(
        self, states: torch.Tensor, next_ids: torch.Tensor, final_entropy: torch.Tensor | None
    ) -> tuple[Reading, torch.Tensor]:
        """Read the logits of n states.

        Args:
            states: (n, D), after the norm.
            next_ids: (n,), the tokens that come next, 0 where there is none.
            final_entropy: (n,) in nats; None: `states` are the final ones, and their distribution is kept for the next calls.

        Returns:
            The reading, and KL(final ‖ this) in nats, (n,).
        """
        logits = self._head(states).float()  # the head needs them no more: they are overwritten
        self._make_room(logits)
        next_ids = next_ids.to(logits.device)
        readings: list[Reading] = []
        divergences: list[torch.Tensor] = []
        for start in range(0, len(logits), self._piece):
            at = slice(start, start + self._piece)
            final, scratch = self._final[at][: len(logits[at])], self._scratch[: len(logits[at])]
            reading = read(logits[at], next_ids[at], self._k, final if final_entropy is None else scratch, scratch)
            readings.append(reading)
            if final_entropy is not None:
                divergences.append(divergence(final, final_entropy[at], logits[at], reading.log_sum, scratch))
        reading = Reading(*(torch.cat(c) for c in zip(*readings, strict=True)))
        return reading, torch.cat(divergences) if divergences else reading.entropy

    def _make_room(self, logits: torch.Tensor) -> None:
        if self._final.device != logits.device or len(self._final) < len(logits):
            self._final = torch.empty_like(logits)
            self._scratch = torch.empty((self._piece, logits.shape[1]), device=logits.device)
