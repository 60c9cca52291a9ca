"""Encodes the two prompts of a pair, and finds the tokens that its metrics are about, or says why the pair does not fit.

In: a tokenizer and a task's pairs. Out: `EncodedPair`, or `Unfit`. The tokens that follow a prompt are found by one rule for all
tokenizers: prompt and continuation are tokenized as one text, which has to begin with the prompt's own tokens. Knows nothing of
models or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from capture.data.files import printable_value
from capture.data.tasks.task import Pair
from capture.sequences.bos import AUTO_BOS, BosPolicy
from capture.sequences.encoding import encode
from capture.sequences.sequence import SideTokens


class Reason(Enum):
    """Why pairs do not fit a tokenizer, as one says it of several."""

    EMPTY = "a prompt without tokens"
    LONG = "a prompt longer than the model's window"
    UNEQUAL = "prompts of unequal length"
    SAME = "prompts of the same tokens"
    MERGED = "a prompt whose tokens change when its answer follows"
    SEVERAL = "targets of several tokens"
    NO_TARGET = "no token that is right, or none that is wrong"


@dataclass(frozen=True)
class Unfit:
    """A pair that does not fit, and why."""

    reason: Reason
    detail: str
    """The reason in the words of this pair: `its clean prompt has 17 tokens, its corrupted one 18`."""


@dataclass(frozen=True)
class EncodedPair:
    """A pair in tokens: as many of its clean prompt as of its corrupted one."""

    pair: Pair
    clean: SideTokens
    corrupted: SideTokens
    targets: dict[int, int]
    """Token id → 1: an answer to the clean prompt; -1: a wrong one."""

    @property
    def changed(self) -> np.ndarray:
        """The positions at which the two prompts have different tokens."""
        return np.flatnonzero(self.clean.ids != self.corrupted.ids)


@dataclass(frozen=True)
class PairEncoder:
    """Encodes pairs with a model's tokenizer."""

    tokenizer: Any
    window: int | None = None
    """The most tokens of a prompt; None: there is no limit."""
    bos: BosPolicy = AUTO_BOS
    whole_answers: bool = True
    """A continuation must be one token; else the token that it begins with counts."""

    def encode(self, pair: Pair) -> EncodedPair | Unfit:
        """Encode a pair.

        Returns:
            The pair in tokens, or why it does not fit.
        """
        prompts = self._encode([pair.clean, pair.corrupted])
        clean, corrupted = prompts
        n = len(clean)
        if not (n and len(corrupted)):
            return Unfit(Reason.EMPTY, "a prompt has no tokens")
        if n != len(corrupted):
            return Unfit(Reason.UNEQUAL, f"its clean prompt has {n} tokens, its corrupted one {len(corrupted)}")
        if self.window is not None and n > self.window:
            return Unfit(Reason.LONG, f"its prompts have {n} tokens, and the model was made for {self.window}")
        if np.array_equal(clean.ids, corrupted.ids):
            return Unfit(Reason.SAME, "its two prompts are the same tokens")
        firsts = []
        for text, prompt in zip((pair.clean, pair.corrupted), prompts, strict=True):
            found = self._following(text, prompt, list(pair.continuations))
            if isinstance(found, Unfit):
                return found
            firsts.append(found)
        if firsts[0] != firsts[1]:
            return Unfit(
                Reason.MERGED, "an answer is another token after its clean prompt than after its corrupted one"
            )
        targets = _signed(firsts[0], list(pair.continuations.values()))
        if set(targets.values()) != {1, -1}:
            return Unfit(Reason.NO_TARGET, "no token is right, or none is wrong")
        return EncodedPair(pair, clean, corrupted, targets)

    def _following(self, text: str, prompt: SideTokens, continuations: list[str]) -> list[int] | Unfit:
        """Return the token that comes first after a prompt in each of its continuations, or why there is none."""
        own, firsts = prompt.ids[~prompt.is_special].tolist(), []
        texts = [text + continuation for continuation in continuations]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for continuation, ids in zip(continuations, encoded, strict=True):
            shown, after = repr(printable_value(continuation, 40)), ids[len(own) :]
            if not after or ids[: len(own)] != own:
                return Unfit(Reason.MERGED, f"with {shown} after it, its prompt is cut into other tokens")
            if self.whole_answers and len(after) > 1:
                pieces = " ".join(printable_value(p, 40) for p in self.tokenizer.convert_ids_to_tokens(after[:8]))
                return Unfit(Reason.SEVERAL, f"{shown} is {len(after)} tokens after its prompt ({pieces}), and not one")
            firsts.append(after[0])
        return firsts

    def _encode(self, texts: list[str]) -> list[SideTokens]:
        """Encode texts without the tokens that a tokenizer adds at the end: something is to follow."""
        encoded = []
        for tokens in encode(self.tokenizer, texts, bos=self.bos):
            end = len(tokens)
            while end and tokens.is_special[end - 1]:
                end -= 1
            encoded.append(tokens.slice(0, end))
        return encoded


def _signed(tokens: Sequence[int], signs: Sequence[int]) -> dict[int, int]:
    """Return the tokens all of whose continuations are right, or all wrong, with that sign."""
    by_token: dict[int, set[int]] = {}
    for token, sign in zip(tokens, signs, strict=True):
        by_token.setdefault(token, set()).add(sign)
    return {token: found.pop() for token, found in by_token.items() if found in ({1}, {-1})}
