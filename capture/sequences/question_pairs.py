"""Turns multiple-choice questions into pairs for an encoder: the question with one of its choices, a sequence for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from capture.data.example import Example
from capture.sequences.encoding import encode, text_change_detector
from capture.sequences.sequence import SideTokens, TokenizedExample, TokenSequence
from capture.sequences.tokenize import group_examples
from warehouse.errors import UsageError


@dataclass(frozen=True)
class PairMaker:
    """Encodes each question with each of its choices."""

    tokenizer: Any
    name: str
    """The model's name, for messages."""
    max_len: int | None = None
    """The most tokens of a pair; None: there is no limit."""

    def __post_init__(self) -> None:
        """Check that the tokenizer has the offsets that tell the two texts apart.

        Raises:
            UsageError: It has none.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise UsageError(
                f"The tokenizer of {self.name} gives no character offsets, so that question and choice cannot be told apart. A "
                "fast tokenizer is needed."
            )

    def tokenize(self, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
        """Yield each question with a sequence for each choice; a question that is too long with a choice is cut."""
        changes_text = text_change_detector(self.tokenizer)
        for group in group_examples(examples):
            texts = [e.text for _, e in group for _ in e.row.choices]
            answers = [c.text for _, e in group for c in e.row.choices]
            pairs = iter(encode(self.tokenizer, texts, answers))
            for idx, example in group:
                whole = [next(pairs) for _ in example.row.choices]
                fitting = [self._cut(example, i, tokens) for i, tokens in enumerate(whole)]
                sequences = [
                    TokenSequence(example, i, {"enc": tokens}, f"{example.text}\n{example.row.choices[i].text}")
                    for i, tokens in enumerate(fitting)
                ]
                truncated = any(len(a) < len(b) for a, b in zip(fitting, whole, strict=True))
                altered = any(map(changes_text, (example.text, *(c.text for c in example.row.choices))))
                yield TokenizedExample(idx, example, sequences, truncated, altered)

    def _cut(self, example: Example, choice: int, tokens: SideTokens) -> SideTokens:
        """Cut the question of a pair that is too long; raise UsageError where the choice alone is too long."""
        if self.max_len is None or len(tokens) <= self.max_len:
            return tokens
        question_tokens = int(((tokens.char_start >= 0) & (tokens.char_end <= len(example.text))).sum())
        if len(tokens) - question_tokens >= self.max_len:
            raise UsageError(
                f"Question {example.row.source_id}: choice {choice} alone is longer than the {self.max_len} tokens that "
                f"{self.name} may read."
            )
        (cut,) = encode(self.tokenizer, [example.text], [example.row.choices[choice].text], max_len=self.max_len)
        return cut
