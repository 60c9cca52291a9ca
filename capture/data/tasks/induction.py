"""Induction (Olsson et al. 2022): random words said twice, where the second time each can be looked up in the first.

The prompt ends before the last word of the second copy, which is the answer. Corrupted: the first copy has another word there,
which is the wrong answer. Every word is one token of the model's tokenizer, at a text's beginning too, so that the two copies are
the same tokens but for the first one's space.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from capture.data.repeated_words import WORDS
from capture.data.tasks.task import Pair, Task, answers, draw_pairs, in_turn
from warehouse.errors import UsageError

_LENGTHS = (8, 12, 16, 24)
"""Words in a copy."""


def single_token_words(tokenizer: Any) -> list[str]:
    """Return the words that are one token, at the beginning of a text and after a space."""
    ids = tokenizer([f"{word} {word}" for word in WORDS], add_special_tokens=False, verbose=False)["input_ids"]
    return [word for word, tokens in zip(WORDS, ids, strict=True) if len(tokens) == 2]


def _pairs(tokenizer: Any, seed: int) -> Iterator[Pair]:
    words = single_token_words(tokenizer)
    if len(words) <= max(_LENGTHS):
        raise UsageError(
            f"induction needs {max(_LENGTHS) + 1} words that are one token each, and of its {len(WORDS)} words the model's tokenizer "
            f"has {len(words)} as such. A file of your own pairs takes its place."
        )

    def draw(number: int, generator: random.Random) -> Pair:
        n, _ = in_turn(_LENGTHS, number)
        *before, answer, other = generator.sample(words, n + 1)
        clean, corrupted = (" ".join([*before, last, *before]) for last in (answer, other))
        return Pair(
            str(number),
            clean,
            corrupted,
            answers(f" {answer}", f" {other}"),
            "first copy of the answer",
            f"{n} words, twice",
            {"answer": f" {answer}", "wrong": f" {other}"},
        )

    return draw_pairs(TASK.name, seed, draw)


TASK = Task("induction", "random words said twice: the word that comes again", "logit_diff", _pairs, "induction")
