"""Data sets: one file each, yielding `Example`s one by one."""

from __future__ import annotations

from capture.data.example import Source
from capture.data.repeats import NAME as REPEATS
from capture.data.repeats import open_repeats
from capture.data.text import open_text
from capture.data.wikitext2 import CONFIGS, open_wikitext2
from warehouse.errors import NotFound, UsageError

NAMES = (*CONFIGS, REPEATS)


def open_data(data: str | None, text: str | None, split: str, origin: str | None, text_column: str) -> Source:
    """What `--data NAME [--split S] [--from FILE]` or `--text FILE` asks for. Raises UsageError where it holds no text."""
    if (data is None) == (text is None):
        raise UsageError("Say what to read: either --data NAME or --text FILE (- for standard input).")
    if text is not None:
        if origin is not None:
            raise UsageError("--from goes with --data; --text names its file itself.")
        source = open_text(text, text_column)
    elif data == REPEATS:
        if origin is not None:
            raise UsageError(f"{REPEATS} is made on the spot: it takes no --from.")
        source = open_repeats()
    elif data in CONFIGS:
        source = open_wikitext2(data, split, origin)
    else:
        raise NotFound("data set", data, NAMES, "For a file of your own: --text FILE.")
    if next(source.read(), None) is None:
        raise UsageError(f"{source.origin} holds no text: there is nothing to capture.")
    return source
