"""Files that users name: found, opened and decoded, or refused in one line that says which file, where in it, and what to do.

Every reader of data begins here, so that a file that is not there, may not be read or is not text is told in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from warehouse.errors import NotFoundError, UsageError, on_one_line
from warehouse.storage import strict_json


def check_not_empty(**options: str | None) -> None:
    """Raises UsageError where an option is given without a value, as a variable of the shell that is not set leaves it:
    `check_given(text_column="")`.
    """
    for name, value in options.items():
        if value is not None and not value.strip():
            option = f"--{name.rstrip('_').replace('_', '-')}"
            raise UsageError(f"{option} is empty: give it a value, or leave it out.")


def user_path(text: str) -> Path:
    """Returns the path that a user means, `~` being the home folder. Raises UsageError where there is no such home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{printable_value(text)}: there is no such user, whose home folder that would be.") from None


def check_readable(path: Path) -> Path:
    """Returns the same path. Raises NotFoundError, which names its neighbours, where there is nothing, and UsageError where there
    is no file that can be read again and again, or one whose name is not text, which no run could name.
    """
    if strict_json.half_pair(str(path)):
        raise UsageError(f"{printable_value(path)}: its name is not UTF-8 text. Rename it.")
    try:
        if path.is_file():
            return path
        folder, there = path.is_dir(), path.exists()
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() and not there else []
    except OSError as e:
        raise unreadable_error(path, e) from None
    if folder:
        raise UsageError(f"{printable_value(path)} is a folder: name a file in it.")
    if there:
        raise UsageError(
            f"{printable_value(path)} is no file but a pipe or a device, which cannot be read twice: make a file of it."
        )
    raise NotFoundError("file", printable_value(path), [printable_value(path.with_name(n)) for n in beside])


def unreadable_error(path: Path, e: OSError) -> UsageError:
    """What a user is told of a file that the system does not let us read."""
    return UsageError(f"{printable_value(path)} cannot be read: {e.strerror or e}.")


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be read. Raises UsageError for what the system has against that, then or later."""
    check_readable(path)
    try:
        with path.open("rb") as f:
            yield f
    except OSError as e:
        raise unreadable_error(path, e) from None


def line_location(path: Path, line: int) -> str:
    """How errors name a line."""
    return f"{printable_value(path)}, line {line}"


def printable_value(value: object, max_chars: int = 1000) -> str:
    """A name or a value from outside as errors show it: on one line, at most so many characters, and nothing of it that a
    terminal would obey.
    """
    text = str(value)
    text = text if len(text) <= max_chars else f"{text[:max_chars]}…"
    return on_one_line(text)


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Lines, numbered from 1, with their ends. Raises UsageError for one that is not UTF-8."""
    for number, raw in enumerate(stream, 1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise UsageError(f"{name}, line {number} is not UTF-8 text ({e.reason} at byte {e.start}).") from None


def whole_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """The same lines without their ends."""
    return ((number, line.rstrip("\r\n")) for number, line in decode_lines(stream, name))


def file_lines(path: Path) -> Iterator[tuple[int, str]]:
    """A file's lines, numbered from 1, without their ends. Raises UsageError for one that is not UTF-8."""
    with open_file(path) as f:
        yield from whole_lines(f, printable_value(path))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their lines' numbers, blank lines passed over. Raises UsageError."""
    for number, line in file_lines(path):
        if not line.strip():
            continue
        try:
            fields = strict_json.parse(line)
        except ValueError as e:
            raise UsageError(f"{line_location(path, number)} is not JSON: {e}.") from None
        if not isinstance(fields, dict):
            raise UsageError(f"{line_location(path, number)} is not a JSON object.")
        yield number, fields


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UsageError."""
    with open_file(path) as f:
        raw = f.read()
    try:
        return strict_json.parse(raw)
    except ValueError as e:
        raise UsageError(f"{printable_value(path)} is not JSON: {e}.") from None


def read_text(path: Path) -> str:
    """All of a file. Raises UsageError where it is not UTF-8."""
    with open_file(path) as f:
        return "".join(line for _, line in decode_lines(f, printable_value(path)))
