"""Multiple-choice questions as prompts for a decoder: which tokens it reads, and which it is asked the probability of.

Where a prompt ends and a choice begins is told by character offsets in one tokenization of both, so that tokens are those that
the whole text has; a token that holds the end of the prompt and the beginning of the choice belongs to the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture.data.example import Example
from capture.model.continuations import Continuation
from capture.model.failures import error_sentence
from capture.sequences.bos import AUTO_BOS, BosPolicy, check_chat_template_bos
from capture.sequences.encoding import encode, text_change_detector
from capture.sequences.sequence import SideTokens, TokenizedExample, TokenSequence, check_ids
from capture.sequences.tokenize import group_examples
from warehouse.errors import UsageError

TEMPLATE = "{question}\nChoices:\n{choices}\nAnswer:"
_SLOTS = ("{question}", "{choices}")


@dataclass(frozen=True)
class _ContinuedPrompt:
    """What a model reads of a prompt with something after it."""

    part: SideTokens
    start: int
    """Place of the first token that is not of the prompt alone."""


@dataclass(frozen=True)
class PromptMaker:
    tokenizer: Any
    name: str
    """The model's, for messages."""
    template: str = TEMPLATE
    chat: bool = False
    """Put the prompt to the model through its tokenizer's chat template; the answer then begins the model's turn."""
    max_len: int | None = None
    sequence_per_choice: bool = False
    """A sequence for each choice, the prompt and its text, instead of one for the prompt."""
    vocabulary: int | None = None
    """Rows of the model's embedding; None: tokens are not looked up in it."""
    bos: BosPolicy = AUTO_BOS

    def __post_init__(self) -> None:
        """Raises UsageError for a template without its slots, for a tokenizer that cannot do what is asked, and for a BOS where a
        chat template says what a prompt begins with.
        """
        for slot in _SLOTS:
            if self.template.count(slot) != 1:
                raise UsageError(f"A template needs {' and '.join(_SLOTS)}, each once; this one has {slot} "
                                 f"{self.template.count(slot)} times.")  # fmt: skip
        if not getattr(self.tokenizer, "is_fast", False):
            raise UsageError(
                f"The tokenizer of {self.name} tells no character offsets, so that where a choice begins is not known. A fast "
                "tokenizer is needed."
            )
        if self.chat and not getattr(self.tokenizer, "chat_template", None):
            raise UsageError(f"The tokenizer of {self.name} has no chat template: leave out --chat.")
        if self.chat:
            check_chat_template_bos(self.bos, self.name)

    def prompt(self, example: Example) -> str:
        row = example.row
        lines = "\n".join(f"{c.label}. {c.text}" for c in row.choices)
        before, after = self.template.split("{question}")
        text = before.replace("{choices}", lines) + row.text + after.replace("{choices}", lines)
        if not self.chat:
            return text
        turns = [{"role": "user", "content": text}]
        try:
            found: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as e:  # a template is a program of its own
            raise UsageError(f"{self.name}: its chat template fails on question {row.source_id}: {error_sentence(e)}") from e
        return found

    def tokenize(self, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
        """Raises UsageError where a prompt with a choice is longer than the model may read, where a choice has no text, or its
        letter is no token of its own.
        """
        alters = text_change_detector(self.tokenizer)
        for group in group_examples(examples):
            asked = [e for _, e in group]
            for example, found, (_, letters) in zip(asked, self.choices(asked), self.letters(asked), strict=True):
                self._check(example, found, letters)
            for (idx, example), sequences in zip(group, self.sequences(asked), strict=True):
                yield TokenizedExample(idx, example, sequences, False, alters(self.prompt(example)))

    def sequences(self, examples: list[Example]) -> list[list[TokenSequence]]:
        """What the model reads of each question, in the order of the choices."""
        prompts = [self.prompt(e) for e in examples]
        if self.sequence_per_choice:
            return [
                [TokenSequence(e, i, {"dec": c.part}, self._joined(p, e.row.choices[i].text)) for i, c in enumerate(found)]
                for e, p, found in zip(examples, prompts, self._with_choices(examples), strict=True)
            ]
        return [
            [TokenSequence(e, 0, {"dec": part}, p if part.char_end.max(initial=0) <= len(p) else self._joined(p, ""))]
            for e, p, (part, _) in zip(examples, prompts, self.letters(examples), strict=True)
        ]

    def letters(self, examples: list[Example]) -> list[tuple[SideTokens, np.ndarray]]:
        """Of each question the prompt up to where its choices' letters come next (with the space before them, where that is a
        token of its own), and (C,) the ids of those letters. Raises UsageError where a letter is more than one token.
        """
        wanted = [(self.prompt(e), c.label) for e in examples for c in e.row.choices]
        found = iter(self._continued(wanted))
        answer = []
        for example in examples:
            mine = [next(found).part for _ in example.row.choices]
            n = len(mine[0]) - 1
            ids = np.asarray([part.ids[-1] for part in mine])
            same = all(len(p) == n + 1 and np.array_equal(p.ids[:n], mine[0].ids[:n]) for p in mine)
            if not same or len(set(ids.tolist())) < len(ids):
                raise UsageError(
                    f"{self.name}: the letters {', '.join(c.label for c in example.row.choices)} are not one token each after the "
                    "prompt, so that they have no logits to compare. Another --template may end otherwise."
                )
            answer.append((mine[0].slice(0, n), ids))
        return answer

    def choices(self, examples: list[Example]) -> list[list[Continuation]]:
        """Of each question, its prompt with each choice's text after it."""
        return [[Continuation(c.part.ids, c.start) for c in found] for found in self._with_choices(examples)]

    def _with_choices(self, examples: list[Example]) -> list[list[_ContinuedPrompt]]:
        wanted = [(self.prompt(e), c.text) for e in examples for c in e.row.choices]
        found = iter(self._continued(wanted))
        return [[next(found) for _ in e.row.choices] for e in examples]

    def _continued(self, wanted: list[tuple[str, str]]) -> list[_ContinuedPrompt]:
        """Prompts with something after them, without the tokens that a tokenizer adds at the end."""
        parts = encode(self.tokenizer, [self._joined(*w) for w in wanted], special=not self.chat, bos=self.bos)
        found = []
        for (prompt, _), part in zip(wanted, parts, strict=True):
            end = len(part)
            while end and part.is_special[end - 1]:
                end -= 1
            part = part.slice(0, end)
            later = np.flatnonzero(part.char_end > len(prompt))
            found.append(_ContinuedPrompt(part, int(later[0]) if len(later) else end))
        return found

    def _joined(self, prompt: str, answer: str) -> str:
        return prompt + ("" if self.chat else " ") + answer

    def _check(self, example: Example, found: list[Continuation], letters: np.ndarray) -> None:
        """Raises UsageError where the choices of a question cannot be scored."""
        where = f"Question {example.row.source_id}"
        if self.vocabulary is not None:
            for ids in (letters, *(c.ids for c in found)):
                check_ids(ids, self.vocabulary, self.tokenizer, self.name, where)
        for choice, c in zip(example.row.choices, found, strict=True):
            if not choice.text.strip() or not 0 < c.start < len(c):
                raise UsageError(f"{where}: choice {choice.label} has no text that could be scored.")
        longest = max(map(len, found))
        if self.max_len is not None and longest > self.max_len:
            raise UsageError(
                f"{where}: its prompt with a choice has {longest} tokens, and {self.name} may read {self.max_len}. A prompt is "
                "not cut, since its end is where the answer is asked for: see --max-len and --template."
            )
