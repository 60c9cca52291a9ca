"""What a judge's answer says: a score from 0 to 100, a refusal, or neither.

Where a judge tells how likely it held each number, the score is their mean by probability, which is finer than the one number it
gave (Liu et al. 2023, "G-Eval", section 2); as long as at least a quarter of the probability is on numbers, and whatever the
answer itself is, REFUSAL included. What is not told is None, never 0. Knows nothing of who was asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

NUMBERS = range(101)
MIN_NUMBER_MASS = 0.25
"""Less probability than this on numbers, and there is no score."""

Rule = Literal["whole", "tokens", "one-digit", "digits", "written"]
"""How an answer was looked at.

whole: by the probabilities of whole numbers, over all their tokens. tokens: by those of the integers that could have stood in the
place of one token, some of them of two digits or more. one-digit: the same, all of one digit: that is the mean of numbers where
this judge's numbers are one token each, and of first digits where it cuts them. digits: its number came in several tokens, beside
which stand the probabilities of digits: as it was written. written: as it was written, no probabilities being told beside it.
"""

_REFUSAL = re.compile(r"\W*REFUSAL\b")
_OUT_OF = r"\s*(?:/|(?:out )?of)\s*"
_NUMBER = re.compile(rf"(?<![\w.,/-])([0-9]+)(?:\.0+)?(?:{_OUT_OF}([0-9]+))?(?!\w|[.,]\d|\s*[-–]\s*\d|{_OUT_OF}\d)")
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
    rule: Rule | None = None
    """None: there is no answer."""


@dataclass(frozen=True)
class Token:
    """A token of a judge's answer."""

    text: str
    alternatives: Mapping[str, float]
    """Probabilities of what could have stood there, itself included, as far as they are told."""


def from_text(answer: str, rule: Rule = "written") -> Verdict:
    """The number that it begins with, or the only one in it. Neither of them whole, not in 0 to 100, or out of another
    number than 100: no score.
    """
    if _REFUSAL.match(answer):
        return Verdict(answer, None, refused=True, rule=rule)
    number = _find_number(answer)
    return Verdict(answer, number, scored_by=None if number is None else "number", rule=rule)


def from_tokens(answer: str, tokens: Sequence[Token]) -> Verdict:
    """By the probabilities beside the answer's number, where that number is one token.

    Many tokenizers cut 85 into 8 and 5; what is told then are the probabilities of first digits, not of numbers, and the number
    counts as it was written. A refusal, and an answer without any digit, is looked at where it begins: numbers may have been
    nearly as likely there.
    """
    said = from_text(answer)
    at = 0
    if not said.refused and any(c.isdigit() for c in answer):
        found = next((i for i, t in enumerate(tokens) if _parse_number(t.text.strip()) is not None), None)
        if found is None:
            return said
        if found + 1 < len(tokens) and tokens[found + 1].text[:1].isdigit():
            return from_text(answer, "digits")
        token = tokens[found].text.strip()
        if (
            said.score != _parse_number(token) and answer.strip() != token
        ):  # a part of 8/10 or 0.85, or another number than the answer's
            return said
        at = found
    if at >= len(tokens):
        return said
    numbers: dict[int, float] = {}
    for text, probability in tokens[at].alternatives.items():
        word = text.strip()
        number = _parse_number(word)
        if number is not None and number in NUMBERS and word == str(number):
            numbers[number] = numbers.get(number, 0.0) + probability
    return from_probabilities(answer, numbers, "one-digit" if max(numbers, default=10) < 10 else "tokens")


def from_probabilities(answer: str, found: Mapping[int, float], rule: Rule = "whole") -> Verdict:
    """The mean of these numbers by their probabilities; `answer` only says whether it is a refusal."""
    refused = bool(_REFUSAL.match(answer))
    mass = sum(found.values())
    if not math.isfinite(mass):  # of a model whose weights are none
        return Verdict(answer, None, refused, rule=rule)
    told = min(mass, 1.0)
    if mass < MIN_NUMBER_MASS:
        return Verdict(answer, None, refused, number_mass=told, rule=rule)
    mean = sum(n * p for n, p in found.items()) / mass
    return Verdict(answer, min(max(mean, 0.0), 100.0), refused, "probabilities", told, rule)


def _find_number(answer: str) -> float | None:
    found = list(_NUMBER.finditer(answer))
    begins = bool(found) and not any(c.isalnum() for c in answer[: found[0].start()])
    if not begins and len(found) != 1:
        return None
    number, out_of = _parse_number(found[0][1]), found[0][2]
    if number is None or number not in NUMBERS or (out_of is not None and _parse_number(out_of) != 100):  # 8/10 is no 8
        return None
    return float(number)


def _parse_number(digits: str) -> int | None:
    """Of ASCII digits the number; None for anything else. Python refuses to read thousands of digits, none of which is 0 to 100."""
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits.lstrip("0")[:9] or "0")
