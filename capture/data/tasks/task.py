"""What a task is: pairs of prompts that differ in one thing, and what should and should not follow each.

Each task that ships has a file beside this one, `own_pairs` reads those of a file, and `registry` finds both by name. Nothing here
runs a model. Which pairs fit a tokenizer is decided in `capture.sequences.prompt_pairs`; tasks only get the tokenizer to choose
words by, where their words must be single tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_MOST_DRAWS = 100_000


@dataclass(frozen=True)
class Pair:
    """Two prompts, and which texts are right or wrong after the clean one."""

    source_id: str
    """The number of its draw, or its line in its file."""
    clean: str
    corrupted: str
    continuations: Mapping[str, int]
    """Text as it stands after the prompt, with its space → 1: an answer; -1: a wrong one; 0: neither."""
    corruption: str
    """What was changed, in words."""
    template: str | None = None
    """The template that it was made from, with the names of its slots."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it, kept as its example's metadata."""
    where: str = ""
    """Its place as messages name it, where it comes from a file."""


@dataclass(frozen=True)
class Task:
    """Pairs of one kind, and how they are scored."""

    name: str
    about: str
    """One line on what it asks for."""
    metric: str
    """The metric that is its own, one of `capture.recording.metrics.METRICS`."""
    pairs: Callable[[Any, int], Iterator[Pair]] = field(repr=False)
    """Gives its pairs, from a tokenizer and a seed: those of a file, or as many as are asked for, each clean prompt once."""
    origin: str
    """Where they come from, as messages name it."""
    whole_answers: bool = True
    """A continuation must be one token. Else the token that it begins with counts, where all that begin with it have one sign."""
    own: bool = False
    """Pairs of the user's own: one that does not fit the tokenizer is refused, and not left out."""


def answers(right: str, wrong: str) -> dict[str, int]:
    """Return the continuations of a pair with one right and one wrong answer."""
    return {right: 1, wrong: -1}


def draw_pairs(name: str, seed: int, draw: Callable[[int, random.Random], Pair]) -> Iterator[Pair]:
    """Draw pairs at random, the same ones for the same seed.

    Args:
        name: The task's name.
        seed: The seed.
        draw: Makes the pair of a number, from 0 up, with a random generator of its own.

    Yields:
        Pairs, each clean prompt once, as long as new ones come.
    """
    seen = set()
    for number in range(_MOST_DRAWS):
        pair = draw(number, random.Random(f"{name} {seed} {number}"))
        if pair.clean not in seen:
            seen.add(pair.clean)
            yield pair


def in_turn(items: Sequence[Any], number: int) -> tuple[Any, bool]:
    """Return the item whose turn it is at a draw, and whether it is its second of two turns: both are equally frequent."""
    turn, place = divmod(number, len(items))
    return items[place], bool(turn % 2)
