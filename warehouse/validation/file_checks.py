"""Check a run's files: their sizes and checksums, and that safetensors' own reader sees the same tensors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from warehouse.catalog import build
from warehouse.schema.arrow import arrow_schema
from warehouse.schema.quoting import sql_text
from warehouse.storage import paths
from warehouse.storage.coded_shard import COMPANIONS_CHECKSUM, companions_checksum
from warehouse.storage.files import file_checksum, on_this_disk, parquet_source
from warehouse.storage.grouping import group_by_size
from warehouse.storage.objects import below
from warehouse.storage.sequence_checksums import (
    SEQUENCE_CHECKSUMS_SINCE,
    SequenceSums,
    altered_tensors,
    from_hex,
    slice_digests,
)
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect

_INDEX_ROWS = 1 << 15
"""Rows of the tensor index that are sorted at once, but for those of a blob that has more."""


def check_files(store: TraceStore) -> str:
    """Check that the run's files are those that the manifest lists, with their sizes."""
    for f in store.meta.files:
        path = store.path / f.path
        expect(path.is_file(), f"{f.path} is missing")
        size = path.stat().st_size
        expect(size == f.bytes, f"{f.path} has {size} bytes, not {f.bytes}: it is cut short or altered")
    known = {*store.meta.file_infos, paths.MANIFEST}
    unlisted = sorted(p for p in store.path.rglob("*") if not p.is_dir() and below(p, store.path) not in known)
    expect(not unlisted, f"{unlisted[0] if unlisted else ''} is not one of the files that were written")
    total = sum(f.bytes for f in store.meta.files)
    expect(total == store.meta.bytes, f"its files have {total} bytes together, not {store.meta.bytes}")
    return f"{len(store.meta.files)} files have their sizes, and the manifest is as it was sealed"


def check_table_checksums(store: TraceStore) -> str:
    """Check that files have their checksums, and tables their columns."""
    known = [f for f in store.meta.files if f.checksum is not None]
    for f in known:
        expect(
            file_checksum(store.path / f.path) == f.checksum, f"{f.path} is altered: its xxh3-128 is not the manifest's"
        )
    tables = [f for f in known if not f.path.startswith(f"{paths.BLOBS}/")]
    for f in tables:
        name = f.path.split("/")[0]
        schema = pq.read_schema(parquet_source(store.path / f.path))
        expect(schema.equals(arrow_schema(name)), f"{f.path} has other columns than table {name}")
    return f"{len(tables)} tables"


def check_compacted(store: TraceStore) -> str | None:
    """Check the compacted files that the views read in the place of the run's own tables, if they do."""
    root, run_id = store.path.parent, paths.run_id_of(store.path)
    for name, group in build.read_groups(root).items():
        if run_id in group.runs:
            for table, checksum in group.checksums.items():
                file = paths.compacted_file(name, table)
                whole = (root / file).is_file() and file_checksum(root / file) == checksum
                expect(
                    whole, f"{file}, a copy that the views read, is missing or altered: traces refresh makes it again"
                )
            return f"{len(group.checksums)} copies of tables, with those of {len(group.runs)} runs"
    return None


def check_tensor_checksums(store: TraceStore) -> str | None:
    """Check the checksums of slices as safetensors reads them: our own reader must not be the only judge of what we write."""
    blobs = [f.path for f in store.meta.files if paths.table_of_file(f.path) is None]
    index, count = _index_by_blob(store), 0
    of_blob, rows = next(index, ("", None))
    for blob in sorted(blobs):
        ours = store.blob(blob).tensors
        with on_this_disk(store.path / blob) as file, safe_open(file, framework="numpy") as opened:
            theirs = {n: opened.get_slice(n) for n in opened.keys()}  # noqa: SIM118  no dict
            shapes = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in theirs.items()}
            companions = store.blob(blob).companions
            expect(shapes == ours | companions, f"{blob} is another file to safetensors than to us")
            if companions:
                checksum = companions_checksum({name: opened.get_tensor(name) for name in companions})
                known = (opened.metadata() or {}).get(COMPANIONS_CHECKSUM)
                expect(checksum == known, f"{blob}: a centre, a scale or an exact value of its int8 tensors is altered")
            while rows is not None and of_blob < blob:
                of_blob, rows = next(index, ("", None))
            if rows is not None and of_blob == blob:
                _check_slices(store, blob, rows, opened)
                count += len(rows)
    return f"{count} slices in {len(blobs)} blobs, read by safetensors" if blobs else None


def _index_by_blob(store: TraceStore) -> Iterator[tuple[str, pa.Table]]:
    """Return every blob with its rows of the index, in their order there; some blobs' rows are sorted at a time, whatever the run's size."""
    counts = store.query("SELECT blob, count(*) FROM tensors GROUP BY blob ORDER BY blob").fetchall()
    for some in group_by_size(counts, lambda blob: blob[1], _INDEX_ROWS):
        names = ", ".join(sql_text(blob) for blob, _ in some)
        rows = store.query(
            "SELECT tensor, row_start, row_end, checksum, example_id, seq FROM tensors "
            f"WHERE blob IN ({names}) ORDER BY blob, tensor, row_start"
        ).to_arrow_table()
        ends = accumulate(count for _, count in some)
        yield from ((blob, rows.slice(end - count, count)) for (blob, count), end in zip(some, ends, strict=True))


def _check_slices(store: TraceStore, blob: str, index: pa.Table, opened: Any) -> None:
    """Check the slices of a blob against its rows of the index."""
    tensor, start, end, checksum, example_id, seq = (column.to_numpy() for column in index.columns)
    first = np.flatnonzero(np.concatenate([[True], tensor[1:] != tensor[:-1]])).tolist()
    parts = [(tensor[a], slice(a, b)) for a, b in pairwise([*first, len(index)])]
    digests = np.empty(len(index), np.uint64)
    for name, part in parts:
        digests[part] = slice_digests(np.ascontiguousarray(opened.get_tensor(name)), start[part], end[part])
    if store.meta.schema_version < SEQUENCE_CHECKSUMS_SINCE:
        wrong = np.flatnonzero(digests != np.array([int(c, 16) for c in checksum], np.uint64)).tolist()
        found = [(tensor[i], i) for i in wrong[:1]]
    else:
        found = _find_altered(parts, digests, from_hex(checksum), _number_sequences(index))
    for name, at in found:
        expect(False, f"{blob}: {name} of example {example_id[at]}, seq {seq[at]} is altered")


def _find_altered(
    parts: list[tuple[str, slice]], digests: np.ndarray, checksums: np.ndarray, sequence: np.ndarray
) -> list[tuple[str, int]]:
    """Find a sequence whose slices do not have its checksum; one that lacks a slice is for `check_keys`.

    Args:
        parts: Every tensor, and its rows of the index.
        digests: Every slice's digest, (n,).
        checksums: The checksum that the index has in each row, (n, 2).
        sequence: The number of each row's sequence, (n,).

    Returns:
        What was altered, in words, and a row of the index; nothing where all is as it was.
    """
    n = int(sequence.max()) + 1
    sums, known = SequenceSums(n), np.empty((n, 2), np.uint64)
    known[sequence] = checksums
    for name, part in parts:
        sums.add(name, digests[part], sequence[part])
    whole = np.bincount(sequence, minlength=n) == len(parts)
    differs = (sums.values != known).any(axis=1)[sequence] | (checksums != known[sequence]).any(axis=1)
    wrong = np.flatnonzero(differs & whole[sequence])
    if not len(wrong):
        return []
    at = int(wrong[0])
    names = altered_tensors(sums.values[sequence[at]] - checksums[at], (name for name, _ in parts))
    return [(names[0] if len(names) == 1 else "some of the tensors", at)]


def _number_sequences(index: pa.Table) -> np.ndarray:
    """Return a number for each row of the index that its sequence has in all its rows, from 0 on."""
    example = index["example_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    numbers: np.ndarray = np.unique(example << 32 | index["seq"].to_numpy(), return_inverse=True)[1]
    return numbers
