"""What a sound run must satisfy, one check after another, each told with what was found.

From the folder alone: no model is loaded (`capture.recheck` runs one again). Cheap checks come first; where files are
missing or altered, those that would read them are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import xxhash

from warehouse import contents, layout
from warehouse.check import Check, Unsound, expect
from warehouse.errors import TracesError
from warehouse.files import file_checksum
from warehouse.schema import arrow_schema
from warehouse.store import TraceStore


def validate(folder: Path) -> Iterator[Check]:
    """Yields each check as it is done. Raises NewerSchema or CorruptRun where the manifest itself cannot be read."""
    store = TraceStore(folder)
    sound = True
    for name, check in _FILE_CHECKS.items():
        result = _done(name, check, store)
        sound &= result.passed is not False
        yield result
    if not sound:
        yield Check("contents", None, "not looked at, since files are missing or altered")
        return
    for name, check in contents.CHECKS.items():
        yield _done(name, check, store)


def _done(name: str, check: Callable[[TraceStore], str | None], store: TraceStore) -> Check:
    try:
        detail = check(store)
    except Unsound as e:
        return Check(name, False, str(e))
    except (TracesError, OSError, ValueError) as e:  # what a reader raises on an altered file
        return Check(name, False, str(e))
    return Check(name, None if detail is None else True, detail or "nothing to check: the run has none")


# -- files -------------------------------------------------------------------------------------------------------------


def _files(store: TraceStore) -> str:
    for f in store.meta.files:
        path = store.path / f.path
        expect(path.is_file(), f"{f.path} is missing")
        size = path.stat().st_size
        expect(size == f.bytes, f"{f.path} has {size} bytes, not {f.bytes}: it is cut short or altered")
    return f"{len(store.meta.files)} files have their sizes"


def _table_checksums(store: TraceStore) -> str:
    known = [f for f in store.meta.files if f.checksum is not None]
    for f in known:
        expect(
            file_checksum(store.path / f.path) == f.checksum, f"{f.path} is altered: its xxh3-128 is not the manifest's"
        )
    tables = [f for f in known if not f.path.startswith(f"{layout.BLOBS}/")]
    for f in tables:
        name = f.path.split("/")[0]
        schema = pq.read_schema(store.path / f.path)
        expect(schema.equals(arrow_schema(name)), f"{f.path} has other columns than table {name}")
    return f"{len(tables)} tables"


def _tensor_checksums(store: TraceStore) -> str | None:
    if not store.meta.sites:
        return None
    count = 0
    for batch in pq.ParquetFile(store.path / layout.table_name("tensors")).iter_batches(
        columns=["example_id", "seq", "blob", "tensor", "row_start", "row_end", "checksum"]
    ):
        for row in batch.to_pylist():
            rows = store.blob(row["blob"]).rows(row["tensor"], row["row_start"], row["row_end"])
            octets = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
            expect(
                xxhash.xxh3_64_hexdigest(octets) == row["checksum"],
                f"{row['blob']}: {row['tensor']} of example {row['example_id']}, seq {row['seq']} is altered",
            )
            count += 1
    return f"{count} slices"


_FILE_CHECKS: dict[str, Callable[[TraceStore], str | None]] = {
    "files": _files,
    "table checksums": _table_checksums,
    "tensor checksums": _tensor_checksums,
}
