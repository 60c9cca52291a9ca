"""Turns examples into token sequences: the text or its transcripts, cut or in windows, and an encoder-decoder's target.

In: examples, in the order of the data. Out: `TokenizedExample`s, whose sequences `batches` groups. `question_pairs` and
`question_prompts` do the same for multiple-choice questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from capture.data.example import Example
from capture.data.files import printable_value
from capture.data.transcript import Chat
from capture.sequences.bos import AUTO_BOS, BosPolicy
from capture.sequences.chat import ChatTemplate, WrittenChat
from capture.sequences.encoding import SequenceFrame, encode_truncated, encode_windows, find_frame, text_change_detector
from capture.sequences.sequence import SideTokens, TokenizedExample, TokenSequence
from capture.sequences.word_alignment import word_indices
from warehouse.errors import UsageError

_TOKENIZED_AT_ONCE = 64


@dataclass(frozen=True)
class SequenceMaker:
    """How a kind of capture turns examples into sequences, and what holds for all of them."""

    tokenize: Callable[[Iterable[Example]], Iterator[TokenizedExample]]
    sides: tuple[str, ...]
    """The sides that a sequence has tokens on."""
    max_len: int | None
    """The most tokens of a sequence on one side; None: there is no limit."""
    keep_together: bool = False
    """The sequences of an example go through the model in one batch."""
    first_token: int | None = None
    """The special token that every sequence of a decoder begins with, where one is added to the text."""
    chat_template: bool = False
    """A chat template determines what a sequence begins with."""


@dataclass(frozen=True)
class TokenizeOptions:
    """How texts become sequences."""

    tokenizer: Any
    side: str
    """The stack that reads the text."""
    max_len: int | None
    """The most tokens of a sequence of the text; None: there is no limit."""
    chunk: bool = False
    """Continue a long text in the next sequence, instead of cutting it."""
    target_column: str | None = None
    """The field of an example's metadata that an encoder-decoder's decoder reads."""
    start_id: int | None = None
    """The token that the decoder begins with."""
    target_len: int | None = None
    """The most tokens that the decoder reads, its first among them."""
    stride: int | None = None
    """With `chunk`: the number of tokens of text from one sequence's beginning to the next one's; None: they don't overlap."""
    bos: BosPolicy = AUTO_BOS
    template: ChatTemplate | None = None
    """What writes the examples, where they are chats."""

    @property
    def frame(self) -> SequenceFrame:
        """What stands around a text, and the room for it; raises UsageError where there is none."""
        return find_frame(self.tokenizer, self.bos, self.max_len, special=self.template is None)

    def sequence_maker(self) -> SequenceMaker:
        """Check the options.

        Returns:
            What makes sequences with them.

        Raises:
            UsageError: A sequence has no room for text, or a stride is longer than a sequence.
        """
        frame = self.frame
        if self.stride is not None and frame.text_room is not None and self.stride > frame.text_room:
            raise UsageError(
                f"--stride {self.stride} is more than the {frame.text_room} tokens of text that a sequence holds: use 1 to "
                f"{frame.text_room}."
            )
        if self.target_column is None:
            first_token = frame.first_token if self.side == "dec" else None
            made = partial(tokenize, options=self)
            templated = self.template is not None
            return SequenceMaker(made, (self.side,), self.max_len, first_token=first_token, chat_template=templated)
        self.target_frame()
        both = self.max_len is not None and self.target_len is not None
        longest = max(self.max_len or 0, self.target_len or 0) if both else None
        return SequenceMaker(partial(tokenize, options=self), ("dec", "enc"), longest)

    def target_frame(self) -> SequenceFrame:
        """Return the frame of what the decoder reads after its start token."""
        return find_frame(self.tokenizer, max_len=None if self.target_len is None else self.target_len - 1, target=True)


def tokenize(examples: Iterable[Example], options: TokenizeOptions) -> Iterator[TokenizedExample]:
    """Turn examples into sequences, with the text cut to `max_len` tokens, or with `chunk` in as many sequences as it takes.

    Args:
        examples: The examples, in the order of the data.
        options: How texts become sequences.

    Yields:
        Each example with its sequences.

    Raises:
        UsageError: An example with scores is to be cut into several sequences.
    """
    changes_text, column = text_change_detector(options.tokenizer), options.target_column
    frame = options.frame
    opening = "" if frame.first_token is None else options.tokenizer.decode([frame.first_token])
    for group in group_examples(examples):
        if options.chunk and (scored := next((e for _, e in group if e.row.evaluations), None)):
            raise UsageError(
                f"--chunk and --stride don't go with scores, which are of whole sequences: {example_name(scored)} has some. --max-len "
                "cuts instead."
            )
        readings = [_readings(e, options.template, opening) for _, e in group]
        texts = [reading.text for of_example in readings for reading in of_example]
        if options.chunk:
            encoded = [(windows, False) for windows in encode_windows(options.tokenizer, texts, frame, options.stride)]
        else:
            encoded = [([tokens], truncated) for tokens, truncated in encode_truncated(options.tokenizer, texts, frame)]
        of_readings = iter(encoded)
        targets = [_target(e, column) if column is not None else None for _, e in group]
        encoded_targets = _encode_targets(options, group, targets)
        for (idx, example), of_example, target, (target_tokens, target_truncated) in zip(
            group, readings, targets, encoded_targets, strict=True
        ):
            sequences: list[TokenSequence] = []
            truncated = target_truncated
            for reading, (windows, cut) in zip(of_example, of_readings, strict=False):
                truncated |= cut
                for tokens in filter(len, windows):
                    told = _add_words(reading.tell(tokens), example, options.tokenizer)
                    sides = _sides(options.side, told, target_tokens)
                    sequences.append(TokenSequence(example, len(sequences), sides, reading.own_text, reading.roles))
            altered = any(changes_text(r.text) for r in of_example) or (target is not None and changes_text(target))
            yield TokenizedExample(idx, example, sequences, truncated, altered)


@dataclass(frozen=True)
class _Reading:
    """What is tokenized of an example: its text, or one of its transcripts."""

    text: str
    chat: WrittenChat | None = None
    response_start: int | None = None
    """The first character of the response, where it is a prompt with one."""

    @property
    def own_text(self) -> str | None:
        """The text, where it is not the example's."""
        return None if self.chat is None and self.response_start is None else self.text

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each turn, where it is a chat."""
        return () if self.chat is None else self.chat.roles

    def tell(self, tokens: SideTokens) -> SideTokens:
        """Return tokens of the text with the message or response that they are of."""
        if self.chat is not None:
            return self.chat.tell(tokens)
        if self.response_start is None:
            return tokens
        return replace(tokens, is_response=tokens.char_end > self.response_start)


def _readings(example: Example, template: ChatTemplate | None, opening: str) -> list[_Reading]:
    """Return what a model reads of an example, one sequence each unless it is long; a BOS is not written where `opening` adds it."""
    readings = []
    for transcript in example.row.transcripts:
        if not isinstance(transcript, Chat):
            written_out = len(opening) if opening and transcript.prompt.startswith(opening) else 0
            readings.append(
                _Reading(transcript.text[written_out:], response_start=len(transcript.prompt) - written_out)
            )
            continue
        assert template is not None  # `Source.chats` says that it is needed
        written = template.write(transcript, example_name(example))
        readings.append(_Reading(written.text, written))
    return readings or [_Reading(example.text)]


def example_name(example: Example) -> str:
    """Return what messages call an example: where it is from, and its row there."""
    return f"{printable_value(example.source.origin)}, row {printable_value(example.row.source_id, 60)}"


def _encode_targets(
    options: TokenizeOptions, group: list[tuple[int, Example]], targets: list[str | None]
) -> list[tuple[SideTokens | None, bool]]:
    """Encode what the decoder reads of each example's target.

    The start token comes first, so that the token at pos + 1 is the one to predict at pos.

    Returns:
        For each example the tokens, None where there is no target, and whether they were cut.
    """
    texts = [target for target in targets if target is not None]
    if not texts:
        return [(None, False)] * len(group)
    assert options.start_id is not None
    encoded: list[tuple[SideTokens | None, bool]] = []
    rows = encode_truncated(options.tokenizer, texts, options.target_frame(), target=True)
    for (_, example), (tokens, truncated) in zip(group, rows, strict=True):
        if example.row.words:
            tokens = replace(tokens, word_idx=np.full(len(tokens), -1))
        encoded.append((tokens.with_prefix(options.start_id), truncated))
    return encoded


def group_examples(examples: Iterable[Example]) -> Iterator[list[tuple[int, Example]]]:
    """Yield numbered examples in groups, each worth one call of a tokenizer."""
    numbered = enumerate(examples)
    while group := list(islice(numbered, _TOKENIZED_AT_ONCE)):
        yield group


def _add_words(tokens: SideTokens, example: Example, tokenizer: Any) -> SideTokens:
    """Find each token's word, where the example has words; raise UsageError where the tokenizer has no offsets."""
    words = example.row.words
    if not words:
        return tokens
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} gives no character offsets, so that its tokens cannot be matched with the words of "
            f"{example.source.dataset}. A fast tokenizer is needed."
        )
    word_idx = word_indices(tokens.char_start, tokens.char_end, len(example.text), words)
    return replace(tokens, word_idx=word_idx)


def _sides(side: str, tokens: SideTokens, target: SideTokens | None) -> dict[str, SideTokens]:
    return {side: tokens} if target is None else {"dec": target, "enc": tokens}


def _target(example: Example, column: str) -> str:
    """Return the target text in an example's metadata; raise UsageError where there is none."""
    target = example.row.metadata.get(column)
    if not isinstance(target, str) or not target.strip():
        raise UsageError(
            f"Example {example.row.source_id} has no text in column '{column}' for the decoder (it has: "
            f"{', '.join(example.row.metadata) or 'no other columns'}). Name the targets' column: --target-column."
        )
    return target
