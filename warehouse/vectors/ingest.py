"""From a run's shards into vector tables, and out of them when the run goes.

A run's rows of a table are one Lance commit: they are there whole or not at all, and an interrupted fill goes on with the
table that it was at. Vectors stream from the memory-mapped shards; neither side holds more than some batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse.errors import CorruptRunError, TracesError, UsageError, first_line
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.manifest import manifest_hash
from warehouse.storage.paths import find_run
from warehouse.storage.stored_tensors import Slice
from warehouse.storage.trace_store import TraceStore
from warehouse.storage.vector_info import RunRows
from warehouse.vectors import ann_index, index_spec
from warehouse.vectors.model_folders import claim_folder
from warehouse.vectors.reconcile import Note, reconcile_table
from warehouse.vectors.table import VectorTable, new_info, table_of

_BATCH_BYTES = 8 << 20
_SAMPLE = 20_000
"""Rows that a centre is the median of."""


@dataclass(frozen=True)
class Settings:
    """What a table is to be like. None: as it is, or for a new one the default."""

    kind: str | None = None
    metric: str | None = None
    centred: bool | None = None


@dataclass(frozen=True)
class IngestResult:
    """What became of one table."""

    table: str
    rows: int
    """Of the run."""
    new: bool
    """False: the run was there already."""


Report = Callable[[str, int], None]
"""Called with a table's name and so many rows more."""


def _quiet(*_: Any) -> None:
    pass


class _DtypeOverflow(Exception):
    """A value that float16 cannot hold."""


def add(
    root: Path,
    run_id: str,
    specs: Iterable[index_spec.IndexSpec],
    settings: Settings | None = None,
    report: Report = _quiet,
    note: Note = _quiet,
) -> list[IngestResult]:
    """Makes tensors of a published run searchable, one table after the other; what is there already is left.

    Raises UsageError for what the run does not store, for settings that a table does not have, and where vectors are not
    numbers (NaN); CorruptRunError for a damaged shard.
    """
    store = TraceStore(find_run(root, run_id))
    keys = index_spec.keys_for_run(store.meta, specs)
    folder = claim_folder(root, store.meta.model) if keys else ""
    filled = []
    for key in keys:
        info = new_info(folder, store.meta.model, key, store.row_shape(key))
        table = table_of(root, folder, key) or VectorTable(root, info)
        with table.locked(note):
            _check_fits(table, store, key, settings)
            if table.exists:
                reconcile_table(table)
            if run_id in table.info.runs:
                ann_index.maintain_index(table, note)
                filled.append(IngestResult(table.info.sql_name, table.info.runs[run_id].rows, new=False))
                continue
            if table.exists:
                _append(table, run_id, store, report)
            else:
                write(table, [run_id], settings or Settings(), report)
            ann_index.maintain_index(table, note)
            filled.append(IngestResult(table.info.sql_name, table.info.runs[run_id].rows, new=True))
    return filled


def _check_fits(table: VectorTable, store: TraceStore, key: Key, settings: Settings | None) -> None:
    info, shape = table.info, store.row_shape(key)
    if info.space != store.meta.model.space:
        raise UsageError(
            f"{info.sql_name} holds vectors of a model with other weights than run '{store.meta.run_id}' is of."
        )
    if info.width != shape[-1] or (info.heads or 1) != (shape[0] if len(shape) == 2 else 1):
        raise UsageError(
            f"{info.sql_name} holds vectors of width {info.width}; run '{store.meta.run_id}' has rows of shape {shape}."
        )
    if table.exists and settings:
        is_now = Settings(info.kind, info.metric, info.centred)
        for name in ("kind", "metric", "centred"):
            wanted = getattr(settings, name)
            if wanted is not None and wanted != getattr(is_now, name):
                raise UsageError(
                    f"{info.sql_name} is there with {name} {getattr(is_now, name)}. To change it: "
                    f"traces index rebuild {info.sql_name} (see its --help)"
                )


def write(table: VectorTable, runs: list[str], settings: Settings, report: Report = _quiet) -> None:
    """Writes a table anew from its runs, in one commit; what there was stays until then. Call it under the lock."""
    info = table.info.model_copy(deep=True)
    info.kind = settings.kind or info.kind  # type: ignore[assignment]  # the command line knows what there is
    info.metric = settings.metric or info.metric  # type: ignore[assignment]
    info.centred = info.centred if settings.centred is None else settings.centred
    info.index, table.info = None, info
    key = table.key
    stores = {run: TraceStore(find_run(table.root, run)) for run in runs}
    centre = _median(stores.values(), key) if info.centred else None
    counts: dict[str, int] = dict.fromkeys(runs, 0)

    def batches() -> Iterator[pa.RecordBatch]:
        for run, store in stores.items():
            for batch in _rows(table, run, store, centre):
                counts[run] += len(batch)
                report(info.sql_name, len(batch))
                yield batch

    try:
        _stream(table, centre, batches(), table.replace)
    except _DtypeOverflow:
        info.dtype = "float32"
        counts = dict.fromkeys(runs, 0)
        _stream(table, centre, batches(), table.replace)
    info.runs = {run: _run_rows(table, stores[run], run, n) for run, n in counts.items()}
    table.write_info()


def _append(table: VectorTable, run_id: str, store: TraceStore, report: Report) -> None:
    lance, centre, rows = table.lance, table.centre, 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in _rows(table, run_id, store, centre):
            rows += len(batch)
            report(table.info.sql_name, len(batch))
            yield batch

    try:
        _stream(table, centre, batches(), lance.add)
    except _DtypeOverflow:
        write(table, [*table.info.runs, run_id], Settings(), report)
        return
    table.info.runs[run_id] = _run_rows(table, store, run_id, rows)
    table.write_info()


def _run_rows(table: VectorTable, store: TraceStore, run_id: str, rows: int) -> RunRows:
    last = max((s.seq for s in store.slices(table.key)), default=0)
    return RunRows(manifest=manifest_hash(table.root, run_id), rows=rows, last_seq=last)


def _stream(
    table: VectorTable,
    centre: np.ndarray | None,
    batches: Iterator[pa.RecordBatch],
    take: Callable[[pa.RecordBatchReader], object],
) -> None:
    """Hands batches to Lance; an error of ours comes out as it is, not as what Lance makes of it."""
    raised: list[Exception] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except Exception as e:
            raised.append(e)
            raise

    try:
        take(pa.RecordBatchReader.from_batches(table.info.arrow_schema(centre), watched()))
    except (RuntimeError, OSError, ValueError) as e:
        if raised:
            raise raised[0] from None
        raise TracesError(
            f"Filling {table.info.sql_name} failed: {first_line(e)} Nothing of it is visible; run the same command again."
        ) from e


def rebuild(
    root: Path, table: VectorTable, settings: Settings, report: Report = _quiet, note: Note = _quiet
) -> VectorTable:
    """Makes a table again from the runs that it is of, and its index. Raises as `add` does."""
    with table.locked(note):
        stale = [r for r in table.info.runs if not (paths.run_dir(root, r) / paths.MANIFEST).is_file()]
        runs = [r for r in table.info.runs if (paths.run_dir(root, r) / paths.MANIFEST).is_file()]
        runs = [r for r in runs if TraceStore(find_run(root, r)).meta.model.space == table.info.space]
        if not runs:
            table.remove()
            return table
        try:
            write(table, runs, settings, report)
        except CorruptRunError as e:
            raise TracesError(
                f"{e} {table.info.sql_name} is as it was; delete that run, or copy it in again."
            ) from None
        note(f"{table.info.sql_name}: {table.info.rows:,} rows" + (f", without {', '.join(stale)}" if stale else ""))
        ann_index.maintain_index(table, note)
    return table


# -- rows --------------------------------------------------------------------------------------------------------------


def _rows(table: VectorTable, run_id: str, store: TraceStore, centre: np.ndarray | None) -> Iterator[pa.RecordBatch]:
    """A run's rows of a table, in the order of its shards."""
    info = table.info
    key, schema = table.key, info.arrow_schema(centre)
    slices = store.slices(key)
    _open_blobs(store, slices)
    itemsize = 4 if info.dtype == "float32" else 2
    size = max(1, _BATCH_BYTES // (info.width * (info.heads or 1) * itemsize))
    for group in _groups(slices, size):
        first, last = group[0], group[-1]
        found = store.blob(first.blob).rows(sites.tensor_name(*key), first.start, last.end)
        vectors = as_stored(found, centre, info.dtype, run_id, info.name)
        yield _batch(info.heads or 1, info.head_column, run_id, info.layer, group, vectors, schema)


def _open_blobs(store: TraceStore, slices: list[Slice]) -> None:
    for name in dict.fromkeys(s.blob for s in slices):
        store.blob(name)  # raises CorruptRunError before the first row is written


def _groups(slices: list[Slice], size: int) -> Iterator[list[Slice]]:
    """Neighbours in a shard, together about `size` rows; a sequence longer than that is cut."""
    group: list[Slice] = []
    for whole in slices:
        for start in range(whole.start, whole.end, size):
            piece = whole._replace(
                start=start, end=min(start + size, whole.end), first=whole.first + start - whole.start
            )
            joins = group and piece.blob == group[-1].blob and piece.start == group[-1].end
            if group and (not joins or piece.end - group[0].start > size):
                yield group
                group = []
            group.append(piece)
    if group:
        yield group


def as_stored(found: np.ndarray, centre: np.ndarray | None, dtype: str, run_id: str, name: str) -> np.ndarray:
    """Vectors as the table keeps them. Raises UsageError for NaN and infinity, _DtypeOverflow for what float16 cannot hold."""
    if found.dtype == np.float16 and centre is None and dtype == "float16":
        if ((found.view(np.uint16) & 0x7C00) == 0x7C00).any():
            raise _not_finite(run_id, name)
        return found
    wide = found.astype(np.float32)
    if not np.isfinite(wide).all():
        raise _not_finite(run_id, name)
    if centre is not None:
        wide = wide - centre
    if dtype == "float32":
        return wide
    if np.abs(wide).max(initial=0) >= 65520:  # would round to infinity
        raise _DtypeOverflow
    return wide.astype(np.float16)


def _not_finite(run_id: str, name: str) -> UsageError:
    return UsageError(
        f"Run '{run_id}' has values in {name} that are not finite (NaN), which have no neighbours: it was not indexed. "
        f"traces runs validate {run_id} says where."
    )


def _batch(
    heads: int,
    head_column: str | None,
    run_id: str,
    layer: int | None,
    group: list[Slice],
    vectors: np.ndarray,
    schema: pa.Schema,
) -> pa.RecordBatch:
    """`group`: pieces of sequences, `vectors` (rows of all of them, [heads,] width)."""
    lengths = np.array([(s.end - s.start) * heads for s in group])
    n = int(lengths.sum())
    ids = pa.array([s.example_id for s in group]).take(pa.array(np.repeat(np.arange(len(group)), lengths)))
    firsts = np.array([s.first for s in group])
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    token = (np.arange(n) - starts) // heads
    head = pa.array(np.tile(np.arange(heads), n // heads)) if head_column else None
    columns = {
        "run_id": pa.repeat(run_id, n),
        "example_id": ids,
        "seq": np.repeat([s.seq for s in group], lengths),
        "pos": np.repeat(firsts, lengths) + token,
        "layer": pa.nulls(n, pa.int64()) if layer is None else pa.repeat(pa.scalar(layer, pa.int64()), n),
        "head": head if head_column == "head" else pa.nulls(n, pa.int64()),
        "kv_head": head if head_column == "kv_head" else pa.nulls(n, pa.int64()),
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(vectors).reshape(-1)), type=schema.field("vector").type
        ),
    }
    return pa.record_batch(list(columns.values()), schema=schema)


def _median(stores: Iterable[TraceStore], key: Key) -> np.ndarray:
    """Of a sample of rows, by dimension, float32; of all heads together where there are some."""
    found = []
    for store in stores:
        slices = store.slices(key)
        total = sum(s.end - s.start for s in slices)
        step = max(1, total // _SAMPLE)
        for s in slices:
            rows = store.blob(s.blob).rows(sites.tensor_name(*key), s.start, s.end)
            found.append(rows[(-s.start) % step :: step].astype(np.float32).reshape(-1, rows.shape[-1]))
    centre: np.ndarray = np.median(np.concatenate(found), axis=0).astype(np.float32)
    return centre
