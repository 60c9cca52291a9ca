"""Marks in what a chat template writes: where a loop is at which message, and where what is said begins and ends.

A mark is one character that stands nowhere else, for an event that is known by its number. `chat` runs a template with them and reads what lay
between. Knows no tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from capture.data.transcript import Chat

FIRST_MARK, LAST_MARK = 0xF0000, 0xFFFFD
MARKS = re.compile(f"[{chr(FIRST_MARK)}-{chr(LAST_MARK)}]")
NO_TURN = -1
"""In the place of a message: the template's own, or the tools."""

Event = tuple[Literal["enter", "leave", "end", "begin", "close"], int, Any]
"""What a mark says: a loop enters or leaves an item, or ends; a piece of the chat begins, or closes."""


@dataclass(frozen=True)
class Marking:
    """Which marks a template is run with."""

    begins: bool
    """Where pieces begin."""
    closes: bool
    """Where they end."""
    calls: bool
    """Where a loop goes through tool calls."""


MARKINGS = tuple(
    Marking(*which)
    for which in ((True, True, True), (True, True, False), (False, True, False), (True, False, False), (False,) * 3)
)
"""More marks tell more, and may lead a template another way: it may ask whether a content begins with a tag."""


@dataclass(frozen=True)
class Piece:
    """A text in a chat that its template should write."""

    turn: int
    """The message that it is of; -1: the tools."""
    part: str
    name: str
    """What messages call it."""
    text: str
    needed: bool = True
    """Whether it must be written, word for word; else it is looked for alone, and gets no marks."""


@dataclass(frozen=True)
class Marked:
    """What a template wrote, marks taken out, and what they said. Places are first character, and one past the last."""

    text: str
    turns: list[tuple[int, int, int]]
    """Where a loop was at which message, in order."""
    calls: list[tuple[int, int, int]]
    """Where a loop was at a tool call of which message."""
    pieces: dict[int, list[tuple[int, int]]]
    """Where each piece stands that was written whole, by its number."""
    piece_turns: dict[int, int]
    """The message of each of those pieces."""
    edges: dict[int, tuple[str, int]]
    """Where pieces begin or end of which only that was marked or written."""
    how: Marking


def pieces_of(chat: Chat) -> Iterator[Piece]:
    """Yield the texts of a chat, in a fixed order; those of white space are none."""
    for i, m in enumerate(chat.messages):
        for field, part in (("content", "content"), ("reasoning_content", "reasoning")):
            if _has_text(m.get(field)):
                yield Piece(i, part, part, m[field])
        names = [call["function"]["name"] for call in m.get("tool_calls", ())]
        yield from (Piece(i, "tool_calls", "tool call", name) for name in names if _has_text(name))
    for tool in chat.tools:
        name = tool.get("function", tool).get("name")
        if _has_text(name):
            yield Piece(NO_TURN, "tools", "tools", name)
    for i, m in enumerate(chat.messages):
        for call in m.get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            yield Piece(i, "tool_calls", "arguments", written, needed=False)


def _has_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def with_marks(chat: Chat, pieces: list[Piece], mark: Any, how: Marking) -> Chat:
    """Return a copy of a chat, with marks in each piece just inside its white space, which templates strip."""
    numbers = iter(range(len(pieces)))

    def marked(text: Any) -> Any:
        if not pieces or not _has_text(text):
            return text
        number, bare = next(numbers), text.strip()
        at = text.index(bare)
        turn = pieces[number].turn
        first = mark(("begin", number, turn)) if how.begins else ""
        last = mark(("close", number, turn)) if how.closes else ""
        return f"{text[:at]}{first}{bare}{last}{text[at + len(bare) :]}"

    messages: list[dict[str, Any]] = []
    for m in chat.messages:
        copy = dict(m)
        for field in ("content", "reasoning_content"):
            if field in m:
                copy[field] = marked(m[field])
        if "tool_calls" in m:
            copy["tool_calls"] = [
                {**c, "function": {**c["function"], "name": marked(c["function"]["name"])}} for c in m["tool_calls"]
            ]
        messages.append(copy)
    tools = []
    for t in chat.tools:
        function = t.get("function", t)
        function = {**function, "name": marked(function["name"])} if "name" in function else function
        tools.append({**t, "function": function} if "function" in t else function)
    return Chat(tuple(messages), tuple(tools))


def read_marks(written: str, issued: list[Event], how: Marking) -> Marked:
    """Take the marks out of what a template wrote, and say what lay between them."""
    texts: list[str] = []
    at = last = 0
    loops: list[tuple[int, tuple[str, int], int]] = []
    found: dict[str, list[tuple[int, int, int]]] = {"message": [], "call": []}
    begun: dict[int, int] = {}
    pieces: dict[int, list[tuple[int, int]]] = {}
    piece_turns: dict[int, int] = {}
    edges: dict[int, tuple[str, int]] = {}
    for m in MARKS.finditer(written):
        texts.append(written[last : m.start()])
        at, last = at + m.start() - last, m.end()
        what, number, value = issued[ord(m.group()) - FIRST_MARK]
        if what == "begin":
            begun[number] = at
        elif what == "close":
            if number in begun:
                pieces.setdefault(number, []).append((begun.pop(number), at))
                piece_turns[number] = value
            else:
                edges[number] = (what, at)
        else:
            if any(loop == number for loop, _, _ in loops):  # left by `continue` or `break`, it is still there
                while loops:
                    loop, (kind, turn), start = loops.pop()
                    found[kind].append((start, at, turn))
                    if loop == number:
                        break
            if what == "enter":
                loops.append((number, value, at))
    texts.append(written[last:])
    text = "".join(texts)
    found["message"] += [(start, len(text), turn) for _, (kind, turn), start in loops if kind == "message"]
    return Marked(
        text,
        sorted(found["message"]),
        found["call"],
        pieces,
        piece_turns,
        edges | {n: ("begin", at) for n, at in begun.items()},
        how,
    )


HOOKS = ("__enter_item", "__leave_item", "__end_loop")


def mark_loops(tree: Any) -> Any:
    """Have every loop of a template say which item it is at, by calls of the functions `HOOKS`."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    class LoopMarker(NodeTransformer):
        count = 0

        def visit_For(self, node: nodes.For) -> list[nodes.Node]:  # noqa: N802, the name by which it is called
            self.generic_visit(node)
            if not isinstance(node.target, nodes.Name):
                return [node]
            self.count += 1
            item, loop = nodes.Name(node.target.name, "load"), nodes.Const(self.count)

            def say(hook: str, *arguments: nodes.Expr) -> nodes.Node:
                call = nodes.Call(nodes.Name(hook, "load"), list(arguments), [], None, None)
                return nodes.Output([call]).set_lineno(node.lineno)

            enter, leave, end = HOOKS
            node.body = [say(enter, item, loop), *node.body, say(leave, item, loop)]
            return [node, say(end, loop)]

    marked = LoopMarker().visit(tree)
    marked.set_environment(tree.environment)
    return marked
