"""Interventions that hold for every pass of a model while a context is open: the user calls the model, or has it generate.

In go interventions and where runs lie; their values are looked up once, when the context is opened. All sequences of a batch are
changed alike. `capture.intervene` is this for users, steering uses `add_rows`, and what is measured over a task (`effects`) has
edits of its own, a different one for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch

from capture.interventions.intervention import Intervention
from capture.interventions.reference import (
    check_same_model,
    find_sequence,
    output_factor,
    position_means,
    run_sequences,
    stored_values,
)
from capture.interventions.restart import Restart
from capture.interventions.site_edits import (
    Edit,
    ForwardState,
    chain_edits,
    check_editable,
    edit_sites,
    head_count,
)
from capture.model.anatomy import Anatomy
from capture.model.loading import Loaded
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_list import find_run
from warehouse.storage.trace_store import TraceStore


class Feature(Protocol):
    """What `clamp` holds at an activation."""

    def missing(self, x: torch.Tensor, activation: float) -> torch.Tensor:
        """Return what is to be added to states (…, D) for it to have an activation there."""
        ...


FindVector = Callable[[str, Intervention], Any]
"""Finds the vector (D,) that `add:NAME` names, or the `Feature` that `clamp:NAME` does."""

_held: list[Any] = []
"""The models that interventions change now."""


@contextmanager
def hold(
    loaded: Loaded, interventions: Sequence[Intervention], root: AnyPath, find_vector: FindVector
) -> Iterator[ForwardState]:
    """Make interventions in every pass of a model while the context is open.

    Args:
        loaded: The model.
        interventions: What is done, in its order where several are at one place.
        root: The warehouse's folder, for runs that are named.
        find_vector: Finds the vector of an `add` that names one.

    Yields:
        Where in a forward pass the model is.

    Raises:
        UsageError: The model has no such layer or head, a site cannot be changed or was not stored, a run is of another model, or a
            value does not fit.
    """
    anatomy = loaded.anatomy
    state = ForwardState()
    edits: dict[Key, list[Edit]] = {}
    for intervention in interventions:
        key = find_key(anatomy, intervention)
        if intervention.kind == "clamp":
            feature = find_vector(intervention.source, intervention)
            change = _clamped(feature, intervention.factor, output_factor(anatomy, key))
        else:
            change = _put_or_added(intervention, _find_value(loaded, intervention, key, root, find_vector))
        edits.setdefault(key, []).append(_make_edit(intervention, key, change, lambda: state))
    with ExitStack() as stack:
        state = stack.enter_context(edit_sites(anatomy, {key: chain_edits(each) for key, each in edits.items()}))
        _held.append(loaded.model)
        stack.callback(_held.remove, loaded.model)
        yield state


def check_not_held(model: Any) -> None:
    """Raise UsageError where interventions change a model: a run of it would not be what the model computes."""
    if any(held is model for held in _held):
        raise UsageError(
            "capture.intervene changes this model: close it before you capture a run, which could not say what was changed. "
            "capture.record shows values as they are then."
        )


def find_key(anatomy: Anatomy, intervention: Intervention) -> Key:
    """Return the site that an intervention changes; raises UsageError where the model has no such layer or head."""
    key = Key(intervention.side or anatomy.main.side, intervention.site, intervention.layer)
    check_editable(anatomy, key)
    n = head_count(anatomy, key)
    if intervention.head is not None and n is not None and intervention.head >= n:
        what = "heads" if key.site.endswith("heads") else f"heads of {key.site}"
        raise UsageError(f"{intervention}: layer {key.layer} has {what} 0 to {n - 1}.")
    return key


def _find_value(
    loaded: Loaded, intervention: Intervention, key: Key, root: AnyPath, find_vector: FindVector
) -> torch.Tensor | None:
    """Return what is put in place or added, by position (T, *row) or for all (*row); None for zero."""
    kind, source = intervention.kind, intervention.source
    if kind == "zero":
        return None
    if intervention.value is not None:
        return _tensor(intervention.value)
    if kind == "add":
        return _tensor(find_vector(source, intervention)) / output_factor(loaded.anatomy, key)
    if kind == "mean":
        store = TraceStore(find_run(root, source))
        check_same_model(store, loaded, "Reference run")
        sequences = (ids for _, _, ids in run_sequences(store, key.side))
        return _of_head(intervention, position_means(loaded, sequences, [key], Restart(loaded.anatomy)).mean(key))
    if kind == "patch" and source:
        store, example_id, seq = find_sequence(root, source)
        check_same_model(store, loaded, "Run")
        stored = stored_values(store, loaded.anatomy, key, example_id, seq)
        return _of_head(intervention, torch.from_numpy(stored))
    raise UsageError(
        f"{intervention}: the other prompt of a pair is known in a task alone: traces ablate, traces patch. Here, name a run: "
        f"{intervention.place}=patch:RUN"
    )


def _tensor(value: Any) -> torch.Tensor:
    return value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value)


def _of_head(intervention: Intervention, x: torch.Tensor) -> torch.Tensor:
    """Return one head's part of (T, H, d), where one is meant."""
    return x if intervention.head is None else x[:, intervention.head]


_Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes new values of a site's, (B, T, *row); the others are which token each column is, and which are meant, (B, T)."""


def _make_edit(intervention: Intervention, key: Key, change: _Change, state: Callable[[], ForwardState]) -> Edit:
    """Make the edit of an intervention, the same for every sequence of a batch."""

    def edit(x: torch.Tensor) -> torch.Tensor:
        places, lengths = state().positions(key.side, x), state().lengths.get(key.side)
        meant = state().is_real(key.side, places)
        if intervention.positions is not None:
            meant &= intervention.positions.mask(places, lengths)
        part = x if intervention.head is None else x[:, :, intervention.head]
        new = torch.where(meant.view(*meant.shape, *[1] * (part.ndim - 2)), change(part, places, meant), part)
        if intervention.head is None:
            return new
        changed = x.clone()
        changed[:, :, intervention.head] = new
        return changed

    return edit


def _put_or_added(intervention: Intervention, value: torch.Tensor | None) -> _Change:
    """Return what puts a value in place, 0 for None, or adds it."""

    def change(x: torch.Tensor, places: torch.Tensor, meant: torch.Tensor) -> torch.Tensor:
        new = torch.zeros_like(x) if value is None else _rows(intervention, value, x, places, meant)
        return add_vector(x, new, torch.tensor(intervention.factor)) if intervention.kind == "add" else new

    return change


def _clamped(feature: Feature, activation: float, factor: float) -> _Change:
    """Return what holds a feature at an activation, at a site whose values the block multiplies with a factor."""

    def change(x: torch.Tensor, places: torch.Tensor, meant: torch.Tensor) -> torch.Tensor:
        return x + feature.missing(x * factor, activation) / factor

    return change


def add_vector(x: torch.Tensor, vector: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Add a vector to values, a number of times.

    Args:
        x: (B, T, D), or heads' values.
        vector: (D,), or by token (B, T, D), in the dtype of `x`.
        factor: How many times, of a shape that goes with that of `x`; 0 leaves a row as it is.

    Returns:
        A tensor like `x`.
    """
    return x + factor.to(x.device, x.dtype) * vector


def _rows(
    intervention: Intervention, value: torch.Tensor, x: torch.Tensor, places: torch.Tensor, meant: torch.Tensor
) -> torch.Tensor:
    """Return a value for every token of `x`, (B, T, *row); raises UsageError where it has none for one that is meant."""
    value, row = value.to(x.device, x.dtype), x.shape[2:]
    if value.shape == row:
        return value.expand(x.shape)
    if value.ndim != x.ndim - 1 or value.shape[1:] != row:
        raise UsageError(
            f"{intervention}: its value has the shape {tuple(value.shape)}; that of a token is {tuple(row)} here."
        )
    last = int(places[meant].max()) if bool(meant.any()) else 0
    if last >= len(value):
        raise UsageError(
            f"{intervention}: there is no value for token {last}, as {intervention.source or 'what was given'} has {len(value)} "
            "tokens. Name the positions, as in [pos=0:5]."
        )
    return value[places.clamp(0, len(value) - 1)]
