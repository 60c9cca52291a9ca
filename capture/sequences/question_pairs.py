"""Multiple-choice questions as pairs for an encoder: the question and one of its choices, a sequence for each choice."""

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
    tokenizer: Any
    name: str
    """The model's, for messages."""
    max_len: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a tokenizer that cannot tell the two texts apart."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise UsageError(
                f"The tokenizer of {self.name} tells no character offsets, so that question and choice cannot be told apart. A "
                "fast tokenizer is needed."
            )

    def tokenize(self, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
        """A question that is too long with one of its choices is cut. Raises UsageError where a choice alone is too long."""
        alters = text_change_detector(self.tokenizer)
        for group in group_examples(examples):
            texts = [e.text for _, e in group for _ in e.row.choices]
            answers = [c.text for _, e in group for c in e.row.choices]
            parts = iter(encode(self.tokenizer, texts, answers))
            for idx, example in group:
                whole = [next(parts) for _ in example.row.choices]
                fitting = [self._cut(example, i, part) for i, part in enumerate(whole)]
                sequences = [
                    TokenSequence(example, i, {"enc": part}, f"{example.text}\n{example.row.choices[i].text}")
                    for i, part in enumerate(fitting)
                ]
                truncated = any(len(a) < len(b) for a, b in zip(fitting, whole, strict=True))
                altered = any(map(alters, (example.text, *(c.text for c in example.row.choices))))
                yield TokenizedExample(idx, example, sequences, truncated, altered)

    def _cut(self, example: Example, choice: int, part: SideTokens) -> SideTokens:
        if self.max_len is None or len(part) <= self.max_len:
            return part
        of_question = int(((part.char_start >= 0) & (part.char_end <= len(example.text))).sum())
        if len(part) - of_question >= self.max_len:
            raise UsageError(
                f"Question {example.row.source_id}: choice {choice} alone is longer than the {self.max_len} tokens that "
                f"{self.name} may read."
            )
        (cut,) = encode(self.tokenizer, [example.text], [example.row.choices[choice].text], max_len=self.max_len)
        return cut
