"""Prepared data: a split's rows in a Parquet file under the warehouse root, read again without the hub or its format.

Rows come out as they went in. The file says what it is: data set, split, origin, counts, date and the version of this
format; one that is damaged, or of a newer version, is refused with the command that makes it again.
"""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.data.example import Choice, Label, Row, Word
from capture.data.known import Known, Rows
from warehouse.errors import TracesError, UsageError
from warehouse.files import sync_file, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT_VERSION = 1
_KEY = b"trace-warehouse"
_ROWS_AT_ONCE = 1024


def write(
    path: Path, known: Known, split: str, origin: str, rows: Rows, report: Callable[[int], None] = lambda n: None
) -> Counter[str]:
    """Writes a split, whole or not at all, in place of what was there; `report` is told how many rows are done.

    Returns the counts of rows, words, labels, choices, answers, and of each kind of row. Raises UsageError for rows
    that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    schema = _schema()
    counts: Counter[str] = Counter()
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            remaining = rows()
            while batch := list(islice(remaining, _ROWS_AT_ONCE)):
                try:
                    table = pa.Table.from_pylist([_fields(row) for row in batch], schema)
                except UnicodeEncodeError as e:  # half of a surrogate pair, which JSON can spell
                    raise UsageError(f"{origin} has a text that is not Unicode: {e}.") from None
                writer.write_table(table)
                for row in batch:
                    _count(row, known, counts)
                report(counts["rows"])
            about = {
                "format_version": FORMAT_VERSION,
                "dataset": known.dataset,
                "config": known.config,
                "split": split,
                "origin": origin,
                "counts": dict(+counts),
                "prepared_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
            writer.add_key_value_metadata({_KEY: json.dumps(about, ensure_ascii=False).encode()})
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return +counts


def read(path: Path, name: str) -> Iterator[Row]:
    """The rows of a split of the data set `name`, batch by batch. Raises TracesError for a file that is not sound."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as f:
            _check(f, path, name)
            for batch in f.iter_batches(_ROWS_AT_ONCE):
                yield from map(_row, batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError) as e:
        raise TracesError(f"{path} is damaged ({str(e).splitlines()[0]}). {_again(name)}") from None


def _check(f: pq.ParquetFile, path: Path, name: str) -> None:
    about = json.loads((f.metadata.metadata or {}).get(_KEY, b"{}"))
    found = about.get("format_version", 0)
    if found > FORMAT_VERSION:
        raise TracesError(
            f"{path} was prepared by a newer version (its format is {found}, this one reads {FORMAT_VERSION}). "
            f"Upgrade: pip install -U trace-warehouse; or prepare it again: traces data prepare {name}"
        )
    if not found or not f.schema_arrow.equals(_schema()):
        raise TracesError(f"{path} is no prepared data. {_again(name)}")


def _again(name: str) -> str:
    return f"Prepare it again: traces data prepare {name}"


def _schema() -> pa.Schema:
    import pyarrow as pa

    texts = {name: pa.string() for name in Word.__dataclass_fields__}
    word = texts | {name: pa.int32() for name in ("head", "start", "end")}
    return pa.schema(
        {
            "source_id": pa.string(),
            "text": pa.string(),
            "metadata": pa.string(),
            "words": pa.list_(pa.struct(word)),
            "labels": pa.list_(pa.struct({"label_id": pa.int32(), "label": pa.string()})),
            "choices": pa.list_(pa.struct({"label": pa.string(), "text": pa.string()})),
            "answer": pa.int32(),
        }
    )


def _fields(row: Row) -> dict[str, Any]:
    return asdict(row) | {"metadata": json.dumps(row.metadata, ensure_ascii=False)}


def _row(fields: dict[str, Any]) -> Row:
    return Row(
        fields["source_id"],
        fields["text"],
        json.loads(fields["metadata"]),
        tuple(Word(**w) for w in fields["words"]),
        tuple(Label(**x) for x in fields["labels"]),
        tuple(Choice(**c) for c in fields["choices"]),
        fields["answer"],
    )


def _count(row: Row, known: Known, counts: Counter[str]) -> None:
    counts.update(rows=1, words=len(row.words), labels=len(row.labels), choices=len(row.choices))
    counts["answers"] += row.answer is not None
    if known.kind is not None:
        counts[known.kind(row.text)] += 1
