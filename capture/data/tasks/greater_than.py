"""Greater than (Hanna et al. 2023, "How does GPT-2 compute greater-than?"): a year that comes later than another.

A prompt names the year in which something began, and ends after the century of the year in which it was over. The numbers above
the first year's last two digits are right, those below wrong. Whether that is a matter of two digits or of one is the tokenizer's:
every number from 00 to 99 is a continuation, and `capture.sequences.prompt_pairs` sees which tokens they begin with. Corrupted: the
first year ends in 01. Templates and words were written for this project and share its licence; a file may bring its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from capture.data.tasks.task import Pair, Task, draw_pairs, in_turn

NAME = "greater_than"
CORRUPTION = "first year"
ABOUT = "a year that comes later than the one before"
METRIC = "prob_diff"

_TEMPLATES = (
    "The {event} began in {year} and was over in {century}",
    "Historians say that the {event} went on from {year} until {century}",
    "The first {event} took place in {year}, and the last one in {century}",
    "It is written that the {event} of {year} did not end before {century}",
)
_EVENTS = (
    "war", "siege", "trial", "reign", "journey", "voyage", "strike", "festival", "experiment", "expedition", "campaign", "study",
    "dispute", "survey", "course", "tour", "work", "flood", "rebellion", "occupation", "epidemic", "restoration", "investigation",
    "negotiation",
)  # fmt: skip


def numbers(label: int) -> Mapping[str, int]:
    """Return the numbers 00 to 99 as continuations: 1 above the label, -1 below it, 0 the label itself."""
    return {f"{n:02d}": (n > label) - (n < label) for n in range(100)}


def _draw(number: int, generator: random.Random) -> Pair:
    template, _ = in_turn(_TEMPLATES, number)
    event, century, label = generator.choice(_EVENTS), generator.randint(11, 19), generator.randint(2, 98)
    clean, corrupted = (
        template.format(event=event, year=f"{century}{digits:02d}", century=century) for digits in (label, 1)
    )
    name = template.format(event="[event]", year="[year]", century="[century]")
    return Pair(str(number), clean, corrupted, numbers(label), CORRUPTION, name, {"label": label})


def _pairs(_tokenizer: Any, seed: int) -> Iterator[Pair]:
    return draw_pairs(NAME, seed, _draw)


TASK = Task(NAME, ABOUT, METRIC, _pairs, NAME, whole_answers=False)
