"""Does a dictionary fit a run? Which of the run's tensors it reads and gives back, or why it cannot read any."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import PurePath

from capture.features.dictionary import Dictionary
from capture.jobs.commands import capture_command
from capture.model.hook_names import Place
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore

_SAME_MODEL = {"gpt2-small": "gpt2"}
"""TransformerLens' names of models whose names on the hub end otherwise."""


@dataclass(frozen=True)
class Fitted:
    """A dictionary, and the tensors of a run that it is applied to."""

    dictionary: Dictionary
    read: Key
    given_back: Key
    """What it reconstructs: of an autoencoder what it reads."""


def fit(
    store: TraceStore, dictionaries: Iterable[Dictionary], *, other_model: bool = False, stored: bool = True
) -> list[Fitted]:
    """Find the tensors that dictionaries are applied to.

    Args:
        store: The run.
        dictionaries: The dictionaries.
        other_model: Whether they may have been trained on a model of another name.
        stored: Whether the run has to have stored the tensors; without, nobody but the model says how wide they are.

    Returns:
        The dictionaries with their tensors, sorted by name.

    Raises:
        UsageError: A dictionary is of another site, width or model than the run's, or the run has not stored the site (the message has
            the command that stores it); two have one name; there is none; or the run is not a capture.
    """
    chosen = sorted(dictionaries, key=lambda d: d.name)
    names = [d.name for d in chosen]
    if not chosen:
        raise UsageError("Name a dictionary's folder: --sae FOLDER")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"Two dictionaries are named {', '.join(sorted(twice))}: rename the folder of one.")
    _check_captured(store)
    return [_fit_one(store, d, other_model, stored) for d in chosen]


def _check_captured(store: TraceStore) -> None:
    meta = store.meta
    if not meta.captured:
        raise UsageError(
            f"Run '{meta.run_id}' is of kind {meta.kind}, and holds no states of a model"
            f"{': encode the run that it was made from, ' + meta.parents[0] if meta.parents else ''}."
        )


def _fit_one(store: TraceStore, dictionary: Dictionary, other_model: bool, stored: bool) -> Fitted:
    if not other_model:
        _check_model(store, dictionary)
    read = _key(store, dictionary, dictionary.site, dictionary.hook_name)
    back = _key(store, dictionary, dictionary.site_out, dictionary.hook_out) if dictionary.kind.transcoder else read
    if stored:
        for key, width in ((read, dictionary.d_in), (back, dictionary.d_out)):
            _check_stored(store, dictionary, key)
            _check_width(store, dictionary, key, width)
    return Fitted(dictionary, read, back)


def _check_model(store: TraceStore, dictionary: Dictionary) -> None:
    """Raise UsageError where a dictionary says that it was trained on a model of another name."""
    theirs, ours = dictionary.model_name, store.meta.model.name
    if theirs is not None and _short(theirs) != _short(ours):
        raise UsageError(
            f"{dictionary.name} was trained on {theirs}, and run '{store.meta.run_id}' is of {ours}. If that is the same model "
            "under another name, or another one is meant: --other-model"
        )


def _short(model: str) -> str:
    """Return the last part of a model's name or place, in lower case."""
    name = re.sub(r"\.(gguf|safetensors)$", "", PurePath(model).name.lower())
    return _SAME_MODEL.get(name, name)


def _key(store: TraceStore, dictionary: Dictionary, place: Place | None, hook: str | None) -> Key:
    """Return the tensor at a place; raises UsageError where the run's model does not have it."""
    if place is None:
        said = (
            "does not say which part of the model it reads" if hook is None else f"reads {hook}, which is no site here"
        )
        raise UsageError(f"{dictionary.name} {said}: hooks of the stream, attn_out, mlp_out, mlp_act, q, k and v are.")
    side = store.meta.model.side
    stack = store.meta.model.stack(side)
    key = Key(side, place.site, place.layer)
    if place.layer is not None and place.layer >= stack.n_layers:
        raise UsageError(
            f"{dictionary.name} reads layer {place.layer}, and {store.meta.model.name} has layers 0 to {stack.n_layers - 1}."
        )
    if place.site in stack.missing:
        raise UsageError(
            f"{dictionary.name} reads {place.site}: {store.meta.model.name} has none: {stack.missing[place.site]}."
        )
    return key


def _check_stored(store: TraceStore, dictionary: Dictionary, key: Key) -> None:
    """Raise UsageError where the run has not stored a tensor."""
    if not store.has(key):
        store.check_not_expired()
        where = key.site if key.layer is None else f"{key.site} of layer {key.layer}"
        raise UsageError(
            f"{dictionary.name} reads {where}, which run '{store.meta.run_id}' has not stored. Capture it: "
            f"{capture_command(store.meta.kind)} … --capture {sites.capture_of(key.site)}"
        )


def _check_width(store: TraceStore, dictionary: Dictionary, key: Key, width: int) -> None:
    shape: Sequence[int] = store.row_shape(key)
    size = shape[-1] if dictionary.head is not None else prod(shape)
    if size != width:
        raise UsageError(
            f"{dictionary.name} is {width} wide, and {key.site} of run '{store.meta.run_id}' ({store.meta.model.name}) {size}."
        )
    if dictionary.head is not None and (len(shape) != 2 or dictionary.head >= shape[0]):
        raise UsageError(
            f"{dictionary.name} reads head {dictionary.head} of {key.site}, which has {shape[0] if len(shape) == 2 else 'no'} heads."
        )
