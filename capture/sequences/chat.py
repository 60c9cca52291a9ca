"""A chat → the text that the model's own chat template makes of it, and which message every character of that text is of.

The template is run a second time with marks in it: a loop over the messages says which one it is at, and a message's content says
where it begins and ends. The marks are characters that stand nowhere else. Without them the text has to be the one that the
tokenizer's `apply_chat_template` gives, or the chat is refused; so is one of which the template leaves out a message's content, a
tool call, or the tools.

In go a tokenizer and a `Chat`; out comes a `WrittenChat`, which `tokenize` turns into tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np

from capture.data.files import printable_value
from capture.data.transcript import Chat, Message
from capture.model.failures import error_sentence
from capture.sequences.chat_marks import (
    FIRST_MARK,
    HOOKS,
    LAST_MARK,
    MARKINGS,
    MARKS,
    NO_TURN,
    Event,
    Marked,
    Marking,
    Piece,
    mark_loops,
    pieces_of,
    read_marks,
    with_marks,
)
from capture.sequences.sequence import SideTokens
from warehouse.errors import UsageError

PARTS = ("content", "reasoning", "tool_calls")
"""What of a message a token can be of; the rest is what the template puts around it."""

_NO_PART = -1


@dataclass(frozen=True)
class WrittenChat:
    """A chat as the model reads it. Arrays are (number of characters,)."""

    text: str
    turn: np.ndarray
    """The place of the message that each character is of; -1: the template's own, of no message."""
    part: np.ndarray
    """The place in `PARTS` of what it is of the message; -1: what the template puts around it."""
    roles: tuple[str, ...]
    """The role of each turn; one more than there are messages where the model is to answer."""

    def tell(self, tokens: SideTokens) -> SideTokens:
        """Return tokens of the text with the message that each is of: that of its first character that is no white space."""
        known = tokens.char_start >= 0
        at = self._next_printed[np.clip(tokens.char_start, 0, len(self.text))]
        at = np.where(at < tokens.char_end, at, tokens.char_start).clip(0, max(len(self.text) - 1, 0))
        turn, part = (np.where(known, x[at], -1) for x in (self.turn, self.part))
        return replace(tokens, turn=turn, part=part)

    @cached_property
    def _next_printed(self) -> np.ndarray:
        """From each character on, the first that is no white space, (characters + 1,)."""
        printed = [i if not c.isspace() else len(self.text) for i, c in enumerate(self.text)] + [len(self.text)]
        return np.minimum.accumulate(np.asarray(printed)[::-1])[::-1]


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """Take a model's tokenizer, and the model's name for messages.

        Raises:
            UsageError: It has no chat template, or gives no offsets, without which no token can be told to be of a message.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(f"The tokenizer of {name} has no chat template, so that it cannot read chats.")
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(f"{name}: {type(tokenizer).__name__} gives no character offsets, which chats need.")
        self._tokenizer, self._name = tokenizer, name
        self._compiled: dict[str, Any] = {}

    def write(self, chat: Chat, where: str, *, answer: bool = False) -> WrittenChat:
        """Write a chat as the model reads it.

        Args:
            chat: The chat.
            where: What messages to the user begin with.
            answer: With the beginning of the model's answer at the end.

        Returns:
            The text, with the message that each character is of.

        Raises:
            UsageError: The template fails on the chat, or leaves out something of it.
        """
        try:
            text = self._plain_text(chat, answer)
        except Exception as e:  # a template is a program of its own
            try:  # some take the arguments of tool calls as a text
                chat = _with_argument_texts(chat)
                text = self._plain_text(chat, answer)
            except Exception:
                silent = next((i for i, m in enumerate(chat.messages) if "content" not in m), None)
                why = "" if silent is None else f" Message {silent} has no content, which not every template allows."
                raise UsageError(
                    f"{where}: the chat template of {self._name} refuses this chat: {error_sentence(e)}{why}"
                ) from None
        pieces = list(pieces_of(chat))
        if MARKS.search(text) or 2 * len(pieces) + 3 * _count_items(chat) > LAST_MARK - FIRST_MARK:
            raise UsageError(f"{where}: the chat is too long, or has characters of the private plane 15: leave it out.")
        marked = next((m for how in MARKINGS if (m := self._marked(chat, pieces, answer, how)).text == text), None)
        if marked is None:
            raise UsageError(
                f"{where}: the chat template of {self._name} does not write the same text twice, so its messages cannot be told "
                "apart."
            )
        turn = self._turns(marked, chat, where)
        part = np.full(len(text), _NO_PART, np.int8)
        for start, end, t in marked.calls:
            part[start:end] = PARTS.index("tool_calls")
            turn[start:end] = t
        missing = []
        for number, piece in enumerate(pieces):
            bare = piece.text.strip()
            if piece.turn == NO_TURN:
                if number not in marked.pieces and (marked.piece_turns or bare not in text):
                    missing.append(piece)
                continue
            found = marked.pieces.get(number, [])
            if not found and number in marked.edges:
                found = _find_beside(bare, text, marked.edges[number])
            if not found and not (marked.how.begins and marked.how.closes and piece.needed):
                found = _find_once(bare, text, (turn == piece.turn) & (part == _NO_PART))
            if not found and piece.needed:
                missing.append(piece)
            for start, end in found:
                turn[start:end] = piece.turn
                part[start:end] = PARTS.index(piece.part)
        self._check_missing(missing, chat, where)
        if answer:
            turn[_last_of_messages(turn) :] = len(chat.messages)
        roles = tuple(m["role"] for m in chat.messages)
        return WrittenChat(text, turn, part, (*roles, "assistant") if answer else roles)

    def _plain_text(self, chat: Chat, answer: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(chat.messages), tools=list(chat.tools) or None, tokenize=False, add_generation_prompt=answer
        )
        return text

    def _marked(self, chat: Chat, pieces: list[Piece], answer: bool, how: Marking) -> Marked:
        """Run the template with marks around pieces of the chat, and where its loops go through messages, and tool calls."""
        issued: list[Event] = []
        entered: set[int] = set()

        def mark(event: Event) -> str:
            issued.append(event)
            return chr(FIRST_MARK + len(issued) - 1)

        marked = with_marks(chat, pieces, mark, how)
        messages = [_reasoning_under_both_names(m) for m in marked.messages]
        items = {id(m): ("message", i) for i, m in enumerate(messages)}
        if how.calls:
            items |= {id(c): ("call", i) for i, m in enumerate(messages) for c in m.get("tool_calls", ())}

        def note_enter(item: Any, loop: int) -> str:
            if id(item) not in items:
                return ""
            entered.add(loop)
            return mark(("enter", loop, items[id(item)]))

        def note_leave(item: Any, loop: int) -> str:
            return mark(("leave", loop, None)) if id(item) in items else ""

        def note_end(loop: int) -> str:
            return mark(("end", loop, None)) if loop in entered else ""

        template = self._template(chat)
        hooks = dict(zip(HOOKS, (note_enter, note_leave, note_end), strict=True))
        written = template.render(
            messages=messages,
            tools=list(marked.tools) or None,
            documents=None,
            add_generation_prompt=answer,
            **self._tokenizer.special_tokens_map,
            **hooks,
        )
        return read_marks(written, issued, how)

    def _template(self, chat: Chat) -> Any:
        """Return the template with marked loops, compiled."""
        from transformers.utils.chat_template_utils import _compile_jinja_template

        source = self._tokenizer.get_chat_template(tools=list(chat.tools) or None)
        if source not in self._compiled:
            environment = _compile_jinja_template(source).environment
            tree = mark_loops(environment.parse(source))
            code = environment.compile(tree)
            self._compiled[source] = environment.template_class.from_code(
                environment, code, environment.make_globals(None)
            )
        return self._compiled[source]

    def _turns(self, marked: Marked, chat: Chat, where: str) -> np.ndarray:
        """Return the message that each character is of by the template's loops, (characters,)."""
        if not marked.turns:
            raise UsageError(
                f"{where}: the chat template of {self._name} does not go through the messages in a loop, so that they cannot be told "
                "apart in its text."
            )
        turn = np.full(len(marked.text), NO_TURN, np.int32)
        for start, end, t in marked.turns:
            turn[start:end] = t
        first = next((start for start, end, _ in marked.turns if end > start), len(turn))
        before = {t for number, t in marked.piece_turns.items() if any(e <= first for _, e in marked.pieces[number])}
        if len(before) == 1:  # a system message that is written before the loop
            turn[:first] = before.pop()
        own = self._written_by_itself(marked, chat)
        start = next((s for s, e, t in marked.turns if t == 0 and e > s), 0)
        turn[start : start + own] = NO_TURN
        return turn

    def _written_by_itself(self, marked: Marked, chat: Chat) -> int:
        """Return how many characters the template puts before the first message within its loop: a system message of its own."""
        first = chat.messages[0]
        if first["role"] != "user":
            return 0
        written = next((marked.text[s:e] for s, e, t in marked.turns if t == 0 and e > s), "")
        again = replace(chat, messages=(first, {"role": "assistant", "content": "a"}, first))
        try:
            repeated = self._marked(again, [], False, Marking(False, False, False))
        except Exception:  # one that refuses this writes nothing before the first message that could be told from it
            return 0
        third = next((repeated.text[s:e] for s, e, t in repeated.turns if t == 2 and e > s), "")
        return len(written) - len(third) if third and written.endswith(third) else 0

    def _check_missing(self, missing: list[Piece], chat: Chat, where: str) -> None:
        """Raise UsageError where the template left something out, but for reasoning that it leaves out of earlier turns."""
        for piece in missing:
            if piece.part == "reasoning" and self._writes_reasoning:
                continue
            role = (
                "" if piece.turn == NO_TURN else f" of message {piece.turn} (role {_role(chat.messages[piece.turn])})"
            )
            raise UsageError(
                f"{where}: the chat template of {self._name} leaves out the {piece.name}{role}, so the model would not read it. "
                "Leave it out of the chat, or use a model whose template has it."
            )

    @cached_property
    def _writes_reasoning(self) -> bool:
        """Whether the template writes the reasoning of a last answer."""
        reasoned = {"role": "assistant", "content": "b", "reasoning_content": "because"}
        try:
            return "because" in self._plain_text(Chat(({"role": "user", "content": "a"}, reasoned)), False)
        except Exception:  # as above
            return False


def template_date(tokenizer: Any) -> str | None:
    """Return today's date where a tokenizer's chat template writes it, so that a chat is another text on another day; else None."""
    template = getattr(tokenizer, "chat_template", None)
    templates = template.values() if isinstance(template, dict) else [template]
    return date.today().isoformat() if any("strftime_now" in t for t in templates if t) else None


def _with_argument_texts(chat: Chat) -> Chat:
    """Return a chat whose tool calls have their arguments as JSON."""
    return replace(chat, messages=tuple(_with_argument_text(m) if "tool_calls" in m else m for m in chat.messages))


def _with_argument_text(message: Message) -> Message:
    functions = [c["function"] for c in message["tool_calls"]]
    texts = [f["arguments"] if isinstance(f["arguments"], str) else json.dumps(f["arguments"]) for f in functions]
    calls = [
        {**c, "function": {**c["function"], "arguments": text}}
        for c, text in zip(message["tool_calls"], texts, strict=True)
    ]
    return {**message, "tool_calls": calls}


def _reasoning_under_both_names(message: Message) -> dict[str, Any]:
    """Return a message as `apply_chat_template` hands it on: templates know reasoning by one of two names."""
    if "reasoning_content" not in message:
        return dict(message)
    return {"thinking": message["reasoning_content"], **message}


def _find_once(piece: str, text: str, among: np.ndarray) -> list[tuple[int, int]]:
    """Return where a piece stands among some characters of a text, (characters,) bool, if it does so just once."""
    places = [m.start() for m in re.finditer(re.escape(piece), text)] if piece else []
    places = [p for p in places if among[p : p + len(piece)].all()]
    return [(places[0], places[0] + len(piece))] if len(places) == 1 else []


def _find_beside(piece: str, text: str, edge: tuple[str, int]) -> list[tuple[int, int]]:
    """Return where a piece stands that begins, or ends, at a place; or what is left of it once its reasoning is taken out."""
    what, at = edge
    for whole in (piece, piece.rpartition("</think>")[2].strip()):
        start = at if what == "begin" else at - len(whole)
        if whole and start >= 0 and text[start : start + len(whole)] == whole:
            return [(start, start + len(whole))]
    return []


def _last_of_messages(turn: np.ndarray) -> int:
    """Return one past the last character that is of a message."""
    known = np.flatnonzero(turn != NO_TURN)
    return int(known[-1]) + 1 if len(known) else 0


def _count_items(chat: Chat) -> int:
    return len(chat.messages) + sum(len(m.get("tool_calls", ())) for m in chat.messages)


def _role(message: Mapping[str, Any]) -> str:
    return printable_value(message["role"], 40)
