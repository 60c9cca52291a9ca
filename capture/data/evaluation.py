"""A score of a sample, whatever log it comes from, and how scores become numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from capture.data.plain import plain

_NUMBERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's grades: correct, partly so, incorrect, no answer."""
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
SINGLE = "score"
"""The metric of a score that is one value."""


@dataclass(frozen=True)
class Evaluation:
    """A score of a sample."""

    seq: int | None
    """The transcript that was scored; None: all of the sample's together."""
    scorer: str
    """Who judged: a scorer, a filter, or a column."""
    metric: str
    """What of it."""
    score: str
    """As it stands in the log."""
    value: float | None = None
    """The score as a number; None: it is none."""
    is_correct: bool | None = None
    """Whether the answer was right; None: the score does not say."""
    target: str | None = None
    answer: str | None = None
    explanation: str | None = None
    task: str | None = None
    epoch: int | None = None
    answered_by: str | None = None
    """The model that was evaluated."""
    details: str | None = None
    """What the scorer says besides, as a JSON object."""


def number(value: Any) -> float | None:
    """Return a score as a number, as Inspect's own metrics do; None where it is none, or not finite."""
    if isinstance(value, bool | int | float):
        return finite_float(value)
    if not isinstance(value, str):
        return None
    if value in _NUMBERS:
        return _NUMBERS[value]
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    try:
        return finite_float(value)
    except ValueError:
        return None


def finite_float(value: Any) -> float | None:
    """Return a number as a float; None where that is not finite. Raises ValueError for a text that is no number."""
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def correctness(value: Any) -> bool | None:
    """Return what a grade, true or false says of an answer; None for anything else, such as a number or a partial grade."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value != "P" and (value in _NUMBERS or value.lower() in _WORDS):
        return bool(number(value))
    return None


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values that a score consists of, each with its metric."""
    if isinstance(value, dict):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, list):
        yield from ((str(place), part) for place, part in enumerate(value))
    else:
        yield SINGLE, value


def as_text(value: Any) -> str:
    """Return a value as text: a string as it is, anything else as JSON; numbers that JSON lacks as NaN or Infinity."""
    if isinstance(value, str):
        return value
    return json.dumps(value if isinstance(value, float) else plain(value), ensure_ascii=False)


def joined(value: Any) -> str | None:
    """Return a target or an answer as text: what is alone in a list without the list; None for nothing."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return None if value is None or value == [] else as_text(value)
