"""Read a run's vectors from its shards into vector tables.

In: a published run, and the specs of the tensors to make searchable. Out: rows in the tables of its model, and their indexes.
`traces index add`, `traces index rebuild`, captures with `--index` and merges call it; `reconcile` takes rows out again.

A run's rows of a table are one Lance commit: they are visible as a whole or not at all, and an interrupted call goes on with the
table that it was filling. Vectors stream from memory-mapped shards; neither side holds more than some batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse.errors import CorruptRunError, TracesError, UsageError, first_line
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import run_list
from warehouse.storage.grouping import group_by_size
from warehouse.storage.manifest import manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_list import find_run
from warehouse.storage.stored_tensors import Slice
from warehouse.storage.trace_store import TraceStore
from warehouse.storage.vector_info import RunRows
from warehouse.vectors import ann_index, index_spec
from warehouse.vectors.model_folders import claim_folder
from warehouse.vectors.reconcile import Note, reconcile_table
from warehouse.vectors.table import VectorTable, new_info, table_of

_BATCH_BYTES = 8 << 20
_SAMPLE = 20_000
"""Rows of each run that a centre is the median of."""


@dataclass(frozen=True)
class Settings:
    """What a table is to be like. None keeps what the table has; a new table gets the default."""

    kind: str | None = None
    """`auto`, `none`, `ivf_sq` or `ivf_pq`."""
    metric: str | None = None
    centred: bool | None = None
    """Whether the median of its vectors is subtracted from each."""


@dataclass(frozen=True)
class IngestResult:
    """What became of one table."""

    table: str
    rows: int
    """The run's rows."""
    new: bool
    """False where the table had the run's rows already."""


Report = Callable[[str, int], None]
"""Called with a table's name and the number of rows that were added to it."""


def _quiet(*_: Any) -> None:
    pass


class _DtypeOverflow(Exception):
    """A value that float16 cannot hold."""


def add(
    root: AnyPath,
    run_id: str,
    specs: Iterable[index_spec.IndexSpec],
    settings: Settings | None = None,
    report: Report = _quiet,
    note: Note = _quiet,
) -> list[IngestResult]:
    """Make tensors of a published run searchable, one table after the other.

    Args:
        root: The warehouse.
        run_id: The run.
        specs: The tensors.
        settings: Of new tables; existing tables must have them already.
        report: Called with a table's name and the number of rows that were added to it.
        note: Called with what is being done.

    Returns:
        A result per table. Rows that a table has already are left alone.

    Raises:
        UsageError: For what the run does not store, for settings that a table does not have, and for vectors that are not finite.
        CorruptRunError: For a damaged shard.
    """
    store = TraceStore(find_run(root, run_id))
    keys = index_spec.keys_for_run(store.meta, specs)
    if keys and (line := store.left_out()):
        note(line)
    folder = claim_folder(root, store.meta.model) if keys else ""
    results = []
    for key in keys:
        info = new_info(folder, store.meta.model, key, store.row_shape(key))
        table = table_of(root, folder, key) or VectorTable(root, info)
        with table.locked(note):
            _check_fits(table, store, key, settings)
            if table.exists:
                reconcile_table(table)
            if run_id in table.info.runs:
                ann_index.maintain_index(table, note)
                results.append(IngestResult(table.info.sql_name, table.info.runs[run_id].rows, new=False))
                continue
            if table.exists:
                _append(table, run_id, store, report)
            else:
                write(table, [run_id], settings or Settings(), report)
            ann_index.maintain_index(table, note)
            results.append(IngestResult(table.info.sql_name, table.info.runs[run_id].rows, new=True))
    return results


def _check_fits(table: VectorTable, store: TraceStore, key: Key, settings: Settings | None) -> None:
    info, shape = table.info, store.row_shape(key)
    if info.space != store.meta.model.space:
        raise UsageError(
            f"{info.sql_name} holds vectors of a model with other weights than that of run '{store.meta.run_id}'."
        )
    if info.width != shape[-1] or (info.heads or 1) != (shape[0] if len(shape) == 2 else 1):
        raise UsageError(
            f"{info.sql_name} holds vectors of width {info.width}; run '{store.meta.run_id}' has rows of shape {shape}."
        )
    if table.exists and settings:
        for name in ("kind", "metric", "centred"):
            wanted, current = getattr(settings, name), getattr(info, name)
            if wanted is not None and wanted != current:
                raise UsageError(
                    f"{info.sql_name} exists with {name} {current}. To change it: traces index rebuild {info.sql_name} "
                    "(see its --help)"
                )


def write(table: VectorTable, runs: list[str], settings: Settings, report: Report = _quiet) -> None:
    """Write a table from its runs in one commit; readers see its former rows until then.

    Args:
        table: The table, locked by the caller.
        runs: Names of the runs whose rows it is to hold.
        settings: What it is to be like.
        report: Called with the table's name and the number of rows that were added.
    """
    info = table.info.model_copy(deep=True)
    info.kind = settings.kind or info.kind  # type: ignore[assignment]  # the command line has checked it
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
    last = int(store.places(table.key).seq.max(initial=0))
    return RunRows(manifest=manifest_hash(table.root, run_id), rows=rows, last_seq=last)


def _stream(
    table: VectorTable,
    centre: np.ndarray | None,
    batches: Iterator[pa.RecordBatch],
    take: Callable[[pa.RecordBatchReader], object],
) -> None:
    """Hand batches to Lance; an error that `batches` raises comes out as it is, not as what Lance makes of it."""
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
    root: AnyPath, table: VectorTable, settings: Settings, report: Report = _quiet, note: Note = _quiet
) -> VectorTable:
    """Rebuild a table and its index from the runs that it lists.

    Args:
        root: The warehouse.
        table: The table.
        settings: What is to change.
        report: Called with the table's name and the number of rows that were added.
        note: Called with what is being done.

    Returns:
        The table, which is deleted where none of its runs exists any more.

    Raises:
        TracesError: Where a run is damaged; the table is then as it was. Otherwise as `add` does.
    """
    with table.locked(note):
        stale = [r for r in table.info.runs if not run_list.is_published(root, r)]
        runs = [r for r in table.info.runs if run_list.is_published(root, r)]
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
    """Yield a run's rows of a table, in the order of its shards."""
    info = table.info
    key, schema = table.key, info.arrow_schema(centre)
    slices = store.slices(key)
    _open_blobs(store, slices)
    itemsize = 4 if info.dtype == "float32" else 2
    size = max(1, _BATCH_BYTES // (info.width * (info.heads or 1) * itemsize))
    for group in group_by_size(_cut(slices, size), lambda s: s.n_rows, size, Slice.is_followed_by):
        first, last = group[0], group[-1]
        stored = store.blob(first.blob).rows(sites.tensor_name(*key), first.start, last.end)
        vectors = as_stored(stored, centre, info.dtype, run_id, info.name)
        yield _batch(info.heads or 1, info.head_column, run_id, info.layer, group, vectors, schema)


def _open_blobs(store: TraceStore, slices: list[Slice]) -> None:
    for name in dict.fromkeys(s.blob for s in slices):
        store.blob(name)  # raises CorruptRunError before the first row is written


def _cut(slices: list[Slice], size: int) -> Iterator[Slice]:
    """Cut slices into slices of at most `size` rows."""
    for s in slices:
        for start in range(s.start, s.end, size):
            yield s._replace(start=start, end=min(start + size, s.end), first=s.first + start - s.start)


def as_stored(vectors: np.ndarray, centre: np.ndarray | None, dtype: str, run_id: str, name: str) -> np.ndarray:
    """Convert a run's vectors to what a table stores.

    Args:
        vectors: As the run stores them, (..., D).
        centre: What to subtract from each, (D,); None for nothing.
        dtype: The table's, `float16` or `float32`.
        run_id: The run, for messages.
        name: The table, for messages.

    Returns:
        An array of the same shape, in `dtype`.

    Raises:
        UsageError: For NaN and infinity.
        _DtypeOverflow: For values that float16 cannot hold.
    """
    if vectors.dtype == np.float16 and centre is None and dtype == "float16":
        _check_finite(((vectors.view(np.uint16) & 0x7C00) != 0x7C00).all(), run_id, name)
        return vectors
    wide = vectors.astype(np.float32)
    _check_finite(np.isfinite(wide).all(), run_id, name)
    if centre is not None:
        wide = wide - centre
    if dtype == "float32":
        return wide
    if np.abs(wide).max(initial=0) >= 65520:  # would round to infinity
        raise _DtypeOverflow
    return wide.astype(np.float16)


def _check_finite(finite: np.bool, run_id: str, name: str) -> None:
    if not finite:
        raise UsageError(
            f"Run '{run_id}' has values in {name} that are not finite (NaN) and so have no neighbours: it was not indexed. "
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
    """Make a batch of Lance rows from pieces of sequences and their vectors, (tokens, [heads,] width)."""
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
    """Return the median of a sample of rows, dimension by dimension, (width,) float32; heads are taken together."""
    samples = []
    for store in stores:
        slices = store.slices(key)
        total = sum(s.end - s.start for s in slices)
        step = max(1, total // _SAMPLE)
        for s in slices:
            rows = store.blob(s.blob).rows(sites.tensor_name(*key), s.start, s.end)
            samples.append(rows[(-s.start) % step :: step].astype(np.float32).reshape(-1, rows.shape[-1]))
    centre: np.ndarray = np.median(np.concatenate(samples), axis=0).astype(np.float32)
    return centre
