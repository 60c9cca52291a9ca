"""What the texts of options mean: lists, numbers, layers, lengths. Imports nothing heavy."""

from __future__ import annotations

import math

from warehouse.errors import UsageError


def split_list(text: str | None) -> tuple[str, ...]:
    """Return the items between commas, each once, in order."""
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def parse_numbers(option: str, text: str) -> list[float]:
    """Return the numbers between commas, each once, in order.

    Args:
        option: The option, for the message: `--coefficients`. Numbers of `--layers` are whole and not negative.
        text: Its value: `-2,0,2`.

    Returns:
        The numbers.

    Raises:
        UsageError: The text is not such a list.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{option} {text}: use numbers with commas between them.")
    numbers = list({f"{x:g}": x for x in numbers}.values())  # an example is known by its coefficient as it is written
    if option == "--layers" and any(x != int(x) or x < 0 for x in numbers):
        raise UsageError(f"--layers {text}: use mid, best, or numbers from 0 up.")
    return numbers


def parse_layers(text: str | None) -> list[int] | None:
    """Return the layers of `4,15`; None for all of them.

    Args:
        text: The value of `--layers`; None and `all` are all layers.

    Returns:
        Layers, or None.

    Raises:
        UsageError: The text is not a list of layers.
    """
    if text is None or text == "all":
        return None
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise UsageError(f"--layers {text}: write a layer, or several as in 4,15, or all.") from None


def parse_max_len(text: str) -> int | None:
    """Return a length in tokens.

    Args:
        text: The value of `--max-len`.

    Returns:
        The number; None for `auto`.

    Raises:
        UsageError: The text is neither `auto` nor a number of tokens.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or len(text) > 9 or int(text) < 2:
        raise UsageError(f"--max-len {text[:20]}: use 'auto' or a number of tokens from 2 up.")
    return int(text)


def parse_threshold(text: str) -> float | None:
    """Return a score, 0 to 100.

    Args:
        text: The value of `--threshold`.

    Returns:
        The score; None for `none`.

    Raises:
        UsageError: The text is neither `none` nor a number.
    """
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise UsageError(f"--threshold {text}: write a score from 0 to 100, or none.") from None
