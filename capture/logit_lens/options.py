"""What a lens is asked for: its options, and the layers that they name.

`choose_layers` checks the options against a run before a model is loaded: which layers there are, and whether the run has stored
their states. Layer l is the output of block l; layer None is the embedding that the first block reads. `lens_run` calls this
module, and `positions` takes the other half of the options.
"""

from __future__ import annotations

from dataclasses import dataclass

from capture.jobs.commands import capture_command
from capture.jobs.job import check_option_values
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore

SIDE = "dec"


@dataclass(frozen=True)
class Options:
    """What a lens reads and keeps."""

    top_k: int = 50
    layers: str = "all"
    """Numbers, `mid`, `last`, `embed` (what the first block reads) and `all` (that and every block), comma-separated."""
    positions: str = "all"
    """`all`, `last` (of each sequence), `response` (what the model generated), or numbers, comma-separated."""
    shard: str = ""
    """`i/n`: every n-th sequence, starting with the i-th."""

    def __post_init__(self) -> None:
        """Raise UsageError for numbers out of range."""
        check_option_values(self)


def choose_layers(store: TraceStore, options: Options) -> list[int | None]:
    """Choose the layers that the options name.

    Args:
        store: The run to read.
        options: What is asked for.

    Returns:
        The layers in order, None for the embedding first.

    Raises:
        UsageError: The run holds no states of a decoder, has no such layer, or has not stored its states (the message has the
            command that does).
    """
    meta = store.meta
    if not meta.captured:
        raise UsageError(
            f"Run '{meta.run_id}' is of kind {meta.kind}, and holds no states of a model"
            f"{': use the lens on the run it was made from, ' + meta.parents[0] if meta.parents else ''}."
        )
    if meta.model.side != SIDE:
        raise UsageError(
            f"Run '{meta.run_id}' is of an encoder ({meta.model.architecture}), which does not predict next tokens, so "
            "that a lens has nothing to show."
        )
    n = meta.model.stack(SIDE).n_layers
    named: dict[str, list[int | None]] = {"mid": [n // 2], "last": [n - 1], "embed": [None], "all": [None, *range(n)]}
    chosen: set[int | None] = set()
    for part in options.layers.split(","):
        word = part.strip()
        if word in named:
            chosen.update(named[word])
        elif word.isdecimal() and len(word) < 10 and int(word) < n:
            chosen.add(int(word))
        else:
            raise UsageError(
                f"--layers {options.layers}: {word or 'nothing'} is not a layer; {meta.model.name} has layers 0 to {n - 1}, and "
                "you can write embed, mid, last and all."
            )
    layers = sorted(chosen, key=lambda layer: -1 if layer is None else layer)
    final = Key(SIDE, "hidden", n)
    needed = [state_key(layer) for layer in layers] + ([] if store.has(final) else [state_key(n - 1)])
    if missing := [key for key in needed if not store.has(key)]:
        _raise_not_stored(store, missing)
    return layers


def state_key(layer: int | None) -> Key:
    """Return the key of the residual stream after a layer, or before the first for None."""
    return Key(SIDE, "resid.embed" if layer is None else "resid.post_mlp", layer)


def _raise_not_stored(store: TraceStore, missing: list[Key]) -> None:
    """Raise UsageError that says which states are not stored, and which command stores them."""
    meta, key = store.meta, missing[0]
    stack = meta.model.stack(SIDE)
    if key.site in stack.missing:
        raise UsageError(f"{meta.model.name} has no {key.site} here: {stack.missing[key.site]}.")
    store.check_not_expired()
    stored = store.layers_with("resid.post_mlp", SIDE)
    command = capture_command(meta.kind)
    layers = f" only of layers {', '.join(map(str, stored))}" if stored and key.layer is not None else ""
    has = f"has stored {key.site}{layers}" if layers else f"has not stored {key.site}"
    where = "" if key.layer is None else " in every layer that you name and in the last one"
    raise UsageError(
        f"Run '{meta.run_id}' {has}, and a lens reads it{where}. Capture it again: {command} … --capture {sites.capture_of(key.site)}"
    )
