"""Texts from a file or standard input: .txt (an example a line), .jsonl and .parquet (a text column), `-` (lines).

Knows nothing of any one data set; those that come as files read them through `file_rows` too.
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
        return Source("stdin", None, None, "-", lambda: _lines(lines, "standard input"), has_ids=False)
    path = Path(origin).expanduser()
    return Source(path.stem, None, None, origin, lambda: file_rows(path, text_column), has_ids=False)


def file_rows(path: Path, text_column: str = "text") -> Iterator[Row]:
    """Every row of a file, blank ones included, so that row numbers are the file's. Reads as it goes."""
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        raise NotFound("file", str(path), [str(path.with_name(n)) for n in beside])
    if path.suffix == ".jsonl":
        return _json_rows(path, text_column)
    if path.suffix == ".parquet":
        return _parquet_rows(path, text_column)
    if path.suffix in (".pt", ".bin", ".safetensors", ".gguf", ".pdf", ".zip", ".gz", ".csv", ".json"):
        raise UsageError(f"{path}: texts come from .txt, .jsonl or .parquet files, not from {path.suffix}.")
    return _text_rows(path)


def _lines(stream: Iterable[bytes], name: str) -> Iterator[Row]:
    for number, raw in enumerate(stream, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise UsageError(f"{name}, line {number} is not UTF-8 text ({e.reason} at byte {e.start}).") from None
        yield Row(str(number), line.rstrip("\r\n"))


def _text_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as f:
        yield from _lines(f, str(path))


def _json_rows(path: Path, text_column: str) -> Iterator[Row]:
    with path.open("rb") as f:
        for line in _lines(f, str(path)):
            where = f"{path}, line {line.source_id}"
            if not line.text.strip():
                continue
            try:
                fields = json.loads(line.text)
            except ValueError as e:
                raise UsageError(f"{where} is not JSON: {e}.") from None
            if not isinstance(fields, dict):
                raise UsageError(f"{where} is not a JSON object.")
            yield _row(fields, line.source_id, where, text_column)


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
