"""Turns multiple-choice questions into prompts for a decoder: which tokens it reads, and whose probability it is asked for.

Prompt and choice are tokenized as one text, and character offsets tell where the prompt ends, so that tokens are those of the
whole text; a token that holds the end of the prompt and the beginning of the choice belongs to the choice.
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
    """The tokens of a prompt with something after it."""

    tokens: SideTokens
    start: int
    """Position of the first token after the prompt."""


@dataclass(frozen=True)
class PromptMaker:
    """Writes each question as a prompt, and encodes the prompt alone or with each of its choices."""

    tokenizer: Any
    name: str
    """The model's name, for messages."""
    template: str = TEMPLATE
    """The prompt, with the slots {question} and {choices}."""
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template; the answer then begins the model's turn."""
    max_len: int | None = None
    """The most tokens of a prompt with a choice; None: there is no limit."""
    sequence_per_choice: bool = False
    """Make a sequence for each choice, the prompt with its text, instead of one for the prompt."""
    vocabulary: int | None = None
    """The number of rows of the model's embedding; None: don't check ids against it."""
    bos: BosPolicy = AUTO_BOS

    def __post_init__(self) -> None:
        """Check the template and the tokenizer.

        Raises:
            UsageError: The template lacks a slot, the tokenizer gives no offsets or has no chat template, or a BOS is asked for
                where a chat template says what a prompt begins with.
        """
        for slot in _SLOTS:
            if self.template.count(slot) != 1:
                raise UsageError(f"A template needs {' and '.join(_SLOTS)}, each once; this one has {slot} "
                                 f"{self.template.count(slot)} times.")  # fmt: skip
        if not getattr(self.tokenizer, "is_fast", False):
            raise UsageError(
                f"The tokenizer of {self.name} gives no character offsets, so that it is not known where a choice begins. A fast "
                "tokenizer is needed."
            )
        if self.chat and not getattr(self.tokenizer, "chat_template", None):
            raise UsageError(f"The tokenizer of {self.name} has no chat template: leave out --chat.")
        if self.chat:
            check_chat_template_bos(self.bos, self.name)

    def prompt(self, example: Example) -> str:
        """Write a question as a prompt.

        Returns:
            The text that the model reads.

        Raises:
            UsageError: The chat template fails.
        """
        row = example.row
        lines = "\n".join(f"{c.label}. {c.text}" for c in row.choices)
        before, after = self.template.split("{question}")
        text = before.replace("{choices}", lines) + row.text + after.replace("{choices}", lines)
        if not self.chat:
            return text
        turns = [{"role": "user", "content": text}]
        try:
            prompt: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as e:  # a template is a program of its own
            raise UsageError(
                f"{self.name}: its chat template fails on question {row.source_id}: {error_sentence(e)}"
            ) from e
        return prompt

    def tokenize(self, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
        """Yield each question with its sequences, after a check that its choices can be scored."""
        changes_text = text_change_detector(self.tokenizer)
        for group in group_examples(examples):
            questions = [e for _, e in group]
            choices, letters = self.choices(questions), self.letters(questions)
            for example, continuations, (_, letter_ids) in zip(questions, choices, letters, strict=True):
                self._check(example, continuations, letter_ids)
            for (idx, example), sequences in zip(group, self.sequences(questions), strict=True):
                yield TokenizedExample(idx, example, sequences, False, changes_text(self.prompt(example)))

    def sequences(self, examples: list[Example]) -> list[list[TokenSequence]]:
        """Return the sequences of each question, in the order of its choices."""
        prompts = [self.prompt(e) for e in examples]
        if self.sequence_per_choice:
            return [
                [
                    TokenSequence(e, i, {"dec": c.tokens}, self._join(p, e.row.choices[i].text))
                    for i, c in enumerate(continued)
                ]
                for e, p, continued in zip(examples, prompts, self._with_choices(examples), strict=True)
            ]
        return [
            [TokenSequence(e, 0, {"dec": tokens}, p if tokens.char_end.max(initial=0) <= len(p) else self._join(p, ""))]
            for e, p, (tokens, _) in zip(examples, prompts, self.letters(examples), strict=True)
        ]

    def letters(self, examples: list[Example]) -> list[tuple[SideTokens, np.ndarray]]:
        """Encode each question's prompt up to where the letters of its choices come next.

        Args:
            examples: The questions.

        Returns:
            For each question the prompt's tokens (with the space before the letter, where that is a token of its own), and (C,)
            ids of the letters.

        Raises:
            UsageError: A letter is more than one token.
        """
        texts = [(self.prompt(e), c.label) for e in examples for c in e.row.choices]
        continued = iter(self._continue(texts))
        encoded = []
        for example in examples:
            prompts = [next(continued).tokens for _ in example.row.choices]
            n = len(prompts[0]) - 1
            ids = np.asarray([p.ids[-1] for p in prompts])
            same = all(len(p) == n + 1 and np.array_equal(p.ids[:n], prompts[0].ids[:n]) for p in prompts)
            if not same or len(set(ids.tolist())) < len(ids):
                raise UsageError(
                    f"{self.name}: the letters {', '.join(c.label for c in example.row.choices)} are not one token each after the "
                    "prompt, so that they have no logits to compare. Another --template may end otherwise."
                )
            encoded.append((prompts[0].slice(0, n), ids))
        return encoded

    def choices(self, examples: list[Example]) -> list[list[Continuation]]:
        """Encode each question's prompt with the text of each of its choices after it."""
        return [[Continuation(c.tokens.ids, c.start) for c in continued] for continued in self._with_choices(examples)]

    def _with_choices(self, examples: list[Example]) -> list[list[_ContinuedPrompt]]:
        texts = [(self.prompt(e), c.text) for e in examples for c in e.row.choices]
        continued = iter(self._continue(texts))
        return [[next(continued) for _ in e.row.choices] for e in examples]

    def _continue(self, texts: list[tuple[str, str]]) -> list[_ContinuedPrompt]:
        """Encode prompts with something after them, without the tokens that a tokenizer adds at the end."""
        encoded = encode(self.tokenizer, [self._join(*pair) for pair in texts], special=not self.chat, bos=self.bos)
        continued = []
        for (prompt, _), tokens in zip(texts, encoded, strict=True):
            end = len(tokens)
            while end and tokens.is_special[end - 1]:
                end -= 1
            tokens = tokens.slice(0, end)
            later = np.flatnonzero(tokens.char_end > len(prompt))
            continued.append(_ContinuedPrompt(tokens, int(later[0]) if len(later) else end))
        return continued

    def _join(self, prompt: str, answer: str) -> str:
        return prompt + ("" if self.chat else " ") + answer

    def _check(self, example: Example, continuations: list[Continuation], letters: np.ndarray) -> None:
        """Raise UsageError where the choices of a question cannot be scored."""
        where = f"Question {example.row.source_id}"
        if self.vocabulary is not None:
            for ids in (letters, *(c.ids for c in continuations)):
                check_ids(ids, self.vocabulary, self.tokenizer, self.name, where)
        for choice, c in zip(example.row.choices, continuations, strict=True):
            if not choice.text.strip() or not 0 < c.start < len(c):
                raise UsageError(f"{where}: choice {choice.label} has no text that could be scored.")
        longest = max(map(len, continuations))
        if self.max_len is not None and longest > self.max_len:
            raise UsageError(
                f"{where}: its prompt with a choice has {longest} tokens, and {self.name} may read {self.max_len}. A prompt is "
                "not cut, since its end is where the answer is asked for: see --max-len and --template."
            )
