"""What a judge's answer says: a score from 0 to 100, a refusal, or neither.

Where a judge tells how likely it held each number, the score is their mean by probability, which is finer than the one number it
gave (Liu et al. 2023, "G-Eval", section 2); as long as at least a quarter of the probability is on numbers. What is not told is
None, never 0. Knows nothing of who was asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

NUMBERS = range(101)
LEAST_MASS = 0.25
"""Less probability than this on numbers, and there is no score."""

_REFUSAL = re.compile(r"\W*REFUSAL\b")
_OF = r"\s*(?:/|(?:out )?of)\s*"
_NUMBER = re.compile(rf"(?<![\w.,/-])([0-9]+)(?:\.0+)?(?:{_OF}([0-9]+))?(?!\w|[.,]\d|\s*[-–]\s*\d|{_OF}\d)")
"""A whole number in the digits that were asked for, and what it is out of where that is told; no part of a range or of a decimal
fraction."""


@dataclass(frozen=True)
class Verdict:
    answer: str
    score: float | None
    refused: bool = False
    scored_by: Literal["probabilities", "number"] | None = None
    number_mass: float | None = None
    """Probability that the judge gave to numbers; None: it told none."""


@dataclass(frozen=True)
class Token:
    """A token of a judge's answer."""

    text: str
    alternatives: Mapping[str, float]
    """Probabilities of what could have stood there, itself included, as far as they are told."""


def from_text(answer: str) -> Verdict:
    """The number that it begins with, or the only one in it. Neither of them whole, not in 0 to 100, or out of another
    number than 100: no score."""
    if _REFUSAL.match(answer):
        return Verdict(answer, None, refused=True)
    number = _number(answer)
    return Verdict(answer, number, scored_by=None if number is None else "number")


def from_tokens(answer: str, tokens: Sequence[Token]) -> Verdict:
    """By the probabilities beside the answer's number, where that number is one token.

    Many tokenizers cut 85 into 8 and 5; what is told then are the probabilities of first digits, not of numbers. So unless a
    number of two digits or more is among them, the number as it was given is taken. An answer without any digit is looked at
    where it begins: numbers may have been nearly as likely there.
    """
    said = from_text(answer)
    if said.refused:
        return said
    at = next((i for i, t in enumerate(tokens) if _whole(t.text.strip()) is not None), None)
    if at is None:
        at = 0 if tokens and not any(c.isdigit() for c in answer) else None
    elif said.score != _whole(tokens[at].text.strip()) or (at + 1 < len(tokens) and tokens[at + 1].text[:1].isdigit()):
        at = None
    if at is None:
        return said
    found: dict[int, float] = {}
    for text, probability in tokens[at].alternatives.items():
        word = text.strip()
        number = _whole(word)
        if number is not None and number in NUMBERS and word == str(number):
            found[number] = found.get(number, 0.0) + probability
    if not any(n > 9 for n in found):
        return said
    return from_probabilities(answer, found)


def from_probabilities(answer: str, found: Mapping[int, float]) -> Verdict:
    """The mean of these numbers by their probabilities; `answer` only says whether it is a refusal."""
    mass = sum(found.values())
    if not math.isfinite(mass):  # of a model whose weights are none
        return Verdict(answer, None, refused=bool(_REFUSAL.match(answer)))
    told = min(mass, 1.0)
    if _REFUSAL.match(answer):
        return Verdict(answer, None, refused=True, number_mass=told)
    if mass < LEAST_MASS:
        return Verdict(answer, None, number_mass=told)
    mean = sum(n * p for n, p in found.items()) / mass
    return Verdict(answer, min(max(mean, 0.0), 100.0), scored_by="probabilities", number_mass=told)


def _number(answer: str) -> float | None:
    found = list(_NUMBER.finditer(answer))
    begins = bool(found) and not any(c.isalnum() for c in answer[: found[0].start()])
    if not begins and len(found) != 1:
        return None
    number, out_of = _whole(found[0][1]), found[0][2]
    if number is None or number not in NUMBERS or (out_of is not None and _whole(out_of) != 100):  # 8/10 is no 8
        return None
    return float(number)


def _whole(digits: str) -> int | None:
    """Of ASCII digits the number; None for anything else. Python refuses to read thousands of digits, none of which is 0 to 100."""
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits.lstrip("0")[:9] or "0")
