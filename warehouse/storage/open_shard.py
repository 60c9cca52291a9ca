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
from warehouse.storage.blobs import ShardFile, TensorSpec
from warehouse.storage.parquet import to_table, write_table_file
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
        if any(rows.values()):
            path = paths.staged_run(staging) / paths.blob_file(number)
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
                tables["tensors"] = self._index_rows(batch)
            for key, array in batch.tensors.items():
                self._rows_written[key] += len(array)
        batch.release()
        for name, rows in tables.items():
            self._tables.setdefault(name, []).append(rows)

    def complete(self) -> list[Path]:
        """Write the tables and return all files of the shard, durable."""
        written = []
        if self._blob is not None:
            self._blob.close()
            written.append(self._blob.path)
        for name, tables in self._tables.items():
            path = paths.staged_table_path(self._staging, name, self.number)
            write_table_file(path, pa.concat_tables(tables))
            written.append(path)
        return written

    def abandon(self) -> None:
        """Close the shard's file as it is."""
        if self._blob is not None:
            self._blob.abandon()

    def _index_rows(self, batch: RecordedBatch) -> pa.Table:
        """Return the `tensors` rows of a batch: where each slice lies, and the checksum of its sequence's slices."""
        n, sums = len(batch.sequences), SequenceSums(len(batch.sequences))
        names = [sites.tensor_name(*key) for key in batch.tensors]
        rows = np.array([batch.rows[key] for key in batch.tensors], np.int64)
        ends = np.cumsum(rows, axis=1)
        first = np.array([self._rows_written[key] for key in batch.tensors])[:, None]
        shapes = []
        for name, (key, array), counts, end in zip(names, batch.tensors.items(), rows, ends, strict=True):
            sums.add(name, slice_digests(array, end - counts, end))
            row_shape = self._tensors[key].row_shape
            shapes.append(np.column_stack([counts, np.tile(np.array(row_shape, np.int64), (n, 1))]))
        lengths = np.repeat([shape.shape[1] for shape in shapes], n)
        shape = pa.ListArray.from_arrays(
            pa.array(np.append(0, np.cumsum(lengths)), pa.int32()),
            np.concatenate([shape.ravel() for shape in shapes]),
            type=arrow_schema("tensors").field("shape").type,
        )
        of_tensor = {
            "side": pa.array([key.side for key in batch.tensors], pa.string()),
            "site": pa.array([key.site for key in batch.tensors], pa.string()),
            "layer": pa.array([key.layer for key in batch.tensors], pa.int32()),
            "tensor": pa.array(names, pa.string()),
            "dtype": pa.array([self._tensors[key].dtype for key in batch.tensors], pa.string()),
        }
        of_sequence = {
            "example_id": pa.array([e for e, _ in batch.sequences], pa.string()),
            "seq": pa.array([s for _, s in batch.sequences], pa.int32()),
            "checksum": to_hex(sums.values),
        }
        tensor, sequence = np.repeat(np.arange(len(names)), n), np.tile(np.arange(n), len(names))
        columns = {
            **{name: values.take(pa.array(tensor)) for name, values in of_tensor.items()},
            **{name: values.take(pa.array(sequence)) for name, values in of_sequence.items()},
            "blob": pa.repeat(paths.blob_file(self.number), len(tensor)),
            "row_start": pa.array((first + ends - rows).ravel()),
            "row_end": pa.array((first + ends).ravel()),
            "shape": shape,
        }
        return to_table("tensors", columns)
