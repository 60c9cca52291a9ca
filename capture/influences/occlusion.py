"""Occlusion: what a prediction loses without a source token. The causal check of what the stored states say; it runs the model.

A token is occluded by putting the mean of all embeddings of the vocabulary in the place of its own; position encodings that are added
later stay. The mean of the prompt's own embeddings would not do: with it, nearly every token of a SmolLM2 prompt seemed to be what the
prediction hung on (rank correlation with the exact parts of the logit -.02 over 24 prompts of two names; with the vocabulary's, .52).
Every token of a sequence is occluded in a row of a batch of its own, beside a row where nothing is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from capture.influences.options import SIDE
from capture.influences.targets import Tokens
from capture.interventions.site_edits import edit_sites
from capture.model.anatomy import Anatomy
from capture.model.body import vocabulary_size
from capture.model.logit_direction import LogitReader
from warehouse.schema.sites import Key

_BATCH_TOKENS = 2048
"""Tokens of a batch, unless two rows have more."""


class Occluder:
    """Occludes tokens of sequences, one sequence after the other."""

    def __init__(self, anatomy: Anatomy, reader: LogitReader) -> None:
        """Compute the mean embedding; `reader` reads the model's logits."""
        self._anatomy, self._reader = anatomy, reader
        self._embedding = anatomy.body.model.get_input_embeddings()
        ids = torch.arange(vocabulary_size(anatomy.body.model), device=anatomy.body.model.device)
        with torch.no_grad():
            total = sum(self._embedding(some).double().sum(0) for some in ids.split(_BATCH_TOKENS))
        self._mean: torch.Tensor = total / len(ids)

    def occlude(self, ids: np.ndarray, positions: list[int], tokens: list[Tokens]) -> list[np.ndarray]:
        """Occlude each token of a sequence, and read what it changes in some predictions.

        Args:
            ids: (T,), the sequence's tokens.
            positions: Where the predictions are made.
            tokens: The tokens of each.

        Returns:
            For each prediction, at position p: (p + 1,), its logit (difference) as it is less that with a token occluded.
        """
        n = max(positions) + 1
        step = max(1, _BATCH_TOKENS // len(ids) - 1)
        changes = [np.empty(n) for _ in positions]
        for start in range(0, n, step):
            some = torch.arange(start, min(start + step, n))
            rows = self._final_rows(ids, some, positions)
            for change, states, wanted in zip(changes, rows, tokens, strict=True):
                values = self._reader.values(states, *wanted)
                change[some.numpy()] = values[-1] - values[:-1]
        return [change[: pos + 1] for change, pos in zip(changes, positions, strict=True)]

    def _final_rows(self, ids: np.ndarray, occluded: torch.Tensor, positions: list[int]) -> list[torch.Tensor]:
        """Return the final residual stream at each position, (R + 1, D): a row for each occluded token, and one where none is."""
        final: list[torch.Tensor] = []

        def occlude_each(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            changed = output.clone()
            changed[torch.arange(len(occluded)), occluded] = self._mean.to(output)
            return changed

        def keep(x: torch.Tensor) -> torch.Tensor:
            final[:] = [x[:, pos].clone() for pos in positions]
            return x

        batch = torch.from_numpy(ids.astype(np.int64)).expand(len(occluded) + 1, -1)
        hook = self._embedding.register_forward_hook(occlude_each)
        try:
            last = Key(SIDE, "resid.post_mlp", len(self._anatomy.main.layers) - 1)
            with torch.no_grad(), edit_sites(self._anatomy, {last: keep}):
                self._anatomy.body({SIDE: (batch, torch.ones_like(batch))})
        finally:
            hook.remove()
        return final
