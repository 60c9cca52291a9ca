"""A token sequence, and an example with its sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture.data.example import Example
from capture.sequences.encoding import SideTokens
from warehouse.errors import UsageError


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
