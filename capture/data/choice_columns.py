"""Reads the choices of a multiple-choice question and its right answer as data sets have them, in whatever form."""

from __future__ import annotations

import re
import string
from contextlib import suppress
from typing import Any

from capture.data.example import Choice
from capture.data.files import printable_value
from warehouse.errors import UsageError
from warehouse.storage import strict_json

_NUMBER = re.compile(r"-?[0-9]{1,9}")


def parse_choices(value: Any, where: str) -> tuple[Choice, ...]:
    """Return the choices of a question.

    Args:
        value: A list of texts, which get the letters A, B, …; a list of objects with a text and a label; or an object with a list of
            each, as {"text": […], "label": […]}; a text is parsed as JSON.
        where: What messages begin with: the row, and the column.

    Returns:
        The choices, at least two.

    Raises:
        UsageError: The value is no such thing.
    """
    labels: Any = None
    if isinstance(value, str):  # of a file without lists, such as a CSV
        with suppress(ValueError):
            value = strict_json.parse(value)
    if isinstance(value, dict):
        value, labels = value.get("text"), value.get("label")
    elif isinstance(value, list) and value and all(isinstance(c, dict) for c in value):
        value, labels = [c.get("text") for c in value], [c.get("label") for c in value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UsageError(
            f'{where} holds {printable_value(repr(value), 60)}, not choices: a list of texts, or {{"text": […], "label": […]}}.'
        )
    if labels is None or labels == [None] * len(value):
        labels = list(string.ascii_uppercase[: len(value)])
    if not isinstance(labels, list) or len(labels) != len(value):
        raise UsageError(f"{where} has {len(value)} choices, and not a label for each.")
    labels = [str(label) for label in labels]
    if len(value) < 2 or len(set(labels)) < len(labels):
        raise UsageError(f"{where} has {len(value)} choices with the labels {printable_value(', '.join(labels), 60)}: give two or "
                         "more, each with a label of its own.")  # fmt: skip
    return tuple(Choice(label, text) for label, text in zip(labels, value, strict=True))


def parse_answer(value: Any, choices: tuple[Choice, ...], where: str) -> int | None:
    """Return the place of the right choice.

    Args:
        value: Its label, its text, or its place among the choices, from 0. Null, nothing and -1: not known.
        choices: The choices.
        where: What messages begin with: the row, and the column.

    Returns:
        The place, 0-based; None: not known.

    Raises:
        UsageError: No choice is meant by the value, or two are.
    """
    if value is None or value == -1 or (isinstance(value, str) and not value.strip()):
        return None
    given = str(value).strip()
    for named in ([c.label for c in choices], [c.text.strip() for c in choices]):
        if named.count(given) == 1:
            return named.index(given)
    if not isinstance(value, bool) and _NUMBER.fullmatch(given) and 0 <= int(given) < len(choices):
        return int(given)
    raise UsageError(
        f"{where} holds {printable_value(given, 60)}, which is none of the choices: give a label "
        f"({printable_value(', '.join(c.label for c in choices), 60)}), a choice's text, or its place from 0."
    )
