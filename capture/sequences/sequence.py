"""What a token sequence is: the tokens that each stack of a model reads as one row, and the example that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture.data.example import Example
from warehouse.errors import UsageError


@dataclass(frozen=True)
class SideTokens:
    """The tokens that one stack of the model reads of a sequence. All arrays are (T,)."""

    ids: np.ndarray
    """Token ids, int64."""
    char_start: np.ndarray
    """The token's first character in the text; -1 where a token has no place in it."""
    char_end: np.ndarray
    """One past the token's last character; -1 where it has no place in the text."""
    word_idx: np.ndarray
    """The token's word, by its place in the example's words; -1 where it belongs to none."""
    is_special: np.ndarray
    """Which tokens the tokenizer added to the text."""
    types: np.ndarray | None = None
    """Which text of a pair each token is of, where the model is told (`token_type_ids`)."""
    is_response: np.ndarray | None = None
    """Which tokens the model generated, where it did."""
    is_context: np.ndarray | None = None
    """Which tokens an earlier sequence of the text also has, where windows overlap."""
    turn: np.ndarray | None = None
    """The message of a chat that each token is of; -1: the chat template's own."""
    part: np.ndarray | None = None
    """The place in `chat.PARTS` of what of the message it is; -1: what the template puts around it."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_predicted(self) -> np.ndarray:
        """(T - 1,) bool: which tokens after the first are predicted; context was predicted in an earlier sequence."""
        return np.ones(max(len(self) - 1, 0), bool) if self.is_context is None else ~self.is_context[1:]

    def slice(self, start: int, end: int) -> SideTokens:
        """Return the tokens from `start` to before `end`."""
        return SideTokens(
            self.ids[start:end],
            self.char_start[start:end],
            self.char_end[start:end],
            self.word_idx[start:end],
            self.is_special[start:end],
            None if self.types is None else self.types[start:end],
            None if self.is_response is None else self.is_response[start:end],
            None if self.is_context is None else self.is_context[start:end],
            None if self.turn is None else self.turn[start:end],
            None if self.part is None else self.part[start:end],
        )

    def with_prefix(self, token: int) -> SideTokens:
        """Return these tokens with a special token before them; only ids, places and `is_special` are kept."""
        none = np.full(1, -1)
        return SideTokens(
            np.concatenate([np.full(1, token, np.int64), self.ids]),
            np.concatenate([none, self.char_start]),
            np.concatenate([none, self.char_end]),
            np.concatenate([none, self.word_idx]),
            np.concatenate([np.ones(1, bool), self.is_special]),
        )


@dataclass(frozen=True)
class TokenSequence:
    """What goes through the model as one row of a batch."""

    example: Example
    seq: int
    """The sequence's number within its example, 0-based."""
    sides: Mapping[str, SideTokens]
    """Tokens by side: `dec` or `enc`, or both for an encoder-decoder."""
    text: str | None = None
    """What was tokenized, where that is not the example's text."""
    roles: tuple[str, ...] = ()
    """The role of each turn, where it is a chat."""

    @property
    def n_tokens(self) -> int:
        """The number of tokens on all sides."""
        return sum(map(len, self.sides.values()))

    @property
    def lengths(self) -> dict[str, int]:
        """The number of tokens by side."""
        return {side: len(tokens) for side, tokens in self.sides.items()}


@dataclass(frozen=True)
class TokenizedExample:
    """An example with its sequences; there are none where the text has no tokens."""

    idx: int
    """The example's place in the data, 0-based."""
    example: Example
    sequences: list[TokenSequence]
    truncated: bool
    """Tokens were left out because the text was too long."""
    altered: bool
    """The tokenizer changed the text before it split it into tokens."""


def check_ids(ids: np.ndarray, vocabulary: int, tokenizer: Any, name: str, where: str) -> None:
    """Check that every token has a row in the model's embedding.

    Args:
        ids: Token ids, of any shape.
        vocabulary: The number of rows in the embedding.
        tokenizer: The tokenizer that gave the ids.
        name: The model's name, for the message.
        where: What the message begins with: the example or question.

    Raises:
        UsageError: A token has no row.
    """
    beyond = ids[(ids < 0) | (ids >= vocabulary)]
    if len(beyond):
        first = int(beyond[0])
        raise UsageError(
            f"{where}: the tokenizer of {name} gives {tokenizer.convert_ids_to_tokens(first)!r} the id {first}; it has "
            f"{len(tokenizer):,} tokens, and the model's embedding has {vocabulary:,} rows. They don't belong together: use the "
            "tokenizer that the model was trained with."
        )
