"""Keeps a split's rows in a Parquet file under the warehouse root, to be read without the hub or the original format.

Rows come out as they went in. The file says what it is: data set, split, origin, counts, date and the version of this format. It
may have been copied from elsewhere: a file that is damaged, of a newer version or of other data, or has a row that cannot belong
to its data set, is refused with the command that prepares it again.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.data.arrow import ROWS_AT_ONCE, error_reason, plain_rows
from capture.data.dataset_spec import DatasetSpec, ReadRows
from capture.data.example import Choice, Label, Row, Word, check_storable
from capture.data.files import printable_value
from warehouse.errors import TracesError, UsageError
from warehouse.storage import strict_json
from warehouse.storage.files import sync_file, sync_folder, temporary_beside

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT_VERSION = 1
_KEY = b"trace-warehouse"


def write(
    path: Path,
    dataset: DatasetSpec,
    split: str,
    origin: str,
    rows: ReadRows,
    report: Callable[[int], None] = lambda n: None,
) -> Counter[str]:
    """Write a split, completely or not at all, in place of an earlier file.

    Args:
        path: The file to write.
        dataset: The data set.
        split: The split.
        origin: Where the rows are read from, as the user named it.
        rows: Reads them.
        report: Receives the number of rows that are done.

    Returns:
        The counts of rows, words, labels, choices, answers, and of each kind of row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    schema = _schema()
    counts: Counter[str] = Counter()
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            remaining = (check_storable(row, f"{printable_value(origin)}, row") for row in rows())
            while batch := list(islice(remaining, ROWS_AT_ONCE)):
                writer.write_table(pa.Table.from_pylist([_fields(row) for row in batch], schema))
                for row in batch:
                    _count(row, dataset, counts)
                report(counts["rows"])
            about = {
                "format_version": FORMAT_VERSION,
                "dataset": dataset.dataset,
                "config": dataset.config,
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


def read(path: Path, dataset: DatasetSpec, split: str) -> Iterator[Row]:
    """Read the rows of a prepared split, batch by batch.

    Args:
        path: The file.
        dataset: The data set that it should hold.
        split: The split that it should hold.

    Yields:
        The rows, as they were written.

    Raises:
        TracesError: The file is damaged, holds something else, or has a row that cannot belong to the data set; the message
            names the first such row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    again = f"Prepare it again: traces data prepare {dataset.name} --split {split}"
    read = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as f:
            _check(f, path, dataset, split, again)
            for batch in f.iter_batches(ROWS_AT_ONCE):
                for fields in plain_rows(batch, printable_value(path), read + 1):
                    read += 1
                    try:
                        yield _row(fields, dataset)
                    except _InvalidRow as e:
                        raise TracesError(f"{printable_value(path)}, row {read}: {e}. {again}") from None
    except UsageError as e:  # a value that cannot be read
        raise TracesError(f"{e} {again}") from None
    except (pa.ArrowException, OSError, ValueError) as e:
        raise TracesError(
            f"{printable_value(path)} is damaged ({error_reason(e).removesuffix('.')}). {again}"
        ) from None


def _check(f: pq.ParquetFile, path: Path, dataset: DatasetSpec, split: str, again: str) -> None:
    """Raise TracesError where a file's description of itself says that it holds something else."""
    try:
        about = strict_json.parse((f.metadata.metadata or {}).get(_KEY, b"{}"))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        about = {}
    version = about.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise TracesError(
            f"{printable_value(path)} was prepared by a newer version (its format is {printable_value(version, 20)}, this one reads {FORMAT_VERSION}). "
            f"Upgrade: pip install -U trace-warehouse; or prepare it again: traces data prepare {dataset.name}"
        )
    if version != FORMAT_VERSION or not f.schema_arrow.equals(_schema()):
        raise TracesError(f"{printable_value(path)} is not prepared data. {again}")
    described = [about.get(name) for name in ("dataset", "config", "split")]
    if described != [dataset.dataset, dataset.config, split]:
        contents = " ".join(printable_value(x, 40) for x in described if x is not None)
        raise TracesError(f"{printable_value(path)} says that it holds other data: {contents or 'nothing'}. {again}")


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


class _InvalidRow(Exception):
    """Why a row cannot belong to its data set."""


def _row(fields: dict[str, Any], dataset: DatasetSpec) -> Row:
    """Return a row from its fields; raise `_InvalidRow` where it cannot belong to the data set."""
    for name, value in fields.items():
        if value is None and name != "answer":
            raise _InvalidRow(f"its column {name} is null")
    text = fields["text"]
    return Row(
        fields["source_id"],
        text,
        _metadata(fields["metadata"]),
        _words(fields["words"], len(text)),
        _labels(fields["labels"], dataset.labels),
        _choices(fields["choices"], dataset.n_choices),
        _answer(fields["answer"], dataset.n_choices),
    )


def _metadata(raw: str) -> dict[str, Any]:
    try:
        metadata = strict_json.parse(raw)
    except ValueError as e:
        raise _InvalidRow(f"its metadata is not JSON: {e}") from None
    if not isinstance(metadata, dict):
        raise _InvalidRow("its metadata is not a JSON object")
    return metadata


def _words(stored: list[dict[str, Any] | None], length: int) -> tuple[Word, ...]:
    for i, w in enumerate(stored):
        if w is None or w["word_id"] is None:
            raise _InvalidRow(f"its word {i} is null")
        start, end, head = w["start"], w["end"], w["head"]
        if (start, end) != (None, None) and (start is None or end is None or not 0 <= start < end <= length):
            raise _InvalidRow(f"its word {i} is at characters {start} to {end} of a text of {length}")
        if head is not None and not 0 <= head < len(stored):
            raise _InvalidRow(f"the head of its word {i} is word {head} of {len(stored)}")
    return tuple(Word(**w) for w in stored if w is not None)


def _labels(stored: list[dict[str, Any] | None], names: Sequence[str]) -> tuple[Label, ...]:
    labels = tuple(Label(**x) for x in stored if x is not None)
    for x in labels:
        if x.label_id is None or not 0 <= x.label_id < len(names) or x.label != names[x.label_id]:
            raise _InvalidRow(f"there is no label {x.label_id} '{printable_value(x.label, 40)}'")
    if len(set(labels)) < len(stored):
        raise _InvalidRow("it has a label that is null or repeated")
    return labels


def _choices(stored: list[dict[str, Any] | None], number: int) -> tuple[Choice, ...]:
    if len(stored) != number:
        raise _InvalidRow(f"it has {len(stored)} choices, not {number}")
    choices = tuple(Choice(**c) for c in stored if c is not None)
    if len(choices) < number or any(c.label is None or c.text is None for c in choices):
        raise _InvalidRow("it has a choice that is null")
    if len({c.label for c in choices}) < number:
        raise _InvalidRow("two of its choices have the same label")
    return choices


def _answer(stored: int | None, number: int) -> int | None:
    if stored is not None and not 0 <= stored < number:
        raise _InvalidRow(f"its answer is choice {stored} of {number}")
    return stored


def _count(row: Row, dataset: DatasetSpec, counts: Counter[str]) -> None:
    counts.update(rows=1, words=len(row.words), labels=len(row.labels), choices=len(row.choices))
    counts["answers"] += row.answer is not None
    if dataset.row_kind is not None:
        counts[dataset.row_kind(row.text)] += 1
