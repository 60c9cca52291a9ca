"""The shard in progress: batches come in, one safetensors file and a Parquet file a table come out.

`RunWriter` opens a shard in its thread, hands it the batches, and journals what `complete` has written. A shard that is
abandoned leaves files that no journal line names, which the next process deletes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from warehouse.schema import sites
from warehouse.schema.arrow import arrow_schema
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.blobs import Blob, ShardFile, TensorSpec
from warehouse.storage.coded_shard import write_coded
from warehouse.storage.parquet import to_table, write_part
from warehouse.storage.sequence_checksums import SequenceSums, slice_digests, to_hex


def _do_nothing() -> None:
    pass


def _no_tables() -> Mapping[str, pa.Table]:
    return {}


@dataclass(frozen=True)
class RecordedBatch:
    """What one forward pass leaves: its sequences' tensors, packed end to end, and its rows of the small tables."""

    sequences: list[tuple[str, int]]
    """(example_id, seq), in the order in which the tensors hold them."""
    tensors: Mapping[Key, np.ndarray]
    """(rows, *row_shape) each."""
    rows: Mapping[Key, list[int]]
    """Each tensor's number of rows for each sequence."""
    tables: Mapping[str, pa.Table]
    deferred_tables: Callable[[], Mapping[str, pa.Table]] = _no_tables
    """More rows of tables, made in the writer's thread."""
    ready: Callable[[], None] = _do_nothing
    """Called first: waits until the tensors have arrived."""
    release: Callable[[], None] = _do_nothing
    """Called last: the tensors' memory may be used again."""


@dataclass(frozen=True)
class _IndexedBatch:
    """Where the slices of a batch lie in the shard."""

    sequences: list[tuple[str, int]]
    starts: Mapping[Key, np.ndarray]
    ends: Mapping[Key, np.ndarray]
    sums: SequenceSums
    """The checksums of the sequences: of coded tensors only once the shard is coded."""


class OpenShard:
    """A shard that is being filled, in the staging folder of its run."""

    def __init__(self, staging: Path, number: int, rows: Mapping[Key, int], tensors: Mapping[Key, TensorSpec]) -> None:
        """Create the shard's file, where it will have any rows.

        Args:
            staging: The run's staging folder.
            number: The shard's number in the run, 0-based.
            rows: How many rows of every tensor will come.
            tensors: The dtype and row shape of every tensor.
        """
        self.number = number
        self._staging = staging
        self._tensors = tensors
        self._rows_written = dict.fromkeys(tensors, 0)
        self._tables: dict[str, list[pa.Table]] = {}
        self._blob: ShardFile | None = None
        self._path = paths.staged_run(staging) / paths.blob_file(number)
        self._coded = [key for key, spec in tensors.items() if spec.coded]
        self._indexed: list[_IndexedBatch] = []
        if any(rows.values()):
            path = paths.recorded_rows_path(staging) if self._coded else self._path
            named = {sites.tensor_name(*key): spec for key, spec in tensors.items()}
            self._blob = ShardFile(path, named, {sites.tensor_name(*key): n for key, n in rows.items()})

    def write(self, batch: RecordedBatch) -> None:
        """Write a batch's tensors to the file, and keep its rows of tables until the shard is complete.

        Raises:
            ValueError: The batch has other tensors than the shard.
        """
        if batch.tensors.keys() != self._tensors.keys():
            raise ValueError(f"the batch's tensors are not its shard's: {batch.tensors.keys() ^ self._tensors.keys()}")
        batch.ready()
        tables = {**batch.tables, **batch.deferred_tables()}
        if self._blob is not None and any(len(array) for array in batch.tensors.values()):
            for key, array in batch.tensors.items():
                self._blob.put(sites.tensor_name(*key), self._rows_written[key], array)
            if batch.sequences:  # a tensor that belongs to no example is not in the index
                self._indexed.append(self._index(batch))
            for key, array in batch.tensors.items():
                self._rows_written[key] += len(array)
        batch.release()
        for name, rows in tables.items():
            self._tables.setdefault(name, []).append(rows)

    def complete(self) -> list[Path]:
        """Write the tables and return all files of the shard, durable."""
        written = []
        if self._blob is not None:
            self._blob.close(durable=not self._coded)
            if self._coded:
                self._code(self._blob.path)
            written.append(self._path)
        if self._indexed:
            self._tables["tensors"] = [self._index_rows(batch) for batch in self._indexed]
        for name, tables in self._tables.items():
            path = paths.staged_table_path(self._staging, name, self.number)
            write_part(name, path, pa.concat_tables(tables))
            written.append(path)
        return written

    def abandon(self) -> None:
        """Close the shard's file as it is."""
        if self._blob is not None:
            self._blob.abandon()

    def _code(self, recorded: Path) -> None:
        """Write the shard that is kept, with int8 codes, and add what they add to the checksums of sequences."""
        names = {key: sites.tensor_name(*key) for key in self._coded}
        first_rows = {
            name: np.concatenate(
                [np.zeros(0, np.int64), *(b.starts[key][b.starts[key] < b.ends[key]] for b in self._indexed)]
            )
            for key, name in names.items()
        }
        write_coded(recorded, self._path, first_rows)
        recorded.unlink()
        with Blob(self._path) as blob:
            for key, name in names.items():
                codes = blob.tensor(name)
                for b in self._indexed:
                    b.sums.add(name, slice_digests(codes, b.starts[key], b.ends[key]))
                blob.release_pages()

    def _index(self, batch: RecordedBatch) -> _IndexedBatch:
        """Note where a batch's slices lie, and the checksums of those that are stored as they came."""
        starts, ends, sums = {}, {}, SequenceSums(len(batch.sequences))
        for key, array in batch.tensors.items():
            counts = np.array(batch.rows[key], np.int64)
            end = np.cumsum(counts)
            if not self._tensors[key].coded:
                sums.add(sites.tensor_name(*key), slice_digests(array, end - counts, end))
            ends[key] = end + self._rows_written[key]
            starts[key] = ends[key] - counts
        return _IndexedBatch(batch.sequences, starts, ends, sums)

    def _index_rows(self, batch: _IndexedBatch) -> pa.Table:
        """Return the `tensors` rows of a batch: where each slice lies, and the checksum of its sequence's slices."""
        n, names = len(batch.sequences), [sites.tensor_name(*key) for key in self._tensors]
        starts, ends = (np.array([x[key] for key in self._tensors]) for x in (batch.starts, batch.ends))
        shapes = [
            np.column_stack([counts, np.tile(np.array(spec.row_shape, np.int64), (n, 1))])
            for counts, spec in zip(ends - starts, self._tensors.values(), strict=True)
        ]
        lengths = np.repeat([shape.shape[1] for shape in shapes], n)
        shape = pa.ListArray.from_arrays(
            pa.array(np.append(0, np.cumsum(lengths)), pa.int32()),
            np.concatenate([shape.ravel() for shape in shapes]),
            type=arrow_schema("tensors").field("shape").type,
        )
        of_tensor = {
            "side": pa.array([key.side for key in self._tensors], pa.string()),
            "site": pa.array([key.site for key in self._tensors], pa.string()),
            "layer": pa.array([key.layer for key in self._tensors], pa.int32()),
            "tensor": pa.array(names, pa.string()),
            "dtype": pa.array([spec.stored_dtype for spec in self._tensors.values()], pa.string()),
        }
        of_sequence = {
            "example_id": pa.array([e for e, _ in batch.sequences], pa.string()),
            "seq": pa.array([s for _, s in batch.sequences], pa.int32()),
            "checksum": to_hex(batch.sums.values),
        }
        tensor, sequence = np.repeat(np.arange(len(names)), n), np.tile(np.arange(n), len(names))
        columns = {
            **{name: values.take(pa.array(tensor)) for name, values in of_tensor.items()},
            **{name: values.take(pa.array(sequence)) for name, values in of_sequence.items()},
            "blob": pa.repeat(paths.blob_file(self.number), len(tensor)),
            "row_start": pa.array(starts.ravel()),
            "row_end": pa.array(ends.ravel()),
            "shape": shape,
        }
        return to_table("tensors", columns)
