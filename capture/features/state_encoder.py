"""Stored states of some sequences → the features that are active at each token, and how much of the state they give back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capture.features.dictionary import Dictionary
from capture.features.fit import Fitted
from capture.model.stored_values import as_tensor
from warehouse.schema.sites import Key, tensor_name
from warehouse.storage.grouping import group_by_size
from warehouse.storage.stored_tensors import Slice
from warehouse.storage.trace_store import TraceStore

_MEAN_TOKENS = 1 << 13
"""Tokens that are summed at once for the mean state."""


class ActiveFeatures(NamedTuple):
    """What of a dictionary is active at n tokens, token by token, with the lowest feature first."""

    counts: np.ndarray
    """(n,): the number of active features."""
    features: np.ndarray
    """(m,) int32, m of them in all."""
    activations: np.ndarray
    """(m,) float32."""
    squared_error: np.ndarray
    """(n,) float32: the squared distance of each state from what is given back."""


@dataclass(frozen=True)
class EncodedTokens:
    """Sequences whose states are encoded, n tokens in all."""

    sequences: Sequence[Slice]
    active: Sequence[ActiveFeatures]
    """By dictionary."""
    squared_norm: Sequence[np.ndarray]
    """By dictionary, (n,) float32: of the states that are to be given back."""
    squared_deviation: Sequence[np.ndarray]
    """By dictionary, (n,) float32: of these states from their mean."""

    def __len__(self) -> int:
        """Return the number of tokens."""
        return sum(s.n_rows for s in self.sequences)

    @property
    def n_active(self) -> int:
        """Active features of all dictionaries."""
        return sum(len(a.features) for a in self.active)


class StateEncoder:
    """Reads the states of sequences, and encodes them with dictionaries."""

    def __init__(
        self, store: TraceStore, fitted: Sequence[Fitted], sequences: Sequence[Slice], device: torch.device
    ) -> None:
        """Prepare for a run.

        Args:
            store: The run.
            fitted: Dictionaries, and the tensors that they are applied to.
            sequences: All sequences of the run: their mean state is what deviations are measured from.
            device: Where to compute.
        """
        self._store, self._device = store, device
        self._fitted = [Fitted(f.dictionary.to(device), f.read, f.given_back) for f in fitted]
        places = {(f.given_back, f.dictionary.head): f for f in fitted}
        self._means = {place: self._mean(*place, sequences) for place in places}

    @torch.no_grad()
    def __call__(self, sequences: Sequence[Slice]) -> EncodedTokens:
        """Encode the states of some sequences."""
        states = {key: self.states(key, sequences) for key in {k for f in self._fitted for k in (f.read, f.given_back)}}
        active, norms, deviations = [], [], []
        for f in self._fitted:
            d = f.dictionary
            x, target = (_of_head(states[key], d.head) for key in (f.read, f.given_back))
            active.append(encode(d, x, target))
            flat = target.flatten(1)
            norms.append(_squares(flat))
            deviations.append(_squares(flat - self._means[f.given_back, d.head]))
        return EncodedTokens(sequences, active, norms, deviations)

    def states(self, key: Key, sequences: Sequence[Slice]) -> Tensor:
        """Return the states of sequences, end to end, (n, *row_shape), float32."""
        name = tensor_name(*key)
        rows = [self._store.blob(s.blob).rows(name, s.start, s.end) for s in sequences]
        return as_tensor(np.concatenate(rows)).to(self._device).float()

    def _mean(self, key: Key, head: int | None, sequences: Sequence[Slice]) -> Tensor:
        """Return the mean state of all tokens that are neither the first of their sequence nor special, (D,); 0 where there are none."""
        marked = self._store.query(
            "SELECT example_id, seq, list(pos) FROM tokens WHERE side = ? AND is_special GROUP BY ALL", [key.side]
        )
        special = {(example_id, seq): places for example_id, seq, places in marked.fetchall()}
        total, count = torch.zeros((), dtype=torch.float64, device=self._device), 0
        for piece in group_by_size(sequences, lambda s: s.n_rows, _MEAN_TOKENS):
            kept = [np.ones(s.n_rows, bool) for s in piece]
            for mask, s in zip(kept, piece, strict=True):
                mask[[0, *special.get((s.example_id, s.seq), [])]] = False
            mask = np.concatenate(kept)
            x = self.states(key, piece)
            x = _of_head(x, head).flatten(1)
            total = total + (torch.from_numpy(mask).to(x) @ x).double()
            count += int(mask.sum())
        self._store.release_pages()
        return (total / max(1, count)).float()


def _of_head(x: Tensor, head: int | None) -> Tensor:
    return x if head is None else x[:, head]


def encode(dictionary: Dictionary, x: Tensor, target: Tensor) -> ActiveFeatures:
    """Encode states, and decode what is active.

    Args:
        dictionary: The dictionary.
        x: The states that it reads, (n, …).
        target: The states that it is to give back: of an autoencoder `x`.

    Returns:
        What is active, and how far what is given back is from `target`.
    """
    active = dictionary.active(x)
    given_back = dictionary.decode_active(active, x).flatten(1).float()
    return ActiveFeatures(
        active.counts.to(torch.int32).cpu().numpy(),
        active.features.to(torch.int32).cpu().numpy(),
        active.activations.float().cpu().numpy(),
        _squares(given_back.sub_(target.flatten(1))),
    )


def _squares(x: Tensor) -> np.ndarray:
    """Return the squared length of each row, (n,)."""
    squares: np.ndarray = torch.linalg.vector_norm(x, dim=1).square_().cpu().numpy()
    return squares
