"""How prompts are put to a model: through its tokenizer's chat template, or as they are.

In go examples whose text is a prompt, or which are chats that end before an answer; out come sequences of the prompt alone, one a sample. The generate job and steering give
these to the model to go on with. A prompt is never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from capture.data.example import Example
from capture.data.transcript import Chat
from capture.model import loading
from capture.model.failures import error_sentence
from capture.sequences.bos import AUTO_BOS, BosPolicy, check_chat_template_bos
from capture.sequences.chat import ChatTemplate, WrittenChat
from capture.sequences.encoding import encode, text_change_detector
from capture.sequences.sequence import SideTokens, TokenizedExample, TokenSequence
from capture.sequences.tokenize import example_name, group_examples
from warehouse.errors import UsageError


@dataclass(frozen=True)
class OpenPromptMaker:
    """Puts prompts to a model: through its tokenizer's chat template where it has one, else as they are."""

    loaded: loading.Loaded
    growth: int
    """The most tokens of a response."""
    samples: int = 1
    """Sequences of each prompt."""
    bos: BosPolicy = AUTO_BOS

    def __post_init__(self) -> None:
        """Check the BOS; raises UsageError for one where a chat template says what a prompt begins with."""
        if self.templated:
            check_chat_template_bos(self.bos, self.loaded.name)

    def text(self, example: Example) -> str:
        """Return what the model reads.

        A system message stands before the prompt where the template refuses it or there is no template.

        Args:
            example: A prompt, with a `system` message in its metadata if it has one.

        Returns:
            The text to tokenize.

        Raises:
            UsageError: The template fails.
        """
        system = example.row.metadata.get("system")
        if not self.templated:
            return example.text if system is None else f"{system}\n\n{example.text}\n\n"
        conversations = [[{"role": "user", "content": example.text}]]
        if system is not None:
            conversations = [
                [{"role": "system", "content": system}, *conversations[0]],
                [{"role": "user", "content": f"{system}\n\n{example.text}"}],
            ]
        for turns in conversations:
            try:
                text: str = self.loaded.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
                return text
            except Exception as e:  # a template is a program of its own: some refuse a system message
                error = e
        raise UsageError(
            f"{self.loaded.name}: its chat template fails on {example.text[:40]!r}: {error_sentence(error)}"
        )

    @property
    def templated(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.loaded.tokenizer, "chat_template", None))

    def tokenize(self, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
        """Tokenize prompts.

        Args:
            examples: The prompts.

        Yields:
            Each with a sequence for every sample, of the prompt alone.

        Raises:
            UsageError: A prompt has no tokens, or with its response would be longer than the model's window.
        """
        alters = text_change_detector(self.loaded.tokenizer)
        for group in group_examples(examples):
            chats = [self._written(e) for _, e in group]
            texts = [self.text(e) if chat is None else chat.text for (_, e), chat in zip(group, chats, strict=True)]
            parts = encode(self.loaded.tokenizer, texts, special=not self.templated, bos=self.bos)
            for (idx, example), chat, text, part in zip(group, chats, texts, parts, strict=True):
                end = len(part)
                while not self.templated and end and part.is_special[end - 1]:
                    end -= 1  # an end token that the tokenizer adds: the model is to go on
                part = part.slice(0, end) if chat is None else chat.tell(part)
                self._check(example, part)
                roles = () if chat is None else chat.roles
                sequences = [TokenSequence(example, seq, {"dec": part}, text, roles) for seq in range(self.samples)]
                yield TokenizedExample(idx, example, sequences, False, alters(text))

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.loaded.tokenizer, self.loaded.name)

    def _written(self, example: Example) -> WrittenChat | None:
        """Return an example's chat as the model reads it, to be gone on with; None where it is a prompt."""
        chat = next((t for t in example.row.transcripts if isinstance(t, Chat)), None)
        if chat is None:
            return None
        if chat.messages[-1]["role"] == "assistant":
            raise UsageError(
                f"{example_name(example)} ends with an answer (role assistant): end the chat with what is to be answered."
            )
        return self._template.write(chat, example_name(example), answer=True)

    def _check(self, example: Example, part: SideTokens) -> None:
        where = f"Prompt {example.row.source_id}"
        if example.row.prompt_set:
            where += f" of {example.row.prompt_set}"
        if not len(part):
            raise UsageError(f"{where} has no tokens: there is nothing to go on with.")
        window = self.loaded.window
        if window is not None and len(part) + self.growth > window:
            raise UsageError(
                f"{where} has {len(part)} tokens; with {self.growth} more it is longer than {self.loaded.name} was made for "
                f"({window}). A prompt is not cut: shorten it, or lower --max-new-tokens."
            )
