"""Check a run's files: their sizes and checksums, and that safetensors' own reader sees the same tensors as ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import xxhash
from safetensors import safe_open

from warehouse.schema.arrow import arrow_schema
from warehouse.storage import paths
from warehouse.storage.files import file_checksum
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect


def check_files(store: TraceStore) -> str:
    """Check that the run's files are those that the manifest lists, with their sizes."""
    for f in store.meta.files:
        path = store.path / f.path
        expect(path.is_file(), f"{f.path} is missing")
        size = path.stat().st_size
        expect(size == f.bytes, f"{f.path} has {size} bytes, not {f.bytes}: it is cut short or altered")
    known = {*store.meta.file_infos, paths.MANIFEST}
    unlisted = sorted(
        p for p in store.path.rglob("*") if not p.is_dir() and p.relative_to(store.path).as_posix() not in known
    )
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
        schema = pq.read_schema(store.path / f.path)
        expect(schema.equals(arrow_schema(name)), f"{f.path} has other columns than table {name}")
    return f"{len(tables)} tables"


def check_tensor_checksums(store: TraceStore) -> str | None:
    """Check the checksums of slices as safetensors reads them: our own reader must not be the only judge of what we write."""
    blobs = [f.path for f in store.meta.files if paths.table_of_file(f.path) is None]
    count = 0
    for blob in blobs:
        ours = store.blob(blob).tensors
        with safe_open(store.path / blob, framework="numpy") as opened:
            theirs = {n: opened.get_slice(n) for n in opened.keys()}  # noqa: SIM118  no dict
            shapes = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in theirs.items()}
            expect(shapes == ours, f"{blob} is another file to safetensors than to us")
            count += _check_slices(store, blob, opened)
    return f"{count} slices in {len(blobs)} blobs, read by safetensors" if blobs else None


def _check_slices(store: TraceStore, blob: str, opened: Any) -> int:
    answer = store.query(
        "SELECT tensor, row_start, row_end, checksum, example_id, seq FROM tensors WHERE blob = ? ORDER BY tensor, row_start",
        [blob],
    )
    count, rows, name = 0, np.empty(0), ""
    while slices := answer.fetchmany(4096):
        for tensor, start, end, checksum, example_id, seq in slices:
            if tensor != name:
                name, rows = tensor, opened.get_tensor(tensor)
            octets = np.ascontiguousarray(rows[start:end]).reshape(-1).view(np.uint8)
            expect(
                xxhash.xxh3_64_hexdigest(octets) == checksum,
                f"{blob}: {tensor} of example {example_id}, seq {seq} is altered",
            )
        count += len(slices)
    return count
