"""The stored states that a dictionary is trained on, and those of other examples that it is measured on.

States of a site are read through `Batches`, in random order, pass after pass. Whole examples are held out, so that no state is measured whose
neighbours were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from torch import Tensor

from capture.jobs.commands import capture_command
from warehouse.activations.batches import Batches
from warehouse.activations.gather import stored_key
from warehouse.errors import UsageError
from warehouse.exports.transformer_lens import SITES, hook_name
from warehouse.schema import sites
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

_BUFFER = 1 << 16
"""Tokens that batches are drawn from."""


@dataclass(frozen=True)
class TrainingStates:
    """The states of a site of some runs, in two parts without a common example, and what is to be said of them."""

    train: Batches
    held_out: Batches
    n_held_out: int
    """Examples that are held out."""
    hook_name: str
    model_name: str
    prepend_bos: bool
    """Whether all texts begin with a special token."""
    context_size: int
    """The tokens of the longest sequence."""


def find_states(
    wh: Warehouse, runs: Sequence[str], site: str, layer: int | None, where: str, held_out: float, seed: int
) -> TrainingStates:
    """Find the states to train on and to measure on.

    Args:
        wh: The warehouse.
        runs: Runs of one model.
        site: Name of the site.
        layer: Its layer; None for a site without layers.
        where: A SQL condition on columns of `token_diagnostics`.
        held_out: The share of the examples that is held out, at least one.
        seed: Decides which are held out, and in which order states come.

    Returns:
        The states; none is read yet.

    Raises:
        UsageError: The runs have no such states, or no hook of TransformerLens names them; or the condition leaves fewer than two examples.
        NotFoundError: There is no such run.
    """
    if not runs:
        raise UsageError("Name a run to train on.")
    if site != "resid.embed" and site not in SITES:
        raise UsageError(f"A dictionary names what it reads as TransformerLens does, which has no hook for {site}.")
    for run in runs:
        _check_stored(wh.run(run), site, layer)
    found = wh.batches(
        site=site,
        layer=layer,
        where=where,
        shuffle=True,
        seed=seed,
        size=4096,
        buffer=_BUFFER,
        dtype=np.float32,
        runs=runs,
    )
    store = wh.run(found.runs[0])
    if found.key.site == "hidden":
        raise UsageError(
            "The state after the final norm has no layer that a dictionary could name: train on resid.post_mlp of the last one."
        )
    stack, side = store.meta.model.stack(found.key.side), found.key.side
    with_tokens = np.unique(found.spans.sequence)
    examples = found.sequences["example_id"].to_numpy(zero_copy_only=False)
    order = sorted(set(examples[with_tokens]), key=lambda e: xxhash.xxh3_64_intdigest(e.encode(), seed))
    n = max(1, math.ceil(held_out * len(order)))
    if n >= len(order):
        raise UsageError(
            f"{len(order)} example{'s' * (len(order) != 1)} with tokens that --where leaves: none can be held out to measure on."
        )
    is_held = np.isin(examples, order[:n])
    texts = [
        wh.run(run)
        .query("SELECT max(pos) + 1, bool_and(is_special OR pos > 0) FROM tokens WHERE side = ?", [side])
        .fetchone()
        for run in found.runs
    ]
    return TrainingStates(
        train=found.of_sequences(~is_held),
        held_out=found.of_sequences(is_held),
        n_held_out=n,
        hook_name="blocks.0.hook_resid_pre"
        if found.key.site == "resid.embed"
        else hook_name(found.key, stack, store.meta.model.architecture),
        model_name=store.meta.model.name,
        prepend_bos=all(text[1] for text in texts if text),
        context_size=max(text[0] for text in texts if text),
    )


def _check_stored(store: TraceStore, site: str, layer: int | None) -> None:
    """Raise UsageError where a run has not stored what is to be trained on."""
    store.check_not_expired()
    key = stored_key(store, site, layer, None)
    if not store.has(key):
        place = site if layer is None else f"{site} of layer {layer}"
        raise UsageError(
            f"Run '{store.meta.run_id}' has not stored {place}. Capture it: "
            f"{capture_command(store.meta.kind)} … --capture {sites.capture_of(site)}"
        )


def batches_from(states: Batches, size: int, skip: int = 0) -> Iterator[Tensor]:
    """Yield batches of states without end, all of one size: a pass over the tokens follows the other.

    Args:
        states: The states; one pass of them is in another order than the next.
        size: Tokens in a batch.
        skip: Tokens at the beginning that are passed over.

    Yields:
        Tensors (size, d), heads one after the other.
    """
    states.passes, skip = divmod(skip, states.tokens)
    left: list[Tensor] = []
    while True:
        for x in states:
            if skip >= len(x):
                skip -= len(x)
                continue
            left.append(torch.from_numpy(x[skip:]).flatten(1))
            skip = 0
            if sum(map(len, left)) < size:
                continue
            together = torch.cat(left)
            for start in range(0, len(together) - size + 1, size):
                yield together[start : start + size]
            left = [together[len(together) - len(together) % size :]]


def some(states: Batches, most: int) -> Tensor:
    """Return the states of at most so many tokens, drawn at random, (n, d)."""
    found: list[Tensor] = []
    for x in states.of_sequences(np.ones(len(states.sequences), bool)):
        found.append(torch.from_numpy(x).flatten(1))
        if sum(map(len, found)) >= most:
            break
    return torch.cat(found)[:most]
