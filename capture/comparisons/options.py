"""What a comparison is asked for: its options, and the layers that they name."""

from __future__ import annotations

from dataclasses import dataclass

from capture.comparisons.run_pair import SIDE
from capture.jobs.job import check_option_values
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore

PARTS = ("predictions", "layers", "directions", "heads")
"""What can be compared: each a table."""
_PAIRS = ("same", "all", "none")


@dataclass(frozen=True)
class Options:
    """What of two runs is compared, and over how much."""

    what: str = ""
    """Parts of `PARTS`, comma-separated; empty: all that the two runs can answer for."""
    layers: str = "all"
    """Numbers, `mid`, `last`, `embed` (what the first block reads) and `all`, comma-separated; of either model by its own depth."""
    tokens: int = 2048
    """How many tokens layers, directions and heads are compared over."""
    pairs: str = "same"
    """Which pairs of layers Procrustes compares: `same` numbers, `all`, or `none`."""
    directions: int = 5
    """How many directions of each layer are kept."""
    seed: int = 0
    """Of the tokens that are drawn."""

    def __post_init__(self) -> None:
        """Raise UsageError for a value that its option does not take."""
        check_option_values(self)
        if unknown := [word for word in self.parts if word not in PARTS]:
            raise UsageError(f"--what {self.what}: {unknown[0] or 'nothing'} is none of {', '.join(PARTS)}.")
        if self.pairs not in _PAIRS:
            raise UsageError(f"--pairs {self.pairs}: use {', '.join(_PAIRS)}.")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are named; empty: none is."""
        return tuple(dict.fromkeys(word.strip() for word in self.what.split(","))) if self.what else ()


def choose_layers(store: TraceStore, options: Options) -> list[int | None]:
    """Choose the layers of a run whose states are compared.

    Args:
        store: The run.
        options: What is asked for.

    Returns:
        The layers in order, None for the embedding first: those with stored states, of `all`; empty where there are none.

    Raises:
        UsageError: A layer that is named does not exist, or has not been stored.
    """
    n = store.meta.model.stack(SIDE).n_layers
    stored = [layer for layer in (None, *range(n)) if store.has(state_key(layer))]
    named: dict[str, list[int | None]] = {"mid": [n // 2], "last": [n - 1], "embed": [None], "all": stored}
    chosen: set[int | None] = set()
    for word in (part.strip() for part in options.layers.split(",")):
        if word not in named and not (word.isdecimal() and len(word) < 10 and int(word) < n):
            raise UsageError(
                f"--layers {options.layers}: {word or 'nothing'} is not a layer; {store.meta.model.name} has layers 0 to {n - 1}, and "
                "you can write embed, mid, last and all."
            )
        chosen.update(named[word] if word in named else [int(word)])
    if missing := sorted(str(layer) for layer in chosen if layer not in stored):
        raise UsageError(
            f"Run '{store.meta.run_id}' has not stored the states of layer {missing[0].replace('None', 'embed')}. "
            "Capture it again with --capture resid"
        )
    return sorted(chosen, key=lambda layer: -1 if layer is None else layer)


def state_key(layer: int | None) -> Key:
    """Return the key of the residual stream after a layer, or before the first for None."""
    return Key(SIDE, "resid.embed" if layer is None else "resid.post_mlp", layer)
