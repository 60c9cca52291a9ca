"""Finds, opens and decodes files that users name, or refuses them in one line: which file, where in it, and what to do.

Every reader of data begins here, so that a file that is missing, may not be read or is not text is refused in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from warehouse.errors import NotFoundError, UsageError, on_one_line
from warehouse.storage import strict_json


def check_not_empty(**options: str | None) -> None:
    """Check that no option is given without a value, as an unset variable of the shell leaves it.

    Args:
        **options: The options' values, by name: `text_column=""` is `--text-column ""`.

    Raises:
        UsageError: An option's value is empty.
    """
    for name, value in options.items():
        if value is not None and not value.strip():
            option = f"--{name.rstrip('_').replace('_', '-')}"
            raise UsageError(f"{option} is empty: give it a value, or leave it out.")


def user_path(text: str) -> Path:
    """Return the path that a user means, with `~` as the home folder.

    Raises:
        UsageError: There is no such home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{printable_value(text)}: there is no such user, so no home folder either.") from None


def check_readable(path: Path) -> Path:
    """Check that a path is a file that can be read more than once.

    Args:
        path: The path.

    Returns:
        The same path.

    Raises:
        NotFoundError: There is nothing; the message names similar files beside it.
        UnreadableFileError: The system does not let us look.
        UsageError: It is a folder or a pipe, or its name is not text, so that no run could name it.
    """
    if strict_json.half_pair(str(path)):
        raise UsageError(f"{printable_value(path)}: its name is not UTF-8 text. Rename it.")
    try:
        if path.is_file():
            return path
        folder, exists = path.is_dir(), path.exists()
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() and not exists else []
    except OSError as e:
        raise UnreadableFileError(path, e) from None
    if folder:
        raise UsageError(f"{printable_value(path)} is a folder: name a file in it.")
    if exists:
        raise UsageError(
            f"{printable_value(path)} is no file but a pipe or a device, which cannot be read twice: make a file of it."
        )
    raise NotFoundError("file", printable_value(path), [printable_value(path.with_name(n)) for n in beside])


class UnreadableFileError(UsageError):
    """A file that the system does not let us read."""

    def __init__(self, path: Path, e: OSError) -> None:
        super().__init__(f"{printable_value(path)} cannot be read: {e.strerror or e}.")


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be read, and refuse it in one line where the system does not let us, now or while it is read.

    Yields:
        The open file.

    Raises:
        UnreadableFileError: The file cannot be opened or read.
    """
    check_readable(path)
    try:
        with path.open("rb") as f:
            yield f
    except OSError as e:
        raise UnreadableFileError(path, e) from None


def line_location(path: Path, line: int) -> str:
    """Return how messages name a line of a file."""
    return f"{printable_value(path)}, line {line}"


def printable_value(value: object, max_chars: int = 1000) -> str:
    """Return a name or a value from outside as messages show it.

    Args:
        value: Anything.
        max_chars: The most characters; what is longer ends in an ellipsis.

    Returns:
        The value on one line, without control characters that a terminal would obey.
    """
    text = str(value)
    text = text if len(text) <= max_chars else f"{text[:max_chars]}…"
    return on_one_line(text)


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Decode lines of UTF-8.

    Args:
        stream: Lines as bytes.
        name: What messages call the stream.

    Yields:
        Each line's number, from 1, and the line with its end.

    Raises:
        UsageError: A line is not UTF-8.
    """
    for number, raw in enumerate(stream, 1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise UsageError(f"{name}, line {number} is not UTF-8 text ({e.reason} at byte {e.start}).") from None


def whole_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Decode lines of UTF-8 as `decode_lines` does, and strip their ends."""
    return ((number, line.rstrip("\r\n")) for number, line in decode_lines(stream, name))


def file_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a file's lines, numbered from 1, without their ends; raise UsageError for one that is not UTF-8."""
    with open_file(path) as f:
        yield from whole_lines(f, printable_value(path))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects in a file of JSON lines with their lines' numbers; skip blank lines; raise UsageError for others."""
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
    """Return the value in a JSON file; raise UsageError where it is not JSON."""
    with open_file(path) as f:
        raw = f.read()
    try:
        return strict_json.parse(raw)
    except ValueError as e:
        raise UsageError(f"{printable_value(path)} is not JSON: {e}.") from None


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a list in a JSON file, or its one object, numbered from 0; raise UsageError for anything else."""
    contents = read_json(path)
    for number, fields in enumerate(contents if isinstance(contents, list) else [contents]):
        if not isinstance(fields, dict):
            raise UsageError(f"{printable_value(path)}, row {number} is not a JSON object.")
        yield number, fields


def read_text(path: Path) -> str:
    """Return all of a text file; raise UsageError where it is not UTF-8."""
    with open_file(path) as f:
        return "".join(line for _, line in decode_lines(f, printable_value(path)))
