"""Opens texts that are in memory, as a list or a column of a table, with labels and ids beside them.

In go lists from Python; out comes the same source that a file with these columns would be, so that a text has the same example id
either way. `capture.open_texts` is this function, and captures open lists of texts with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from capture.data.columns import Columns
from capture.data.example import Row, Source
from capture.data.files import printable_value
from capture.data.text import own_texts
from capture.data.transcript import parse_chat
from warehouse.errors import UsageError


def open_texts(
    texts: Iterable[str], labels: Iterable[Any] | None = None, ids: Iterable[str | int] | None = None
) -> Source:
    """Open a list of texts.

    Args:
        texts: The texts; what can be read only once is kept.
        labels: One for each text: a text, a number, true or false, None for no label, or a list of those for several. An integer
            is its own `label_id`; others are numbered as they first appear.
        ids: What tells the texts apart, one for each: texts or whole numbers. None: the texts do.

    Returns:
        The source of its examples.

    Raises:
        UsageError: There is no text, something is no text, no label or no id, or the lists differ in length.
    """
    fields = {"texts": _values(texts, "texts")}
    n = len(fields["texts"])
    for name, given in (("labels", labels), ("ids", ids)):
        if given is not None:
            fields[name] = _values(given, name)
            if len(fields[name]) != n:
                raise UsageError(f"texts holds {n:,} and {name} {len(fields[name]):,}: give one for each text.")
    columns = Columns("texts", "labels" if "labels" in fields else None, id="ids" if "ids" in fields else None)

    def rows() -> Iterator[Row]:
        values = zip(*fields.values(), strict=True)
        return columns.rows((i, f"texts[{i}]", dict(zip(fields, row, strict=True))) for i, row in enumerate(values))

    if not [row for row in rows() if row.text.strip()]:  # all are read, so that a fault shows before a model is loaded
        raise UsageError("texts holds no text: there is nothing to capture.")
    return own_texts("texts", "the list of texts", rows, columns)


def open_chats(chats: Iterable[Any], tools: Iterable[Any] | None = None) -> Source:
    """Open a list of chats.

    Args:
        chats: Lists of messages; what can be read only once is kept.
        tools: What the model may call, as JSON schemas of functions.

    Returns:
        The source of its examples.

    Raises:
        UsageError: There is no chat, or something is none.
    """
    schemas = None if tools is None else list(tools)
    parsed = [parse_chat(chat, schemas, f"chats[{i}]") for i, chat in enumerate(_chats(chats))]
    if not parsed:
        raise UsageError("chats is empty: there is nothing to capture.")
    rows = [Row(str(i), chat.text, transcripts=(chat,)) for i, chat in enumerate(parsed)]
    return own_texts("chats", "the list of chats", partial(iter, rows), Columns("messages", chats=True))


def _chats(given: Any) -> list[Any]:
    """Return what was given as a list of chats."""
    if isinstance(given, str | bytes | dict) or not isinstance(given, Iterable):
        raise UsageError(
            f"chats is a {type(given).__name__}, not a list: give a list of chats, each a list of messages."
        )
    return [chat.tolist() if hasattr(chat, "tolist") else chat for chat in given]


def _values(given: Any, name: str) -> list[Any]:
    """Return what was given as a list of Python's own values, whatever made of them: a list, an array, a column of a frame."""
    if isinstance(given, str | bytes | dict) or not isinstance(given, Iterable):
        raise UsageError(f"{name} is a {type(given).__name__}, not a list: give a list, one for each text.")
    values = given.tolist() if hasattr(given, "tolist") else given
    return [_plain(value, f"{name}[{i}]") for i, value in enumerate(values)]


def _plain(value: Any, where: str) -> Any:
    """Return a value of numpy or pandas as Python's; raise UsageError for one that Python has no word for."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(x, where) for x in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise UsageError(
        f"{where} holds {type(value).__name__} ({printable_value(value, 40)}): give a text, a number or None."
    )
