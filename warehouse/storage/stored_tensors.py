"""StoredTensors: where the rows of a run's stored tensors lie, and those rows as they lie on the disk.

In goes the key of a tensor (side, site, layer) and a sequence. Out comes the place of its rows, a shard and two row numbers
(`place`, `slices`), or the rows themselves, a view of the memory-mapped shard (`rows`). Places come from the table `tensors`
and are held against the shards' own headers. What is derived when read is for `TraceStore`, which builds on this.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import numpy as np

from warehouse.errors import CorruptRunError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.blobs import Blob
from warehouse.storage.chosen_examples import keeps_tensors, keeps_tensors_sql
from warehouse.storage.int8 import CODED, companion
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_tables import RunTables
from warehouse.storage.tensor_index import Place, Places, TensorIndex


class Slice(NamedTuple):
    """A sequence's rows of a tensor, or some of them: `start` to `end` of its shard."""

    blob: str
    start: int
    end: int
    example_id: str
    seq: int
    first: int = 0
    """Which of the sequence's rows `start` is."""

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.end - self.start

    def is_followed_by(self, other: Slice) -> bool:
        """Tell whether another slice begins where this one ends, in the same shard."""
        return self.blob == other.blob and self.end == other.start


class StoredTensors(RunTables):
    """The stored tensors of a published run."""

    def __init__(self, folder: str | AnyPath) -> None:
        """Open a run from its folder. Raises as `RunTables` does."""
        super().__init__(folder)
        self._sites = {Key(s.side, s.site, layer): s for s in self.meta.sites for layer in s.layers}
        self._stored = {(s.side, s.site) for s in self.meta.sites}
        self._blobs: dict[str, Blob] = {}
        self._indexes: dict[tuple[str, str], TensorIndex] = {}

    @property
    def keep_every(self) -> int:
        """Of how many examples tensors of one are kept."""
        return int(self.meta.options.get("keep_every", 1))

    def keeps(self, example_id: str) -> bool:
        """Return whether tensors of an example are kept, as `--keep-every` has it."""
        return keeps_tensors(example_id, self.keep_every)

    def left_out(self) -> str | None:
        """Say how many examples have no tensors, where the run keeps those of some (`--keep-every`)."""
        if self.keep_every == 1:
            return None
        kept = keeps_tensors_sql(self.keep_every)
        ((n, total),) = self.query(f"SELECT count_if(NOT {kept}), count(*) FROM examples").fetchall()
        return f"run '{self.meta.run_id}' keeps tensors of one example in {self.keep_every} (--keep-every): {n:,} of {total:,} are left out"

    def has(self, key: Key) -> bool:
        """Return whether a tensor is stored."""
        return key in self._sites

    def row_kind(self, key: Key) -> str:
        """Return what a row of a stored tensor is, as `warehouse.schema.sites` names it."""
        return self._sites[key].rows

    def row_shape(self, key: Key) -> tuple[int, ...]:
        """Return the shape of a row of a stored tensor."""
        return tuple(self._sites[key].row_shape)

    def layers_with(self, site: str, side: str) -> list[int]:
        """Return the layers in which a site is stored, sorted."""
        return sorted(k.layer for k in self._sites if (k.side, k.site) == (side, site) and k.layer is not None)

    def dtype(self, key: Key, example_id: str, seq: int = 0) -> str:
        """Return the dtype of a sequence's rows of a tensor, as safetensors names it.

        Returns:
            `F16`, `BF16`, `F32`, or `I8` of int8 codes, which are read as float32. A promoted tensor has the site's dtype in the shards before its promotion.
        """
        return self.blob(self.place(key, example_id, seq)[0]).tensors[sites.tensor_name(*key)][0]

    def step(self, key: Key, example_id: str, seq: int = 0) -> np.ndarray | None:
        """Return the difference of two codes in a sequence's rows of a tensor, *row_shape; None where it is not coded."""
        blob, name = self.place(key, example_id, seq)[0], sites.tensor_name(*key)
        return self.blob(blob).tensor(companion(name, "scale")) if blob and self._sites[key].dtype == CODED else None

    def rows(self, key: Key, example_id: str, seq: int = 0) -> np.ndarray:
        """Return a stored tensor's rows of one sequence, `(rows, *row_shape)`, as they lie on the disk; float32 where they are coded."""
        blob, start, end = self.place(key, example_id, seq)
        if start == end:
            return np.empty((0, *self._sites[key].row_shape), np.float32)
        return self.blob(blob).rows(sites.tensor_name(*key), start, end)

    def blob(self, name: str) -> Blob:
        """Open a shard of this run.

        Args:
            name: Its path in the run's folder.

        Returns:
            The shard, which stays open for as long as this run does.

        Raises:
            CorruptRunError: The run has no such shard, or it does not hold what the manifest says.
        """
        blob = self._blobs.get(name)
        if blob is None:
            if name not in self.meta.file_infos or paths.table_of_file(name) is not None:
                raise CorruptRunError(
                    f"{self.path}: its tensor index names {name!r}, which is not a shard of this run."
                )
            blob = Blob(self.path / name)
            for key, s in self._sites.items():
                _, (_, *row_shape) = blob.tensors.get(sites.tensor_name(*key), ("", (0, *s.row_shape)))
                if row_shape != s.row_shape:
                    raise CorruptRunError(
                        f"{self.path / name} has rows of other shapes than the manifest says: {key.site}."
                    )
            blob = self._blobs.setdefault(name, blob)
        return blob

    def release_pages(self) -> None:
        """Give back the memory that holds what has been read of the shards, which otherwise grows with every example that is read.

        Arrays that were returned stay as they are: what of them is read again is fetched again.
        """
        for blob in list(self._blobs.values()):
            blob.release_pages()

    def place(self, key: Key, example_id: str, seq: int = 0) -> Place:
        """Find a sequence's rows of a stored tensor.

        Args:
            key: The tensor.
            example_id: The example.
            seq: Which of its sequences.

        Returns:
            The shard, the first row there, and one past the last; `("", 0, 0)` for a sequence without tokens.

        Raises:
            UsageError: The run keeps no tensors of the example.
            CorruptRunError: The tensor index lacks the sequence, or names rows that the shard does not hold.
        """
        index = self._index_of(key)
        place = index.known(example_id, seq)
        if place is None:
            with self._damage_as_error("tensors"):
                place = index.find(example_id, seq)
        if place is None:
            self.check_sequence(example_id, seq)
            if not self.keeps(example_id):
                raise UsageError(
                    f"Run '{self.meta.run_id}' keeps no tensors of example {example_id} (--keep-every {self.keep_every})."
                )
            if len(self._sequence_rows("tokens", ["pos"], example_id, seq, key.side)):
                raise CorruptRunError(
                    f"{self.path}: its tensor index has no rows of example {example_id}, seq {seq}{self._advice}"
                )
            return ("", 0, 0)
        self._check_rows(key, *place)
        return place

    def places(self, key: Key) -> Places:
        """Return where every sequence's rows of a stored tensor lie, as columns, in the order of the shards.

        Raises:
            CorruptRunError: The tensor index names rows that a shard does not hold.
        """
        index = self._index_of(key)
        with self._damage_as_error("tensors"):
            places = index.places()
        for span in places.spans():
            self._check_rows(key, *span)
        return places

    def slices(self, key: Key) -> list[Slice]:
        """Return what `places` does, as an object a sequence."""
        p = self.places(key)
        blobs = (p.blobs[i] for i in p.blob.tolist())
        return [
            Slice(*place)
            for place in zip(
                blobs, p.start.tolist(), p.end.tolist(), p.example_id.to_pylist(), p.seq.tolist(), strict=True
            )
        ]

    def _index_of(self, key: Key) -> TensorIndex:
        """Return the index of a tensor, one for all tensors whose rows are the same things.

        `validate` proves that those tensors agree, so one of them speaks for all.
        """
        if key not in self._sites:
            self._refuse(key)
        kind = (key.side, self._sites[key].rows)
        index = self._indexes.get(kind)
        if index is None:
            first = next(k for k, s in self._sites.items() if (k.side, s.rows) == kind)
            index = self._indexes[kind] = TensorIndex(self._table("tensors"), sites.tensor_name(*first))
        return index

    def _check_rows(self, key: Key, blob: str, start: int, end: int) -> None:
        """Check that a shard holds these rows of a tensor.

        Raises:
            CorruptRunError: It does not.
        """
        name = sites.tensor_name(*key)
        _, (held, *_) = self.blob(blob).tensors.get(name, ("", (0,)))
        if not 0 <= start <= end <= held:
            raise CorruptRunError(
                f"{self.path}: its tensor index names rows {start} to {end} of {name} in {blob}, which holds {held}{self._advice}"
            )

    def check_not_expired(self) -> None:
        """Check that the run's tensors were not deleted.

        Raises:
            UsageError: They were.
        """
        if self.meta.expired is not None:
            raise UsageError(
                f"The tensors of run '{self.meta.run_id}' were deleted on {self.meta.expired.at:%Y-%m-%d} (traces runs expire); its rows "
                "are there. Capture it again under another name to have them."
            )

    def _refuse(self, key: Key) -> NoReturn:
        """Say why a tensor is not stored.

        Raises:
            UsageError: The model does not have it, or it was not captured.
        """
        missing = self.meta.model.stack(key.side).missing
        if key.site in missing:
            raise UsageError(f"{self.meta.model.name} has no {key.site} here: {missing[key.site]}.")
        if (key.side, key.site) in self._stored:
            layers = ", ".join(map(str, self.layers_with(key.site, key.side)))
            raise UsageError(f"Run '{self.meta.run_id}' has no {key.site} in layer {key.layer}; it has: {layers}.")
        self.check_not_expired()
        stored = sorted({site for _, site in self._stored})
        raise UsageError(
            f"Run '{self.meta.run_id}' did not store {key.site}; it has {', '.join(stored) or 'no tensors'}. "
            f"Capture it again with --capture {sites.capture_of(key.site)}."
        )
