"""Which parts of a comparison two runs can answer for, and why not the others: decided before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from capture.comparisons.heads import why_no_heads
from capture.comparisons.options import PARTS, Options, choose_layers
from capture.comparisons.run_pair import SIDE, RunPair, last_state_key
from warehouse.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """What is compared."""

    parts: tuple[str, ...]
    left_out: dict[str, str]
    """Parts that were not named and cannot be compared, and why."""
    losses_alone: bool
    """The models have other vocabularies: of predictions, only losses can be compared."""


def make_plan(pair: RunPair, options: Options) -> Plan:
    """Decide what of two runs is compared.

    Args:
        pair: The runs.
        options: What is asked for.

    Returns:
        The parts: those that are named, else all that can be had.

    Raises:
        UsageError: A part that is named cannot be had, or none can; a layer does not exist or is not stored.
    """
    losses_alone = not (pair.same_tokenizer or pair.a.meta.model.vocab_size == pair.b.meta.model.vocab_size)
    checks: dict[str, Callable[[], object]] = {
        "predictions": lambda: _check_losses(pair) if losses_alone else _check_last_states(pair),
        "layers": lambda: _check_layers(pair, options),
        "directions": lambda: _check_directions(pair, options),
        "heads": lambda: _check_heads(pair, options),
    }
    found: list[str] = []
    left_out: dict[str, str] = {}
    for part in options.parts or PARTS:
        why = _reason(checks[part])
        if why is None:
            found.append(part)
        elif options.parts:
            raise UsageError(f"--what {part}: {why}")
        else:
            left_out[part] = why
    if not found:
        raise UsageError(next(iter(left_out.values())))
    return Plan(tuple(found), left_out, losses_alone)


def _reason(check: Callable[[], object]) -> str | None:
    try:
        check()
    except _Impossible as e:
        return str(e)
    return None


class _Impossible(Exception):
    """A part cannot be compared; the message says why."""


def _check_last_states(pair: RunPair) -> None:
    for store in pair.stores:
        try:
            last_state_key(store)
        except UsageError as e:
            raise _Impossible(str(e)) from None


def _check_losses(pair: RunPair) -> None:
    for store in pair.stores:
        if not store.meta.counts.rows.get("next_token"):
            raise _Impossible(
                f"Run '{store.meta.run_id}' has no losses, and the other's tokenizer has another vocabulary, so that nothing else of "
                "their predictions can be compared. Capture it again: traces capture next-token …"
            )


def _check_layers(pair: RunPair, options: Options) -> list[list[int | None]]:
    layers = [choose_layers(store, options) for store in pair.stores]
    for store, some in zip(pair.stores, layers, strict=True):
        if not some:
            raise _Impossible(
                f"Run '{store.meta.run_id}' has not stored its residual stream. Capture it again with --capture resid"
            )
    return layers


def _check_directions(pair: RunPair, options: Options) -> None:
    a, b = _check_layers(pair, options)
    if not set(a) & set(b):
        raise _Impossible("the two runs have not stored the states of the same layers")
    widths = [store.meta.model.stack(SIDE).d_model for store in pair.stores]
    if widths[0] != widths[1]:
        raise _Impossible(f"the models' states are {widths[0]} and {widths[1]} wide, so that they have no difference")


def _check_heads(pair: RunPair, options: Options) -> None:
    if why := why_no_heads(pair, options):
        raise _Impossible(why)
