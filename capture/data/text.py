"""Texts from a file or standard input: .txt (an example a line), .jsonl and .parquet (a text column), `-` (lines).

Knows nothing of any one data set; those that come as files are read through `file_rows`, `file_lines` and `json_lines`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from capture.data.example import Row, Source
from warehouse.errors import NotFound, UsageError


def open_text(origin: str, text_column: str) -> Source:
    """The texts of a file, or of standard input for `-`.

    Raises UsageError, then or while reading, where the file is missing, unreadable, of an unknown kind, or has no such
    column.
    """
    if origin == "-":
        lines = list(sys.stdin.buffer)  # kept, since it can be read only once
        return Source("stdin", None, None, "-", lambda: _text_rows(_numbered(lines, "standard input")), has_ids=False)
    path = Path(origin).expanduser()
    return Source(path.stem, None, None, origin, lambda: file_rows(path, text_column), has_ids=False)


def one_text(text: str) -> Source:
    """A text as it is."""
    return Source("text", None, None, "the text", lambda: iter([Row("0", text)]), has_ids=False)


def file_rows(path: Path, text_column: str = "text") -> Iterator[Row]:
    """Every row of a file, blank ones included, so that row numbers are the file's. Reads as it goes.

    Raises UsageError, then or while reading, where the file is missing, unreadable, of an unknown kind, or has no such
    column.
    """
    existing(path)
    if path.suffix == ".jsonl":
        return (_row(fields, str(n), place(path, n), text_column) for n, fields in json_lines(path))
    if path.suffix == ".parquet":
        return _parquet_rows(path, text_column)
    if path.suffix in (".pt", ".bin", ".safetensors", ".gguf", ".pdf", ".zip", ".gz", ".csv", ".json"):
        raise UsageError(f"{path}: texts come from .txt, .jsonl or .parquet files, not from {path.suffix}.")
    return _text_rows(file_lines(path))


def existing(path: Path) -> Path:
    """The same. Raises NotFound, which names its neighbours, where there is no such file."""
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        raise NotFound("file", str(path), [str(path.with_name(n)) for n in beside])
    return path


def place(path: Path, line: int) -> str:
    """How errors name a line."""
    return f"{path}, line {line}"


def file_lines(path: Path) -> Iterator[tuple[int, str]]:
    """A file's lines, numbered from 1, without their ends. Raises UsageError for one that is not UTF-8."""
    with existing(path).open("rb") as f:
        yield from _numbered(f, str(path))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their lines' numbers, blank lines passed over. Raises UsageError."""
    for number, line in file_lines(path):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as e:
            raise UsageError(f"{place(path, number)} is not JSON: {e}.") from None
        if not isinstance(fields, dict):
            raise UsageError(f"{place(path, number)} is not a JSON object.")
        yield number, fields


def _numbered(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(stream, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise UsageError(f"{name}, line {number} is not UTF-8 text ({e.reason} at byte {e.start}).") from None
        yield number, line.rstrip("\r\n")


def _text_rows(lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    return (Row(str(number), line) for number, line in lines)


def _parquet_rows(path: Path, text_column: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as f:
            number = 0
            for batch in f.iter_batches(1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield _row(fields, str(number), f"{path}, row {number}", text_column)
    except pa.ArrowInvalid as e:
        raise UsageError(f"{path} is not a Parquet file: {e}") from None


def _row(fields: dict[str, Any], number: str, where: str, text_column: str) -> Row:
    if text_column not in fields:
        raise NotFound("column", text_column, fields, f"({where}) Name the text's column: --text-column.")
    text = fields.pop(text_column)
    if not isinstance(text, str):
        raise UsageError(f"{where}: column '{text_column}' holds {type(text).__name__}, not text.")
    return Row(number, text, fields)
