"""Token ids, and perhaps their texts, of which a file tells → a text with tokens that have places in it.

With a tokenizer the text is what the ids decode to, without special tokens around it, and places are those of the tokenizer where it cuts
the text the same way. Without one the tokens' own texts are joined, or, where there are none either, ids stand in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture.sequences.decoding import decode_sequences
from capture.sequences.encoding import encode
from capture.sequences.sequence import SideTokens


class KnownTokens:
    """Stands in for a tokenizer where there is none: texts of tokens as the file has them, else their ids."""

    is_fast = False

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}

    def batch_decode(self, sequences: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """Return the text of each sequence."""
        return ["".join(self.texts.get(i, f"#{i}") for i in ids) for ids in sequences]


@dataclass(frozen=True)
class TokenTexts:
    """Makes texts of tokens."""

    tokenizer: Any
    """A tokenizer of transformers, or `KnownTokens`."""

    def text(self, ids: np.ndarray, tokens: list[str] | None) -> tuple[str, SideTokens]:
        """Return the text of a sequence, and its tokens with their places.

        Args:
            ids: Token ids (T,).
            tokens: Their texts, where the file has them.

        Returns:
            The text, and the tokens.
        """
        if isinstance(self.tokenizer, KnownTokens):
            return self._joined(ids, tokens)
        special = np.isin(ids, getattr(self.tokenizer, "all_special_ids", []))
        inner = np.flatnonzero(~special)
        first, last = (int(inner[0]), int(inner[-1]) + 1) if len(inner) else (len(ids), len(ids))
        body = ids[first:last]
        text = decode_sequences(self.tokenizer, [body.tolist()])[0]
        (again,) = encode(self.tokenizer, [text], special=False)
        places = np.full((2, len(ids)), -1)
        words = np.full(len(ids), -1)
        if np.array_equal(again.ids, body):
            places[:, first:last], words[first:last] = (again.char_start, again.char_end), again.word_idx
        outside = np.ones(len(ids), bool)
        outside[first:last] = False
        return text, SideTokens(ids, places[0], places[1], words, outside)

    def _joined(self, ids: np.ndarray, tokens: list[str] | None) -> tuple[str, SideTokens]:
        none, own = np.full(len(ids), -1), np.zeros(len(ids), bool)
        if tokens is None:
            return " ".join(f"#{i}" for i in ids.tolist()), SideTokens(ids, none, none, none, own)
        self.tokenizer.texts.update(zip(ids.tolist(), tokens, strict=True))
        ends = np.cumsum([len(t) for t in tokens])
        return "".join(tokens), SideTokens(ids, np.concatenate([[0], ends[:-1]]), ends, none, own)
