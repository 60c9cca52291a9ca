"""A model's way from a run's stored states to its logits: its own final norm where that is not stored, and its own head.

Its blocks are not run. `predictions` hands slices of shared tokens in and compares what two of these return.
"""

from __future__ import annotations

import numpy as np
import torch

from capture.comparisons.run_pair import SIDE, last_state_key
from capture.model.anatomy import Anatomy
from capture.model.body import Body, vocabulary_size
from capture.model.examine import examine
from capture.model.final_norm import FinalNorm
from capture.model.hashes import has_weights
from capture.model.lm_head import LMHead
from capture.model.loading import Loaded
from warehouse.errors import CorruptRunError, TracesError, UsageError
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore


class Predictor:
    """Predicts next tokens from the states that one run has stored."""

    vocabulary: int
    """The number of tokens that the head has a logit for."""

    def __init__(self, loaded: Loaded, store: TraceStore, anatomy: Anatomy | None) -> None:
        """Find a model's norm and head.

        Args:
            loaded: The model, which is the run's.
            store: The run.
            anatomy: What `examine` found of the model, if it was called.

        Raises:
            UsageError: The model's way from states to logits is not known, or the states are not stored.
            TracesError: It predicts no tokens.
        """
        m = store.meta.model
        self._store, self._key = store, last_state_key(store)
        normed = self._key == store.key("hidden", m.stack(SIDE).n_layers, SIDE)
        if anatomy is None and not normed:
            anatomy = examine(loaded.model)
        body = Body(loaded.model) if anatomy is None else anatomy.body
        self._norm = None if normed or anatomy is None else FinalNorm(anatomy)
        self._head = LMHead(body)
        self._dtype, self._device = loaded.model.dtype, loaded.model.device
        self.vocabulary = self._head.vocabulary
        self.tokenizer, self.embeddings = loaded.tokenizer, vocabulary_size(loaded.model)

    @torch.no_grad()
    def logits(self, places: list[tuple[str, int, np.ndarray]]) -> torch.Tensor:
        """Compute the logits of what is predicted after tokens.

        Args:
            places: Examples, sequences and positions, n in all.

        Returns:
            (n, V) float32, valid until the next call, and free to be overwritten.
        """
        states = read_states(self._store, self._key, places)
        rows = torch.from_numpy(states).to(self._device, self._dtype)
        return self._head(rows if self._norm is None else self._norm(rows)).float()

    def check_finite(self, probabilities: torch.Tensor) -> None:
        """Check the probabilities of the likeliest tokens, which are NaN where a logit is NaN or infinity.

        Raises:
            TracesError: One is NaN.
        """
        if bool(probabilities.isnan().any()):
            raise TracesError(
                f"Run '{self._store.meta.run_id}': what the model's head makes of its last state is NaN or infinity in "
                f"{str(self._dtype).removeprefix('torch.')}."
            )


def check_model(loaded: Loaded, store: TraceStore, option: str) -> None:
    """Check that a model is the one that a run was captured with.

    Args:
        loaded: The model.
        store: The run.
        option: The option that names another place of the model.

    Raises:
        UsageError: It has other weights.
    """
    m = store.meta.model
    if not has_weights(loaded.model, m.weights_hash):
        raise UsageError(
            f"{loaded.name} has other weights than those that run '{store.meta.run_id}' was captured with ({m.name}, "
            f"{m.dtype}), so that it cannot read the run's states. If that model lies elsewhere now: {option} PLACE"
        )


def read_states(store: TraceStore, key: Key, places: list[tuple[str, int, np.ndarray]]) -> np.ndarray:
    """Read the stored states of tokens.

    Args:
        store: The run.
        key: The tensor.
        places: Examples, sequences and positions, n in all.

    Returns:
        (n, *row_shape) float32.

    Raises:
        CorruptRunError: A token has no row.
    """
    rows = []
    for example_id, seq, positions in places:
        stored = store.rows(key, example_id, seq)
        if positions.max() >= len(stored):
            run = store.meta.run_id
            raise CorruptRunError(
                f"Run '{run}': {example_id} has {len(stored)} rows of {key.site}, and a token at {positions.max()}. "
                f"Validate it: traces runs validate {run}"
            )
        rows.append(stored[positions].astype(np.float32))
    return np.concatenate(rows)
