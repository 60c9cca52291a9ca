"""A token sequence, and an example with its sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture.data.example import Example
from warehouse.errors import UsageError


@dataclass(frozen=True)
class SideTokens:
    """What one stack of the model reads of a sequence. All arrays are (T,)."""

    ids: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    """Characters in the text; -1 where a token has no place in it."""
    word_idx: np.ndarray
    """-1 where a token belongs to no word."""
    is_special: np.ndarray
    types: np.ndarray | None = None
    """Which text of a pair each token is of, where the model is told (`token_type_ids`)."""
    is_response: np.ndarray | None = None
    """Which tokens the model generated, where it did."""
    is_context: np.ndarray | None = None
    """Which tokens an earlier sequence of the text has too, where windows overlap."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_predicted(self) -> np.ndarray:
        """(T - 1,) bool: which tokens after the first are predicted; those that are there as context were predicted before."""
        return np.ones(max(len(self) - 1, 0), bool) if self.is_context is None else ~self.is_context[1:]

    def slice(self, start: int, end: int) -> SideTokens:
        return SideTokens(
            self.ids[start:end],
            self.char_start[start:end],
            self.char_end[start:end],
            self.word_idx[start:end],
            self.is_special[start:end],
            None if self.types is None else self.types[start:end],
            None if self.is_response is None else self.is_response[start:end],
            None if self.is_context is None else self.is_context[start:end],
        )

    def with_prefix(self, token: int) -> SideTokens:
        """The same with a special token before it."""
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
    """What goes through the model as one row."""

    example: Example
    seq: int
    sides: Mapping[str, SideTokens]
    """By side: one, or a decoder's and an encoder's."""
    text: str | None = None
    """What was tokenized, where that is not the example's text."""

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.sides.values()))

    @property
    def lengths(self) -> dict[str, int]:
        """By side."""
        return {side: len(part) for side, part in self.sides.items()}


@dataclass(frozen=True)
class TokenizedExample:
    """An example with its sequences: none where the text has no tokens."""

    idx: int
    example: Example
    sequences: list[TokenSequence]
    truncated: bool
    altered: bool
    """Whether the tokenizer changed the text before it cut it into tokens."""


def check_ids(ids: np.ndarray, vocabulary: int, tokenizer: Any, name: str, where: str) -> None:
    """Raises UsageError where a token has no row in the embedding of the model `name`, which has `vocabulary` of them."""
    beyond = ids[(ids < 0) | (ids >= vocabulary)]
    if len(beyond):
        first = int(beyond[0])
        raise UsageError(
            f"{where}: the tokenizer of {name} gives {tokenizer.convert_ids_to_tokens(first)!r} the id {first}; it has "
            f"{len(tokenizer):,} tokens, and the model's embedding has {vocabulary:,} rows. They don't belong together: use the "
            "tokenizer that the model was trained with."
        )
