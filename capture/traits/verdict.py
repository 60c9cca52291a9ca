"""What a judge's answer says: a score from 0 to 100, a refusal, or neither.

Where a judge gives token probabilities, the score is the mean of the numbers weighted by them, which is finer than the single number
it wrote (Liu et al. 2023, "G-Eval", section 2). That holds as long as at least a quarter of the probability is on numbers, whatever
the answer itself is, even REFUSAL. A missing score is None, never 0. Nothing here knows which judge was asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

NUMBERS = range(101)
MIN_NUMBER_MASS = 0.25
"""With less probability than this on numbers there is no score."""

Rule = Literal["whole", "tokens", "one-digit", "digits", "written"]
"""How an answer was turned into a score.

whole: by the probabilities of whole numbers, over all their tokens. tokens: by those of the integers that could have stood in the
place of one token, some of them of two digits or more. one-digit: the same, with all of them one digit: the mean of numbers if each
of this judge's numbers is one token, and of first digits if it splits numbers. digits: the number came in several tokens, so that
only probabilities of digits are known: as it was written. written: as it was written, there being no probabilities.
"""

_REFUSAL = re.compile(r"\W*REFUSAL\b")
_OUT_OF = r"\s*(?:/|(?:out )?of)\s*"
_NUMBER = re.compile(rf"(?<![\w.,/-])([0-9]+)(?:\.0+)?(?:{_OUT_OF}([0-9]+))?(?!\w|[.,]\d|\s*[-–]\s*\d|{_OUT_OF}\d)")
"""A whole number in ASCII digits, and what it is out of where the answer says so; not part of a range or a decimal fraction."""


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to one prompt, and what it says."""

    answer: str
    score: float | None
    refused: bool = False
    scored_by: Literal["probabilities", "number"] | None = None
    number_mass: float | None = None
    """Probability that the judge gave to numbers; None: unknown."""
    rule: Rule | None = None
    """None: there is no answer."""


@dataclass(frozen=True)
class Token:
    """A token of a judge's answer."""

    text: str
    alternatives: Mapping[str, float]
    """Probabilities of the tokens that could have stood there, itself included, as far as they are known."""


def from_text(answer: str, rule: Rule = "written") -> Verdict:
    """Read an answer without probabilities.

    Args:
        answer: The judge's answer.
        rule: How the answer came to be read this way.

    Returns:
        The verdict: a refusal, or the number that the answer begins with, or the only one in it. There is no score where that
        number is not whole, not from 0 to 100, or out of another number than 100.
    """
    if _REFUSAL.match(answer):
        return Verdict(answer, None, refused=True, rule=rule)
    number = _find_number(answer)
    return Verdict(answer, number, scored_by=None if number is None else "number", rule=rule)


def from_tokens(answer: str, tokens: Sequence[Token]) -> Verdict:
    """Read an answer by the probabilities beside its number, where that number is one token.

    Many tokenizers split 85 into 8 and 5. The known probabilities are then those of first digits, not of numbers, and the number
    counts as it was written. A refusal, and an answer without any digit, is read by the probabilities of its first token: numbers
    may have been nearly as likely there.

    Args:
        answer: The judge's answer.
        tokens: Its tokens with their probabilities; empty where these are unknown.

    Returns:
        The verdict.
    """
    as_text = from_text(answer)
    at = 0
    if not as_text.refused and any(c.isdigit() for c in answer):
        number_at = next((i for i, t in enumerate(tokens) if _parse_number(t.text.strip()) is not None), None)
        if number_at is None:
            return as_text
        if number_at + 1 < len(tokens) and tokens[number_at + 1].text[:1].isdigit():
            return from_text(answer, "digits")
        token = tokens[number_at].text.strip()
        if (
            as_text.score != _parse_number(token) and answer.strip() != token
        ):  # a part of 8/10 or 0.85, or another number than the answer's
            return as_text
        at = number_at
    if at >= len(tokens):
        return as_text
    numbers: dict[int, float] = {}
    for text, probability in tokens[at].alternatives.items():
        word = text.strip()
        number = _parse_number(word)
        if number is not None and number in NUMBERS and word == str(number):
            numbers[number] = numbers.get(number, 0.0) + probability
    return from_probabilities(answer, numbers, "one-digit" if max(numbers, default=10) < 10 else "tokens")


def from_probabilities(answer: str, probabilities: Mapping[int, float], rule: Rule = "whole") -> Verdict:
    """Read an answer by the probabilities of numbers: their weighted mean is the score.

    Args:
        answer: The judge's answer, which only decides whether it is a refusal.
        probabilities: Of numbers from 0 to 100.
        rule: Where the probabilities come from.

    Returns:
        The verdict; without a score where less than `MIN_NUMBER_MASS` is on numbers.
    """
    refused = bool(_REFUSAL.match(answer))
    mass = sum(probabilities.values())
    if not math.isfinite(mass):  # the model's weights are not finite
        return Verdict(answer, None, refused, rule=rule)
    number_mass = min(mass, 1.0)
    if mass < MIN_NUMBER_MASS:
        return Verdict(answer, None, refused, number_mass=number_mass, rule=rule)
    mean = sum(n * p for n, p in probabilities.items()) / mass
    return Verdict(answer, min(max(mean, 0.0), 100.0), refused, "probabilities", number_mass, rule)


def _find_number(answer: str) -> float | None:
    matches = list(_NUMBER.finditer(answer))
    begins = bool(matches) and not any(c.isalnum() for c in answer[: matches[0].start()])
    if not begins and len(matches) != 1:
        return None
    number, out_of = _parse_number(matches[0][1]), matches[0][2]
    if (
        number is None or number not in NUMBERS or (out_of is not None and _parse_number(out_of) != 100)
    ):  # 8/10 is not 8
        return None
    return float(number)


def _parse_number(digits: str) -> int | None:
    """Parse ASCII digits, at most nine of them since Python refuses thousands; None for anything else."""
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits.lstrip("0")[:9] or "0")
