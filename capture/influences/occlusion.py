"""Occlusion: what a prediction loses without a source token. The causal check of what the stored states say; it runs the model.

A token is occluded by putting the mean of its sequence's embeddings in the place of its own, position encodings added at the embedding
with it. Every token of a sequence is occluded in a row of a batch of its own, beside a row where nothing is.
"""

from __future__ import annotations

import numpy as np
import torch

from capture.influences.options import SIDE
from capture.influences.targets import Tokens
from capture.interventions.site_edits import edit_sites
from capture.model.anatomy import Anatomy
from capture.model.logit_direction import LogitReader
from warehouse.schema.sites import Key

_BATCH_TOKENS = 2048
"""Tokens of a batch, unless two rows have more."""


def occlude(
    anatomy: Anatomy, reader: LogitReader, ids: np.ndarray, positions: list[int], tokens: list[Tokens]
) -> list[np.ndarray]:
    """Occlude each token of a sequence, and read what it changes in some predictions.

    Args:
        anatomy: The model's.
        reader: Reads its logits.
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
        rows = _final_rows(anatomy, ids, some, positions)
        for change, states, wanted in zip(changes, rows, tokens, strict=True):
            values = reader.values(states, *wanted)
            change[some] = values[-1] - values[:-1]
    return [change[: pos + 1] for change, pos in zip(changes, positions, strict=True)]


def _final_rows(anatomy: Anatomy, ids: np.ndarray, occluded: torch.Tensor, positions: list[int]) -> list[torch.Tensor]:
    """Return the final residual stream at each position, (R + 1, D): a row for each occluded token, and one where none is."""
    count = len(occluded) + 1
    final: list[torch.Tensor] = []

    def occlude_one(x: torch.Tensor) -> torch.Tensor:
        changed = x.clone()
        changed[torch.arange(count - 1), occluded] = x[:-1].mean(1)
        return changed

    def keep(x: torch.Tensor) -> torch.Tensor:
        final[:] = [x[:, pos].clone() for pos in positions]
        return x

    edits = {
        Key(SIDE, "resid.embed", None): occlude_one,
        Key(SIDE, "resid.post_mlp", len(anatomy.main.layers) - 1): keep,
    }
    batch = torch.from_numpy(ids.astype(np.int64)).expand(count, -1)
    with torch.no_grad(), edit_sites(anatomy, edits):
        anatomy.body({SIDE: (batch, torch.ones_like(batch))})
    return final
