"""What a model is to read of an example, where that is not its text: a chat, or a prompt with the response that it got.

In go the fields of a file or of an evaluation's log; out come `Chat`s in the form that chat templates take. Knows no template:
`capture.sequences.chat` has a model's own write them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from capture.data.files import printable_value
from warehouse.errors import UsageError
from warehouse.storage import strict_json

Message = Mapping[str, Any]
"""A message: `role`, and of `content`, `reasoning_content`, `tool_calls`, `tool_call_id`, `name` what it has."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING_PARTS = {"reasoning": "reasoning", "thinking": "thinking"}
"""Kinds of a content's parts that are reasoning, and the field with its text."""
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""The names that a message's reasoning goes by; the first is kept."""
_SPEAKERS = {"human": "user", "gpt": "assistant", "observation": "tool"}
"""Roles of the older form of chats, {from, value}, that have another name in the newer one, {role, content}."""


@dataclass(frozen=True)
class Chat:
    """A conversation, in the form that chat templates take."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """The tools that the model may call, as JSON schemas of functions."""

    @property
    def text(self) -> str:
        """The chat to be read by people: each message after its role, with an empty line between two."""
        return "\n\n".join(f"{m['role']}: {_readable(m)}" for m in self.messages)

    @property
    def identity(self) -> str:
        """All of it as JSON: what tells it from another chat."""
        return json.dumps([self.messages, self.tools], ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True)
class Completion:
    """A prompt as it was put to a model, and the response that it got or was scored on."""

    prompt: str
    response: str

    @property
    def text(self) -> str:
        """What was read: the response right after the prompt."""
        return self.prompt + self.response

    @property
    def identity(self) -> str:
        """Both: what tells it from another."""
        return f"{self.prompt}\x1f{self.response}"


Transcript = Chat | Completion


def parse_chat(messages: Any, tools: Any, where: str) -> Chat:
    """Make a chat of what a file holds.

    Messages are {role, content} or {from, value}. A content is a text or a list of parts: texts are joined, reasoning
    parts become the message's reasoning. The arguments of a tool call are an object, or that object as JSON.

    Args:
        messages: The value of a field `messages`; a text is parsed as JSON.
        tools: The value of a field `tools`; None: there is none.
        where: What messages to the user begin with.

    Returns:
        The chat.

    Raises:
        UsageError: The values are no chat of texts.
    """
    messages, tools = _parsed(messages, where, "messages"), _parsed(tools, where, "tools")
    if not isinstance(messages, list) or not messages:
        raise UsageError(f"{where}: `messages` is {_kind(messages)}, not a list of messages.")
    if tools is not None and not (isinstance(tools, list) and all(map(_is_function, tools))):
        raise UsageError(f"{where}: `tools` is {_kind(tools)}, not a list of functions as JSON schemas.")
    parsed = (_message(m, f"{where}, message {i}") for i, m in enumerate(messages))
    return Chat(tuple(parsed), tuple(tools or ()))


def _is_function(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("function", tool), dict)


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise UsageError(f"{where} is {_kind(message)}, not an object with a role and a content.")
    fields = {name: value for name, value in message.items() if value is not None}
    if "role" not in fields and "from" in fields:
        speaker = fields.pop("from")
        fields = {"role": _SPEAKERS.get(speaker, speaker), "content": fields.pop("value", None), **fields}
    if not isinstance(fields.get("role"), str) or not fields["role"].strip():
        raise UsageError(f"{where} has no role, such as user.")
    content, reasoning = _content(fields.pop("content", None), where)
    given = [fields.pop(name, None) for name in _REASONING_FIELDS]
    reasoning = next((r for r in (*given, reasoning) if r), None)
    if reasoning is not None and not isinstance(reasoning, str):
        raise UsageError(f"{where}: its reasoning is {_kind(reasoning)}, not a text.")
    calls = fields.pop("tool_calls", None)
    if content is None and reasoning is None and not calls:
        raise UsageError(f"{where} (role {printable_value(fields['role'], 40)}) has no content.")
    kept = {"role": fields.pop("role"), "content": content, "reasoning_content": reasoning}
    if calls:
        kept["tool_calls"] = _tool_calls(calls, where)
    return {name: value for name, value in {**kept, **fields}.items() if value is not None}


def _content(content: Any, where: str) -> tuple[str | None, str | None]:
    """Return the text and the reasoning of a content; raise UsageError where it holds something else."""
    if content is None or isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        raise UsageError(f"{where}: its content is {_kind(content)}, not a text or a list of parts.")
    texts, reasonings = [], []
    for part in content:
        kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _REASONING_PARTS and isinstance(part.get(_REASONING_PARTS[kind]), str):
            reasonings.append(part[_REASONING_PARTS[kind]])
        else:
            raise UsageError(
                f"{where}: its content has a part of the kind {printable_value(kind, 40)}, and only texts and reasoning "
                "can be read."
            )
    return ("".join(texts) if texts else None), ("\n".join(reasonings) if reasonings else None)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return tool calls with their arguments as objects, as chat templates expect them."""
    if not isinstance(calls, list):
        raise UsageError(f"{where}: its tool_calls is {_kind(calls)}, not a list.")
    parsed = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UsageError(f"{where}: a tool call has no function with a name.")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with suppress(ValueError):  # what a model wrote need not be JSON: the template then gets the text
                arguments = strict_json.parse(arguments or "{}")
        function = {**function, "arguments": {} if arguments is None else arguments}
        parsed.append({"type": "function", **{k: v for k, v in call.items() if v is not None}, "function": function})
        if "function" not in call:
            parsed[-1] = {"type": "function", "function": function}
    return parsed


def _parsed(value: Any, where: str, name: str) -> Any:
    """Return a value that may stand there as JSON, as in files whose columns are texts."""
    if not isinstance(value, str):
        return value
    try:
        return strict_json.parse(value)
    except ValueError as e:
        raise UsageError(f"{where}: `{name}` is a text that is not JSON: {e}.") from None


def _readable(message: Message) -> str:
    parts = [message.get("reasoning_content"), message.get("content")]
    parts += [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", [])]
    return "\n".join(part for part in parts if part)


def _kind(value: Any) -> str:
    return "missing" if value is None else "empty" if value == [] else type(value).__name__
