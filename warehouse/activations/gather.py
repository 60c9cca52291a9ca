"""Tokens' vectors from the shards, by what SQL picks: the rows' places, and the rows in one gather a shard."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.catalog.statements import check_one_question
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import DTypeLike

    from warehouse.catalog.catalog import Catalog

KEYS = ("run_id", "example_id", "seq", "pos")


_STRETCH = 16
"""Tokens in a row that are of one shard, on average, for each stretch to be read by itself."""
_PIECE = 4096
_LARGE = 4 << 20
"""Bytes from which several threads read, a piece of so many rows at a time."""


@contextmanager
def filter_errors() -> Iterator[None]:
    """A condition that DuckDB cannot follow is the caller's error."""
    try:
        yield
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError) as e:
        raise UsageError(f"The filter fails on token_diagnostics: {str(e).splitlines()[0]}") from None


class RowLocations:
    """Where tokens' rows lie: which shard, which row of it. One for all tensors that have a row a token."""

    def __init__(self, stores: Sequence[TraceStore], shards: Sequence[tuple[int, str]], shard: np.ndarray, row: np.ndarray) -> None:  # fmt: skip
        self.stores, self.shards = stores, shards
        """A shard is of which store, and its name there."""
        self.shard, self.row = shard, row
        """Of every token."""

    @classmethod
    def for_tokens(cls, catalog: Catalog, tokens: pa.Table, key: Key) -> RowLocations:
        """The places of the tokens that a table with the columns of `KEYS` names; `key` is a tensor that their runs store.

        Raises NotFoundError for a run, an example or a sequence that is not there, UsageError for a position beyond its
        sequence or a run that does not store the tensor.
        """
        runs = tokens["run_id"].combine_chunks().dictionary_encode()
        codes = _to_numpy(runs.indices)
        stores, shards = list[TraceStore](), list[tuple[int, str]]()
        shard, row = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int64)
        for code, run in enumerate(runs.dictionary.to_pylist()):
            store = catalog.cached_run(run)
            mine = slice(None) if len(runs.dictionary) == 1 else np.flatnonzero(codes == code)
            part = tokens if isinstance(mine, slice) else tokens.take(pa.array(mine))
            names, shard[mine], row[mine] = _locate_in_run(store, part, key)
            shard[mine] += len(shards)
            shards += [(len(stores), name) for name in names]
            stores.append(store)
        return cls(stores, shards, shard, row)

    @classmethod
    def for_store(cls, store: TraceStore, tokens: pa.Table, key: Key) -> RowLocations:
        """The same for tokens of one run, whatever their run_id says."""
        names, shard, row = _locate_in_run(store, tokens, key)
        return cls([store], [(0, name) for name in names], shard, row)

    def dtype(self, key: Key) -> np.dtype:
        """What holds the rows of all shards: the stored dtype, or float32 where shards differ, of several runs or of one whose
        tensor was promoted.
        """
        found = {self._stored_rows(i, key).dtype for i in range(len(self.shards))}
        return found.pop() if len(found) == 1 else np.dtype(np.float32)

    def gather(
        self, key: Key, dtype: DTypeLike | None = None, head: int | None = None, into: np.ndarray | None = None
    ) -> np.ndarray:
        """The tokens' rows of a tensor, (n, *row_shape), in the tokens' order; of one head, (n, d_head). `into`: memory of that
        shape and dtype to use. Raises UsageError where runs store rows of different shapes.
        """
        if not len(self.row):
            raise UsageError("No tokens are asked for.")
        bounds = [0, *(np.flatnonzero(np.diff(self.shard)) + 1).tolist(), len(self.row)]
        if (
            len(bounds) > len(self.row) // _STRETCH + len(self.shards) + 2
        ):  # shards by turns: each at once, then to their places
            order = np.argsort(self.shard, kind="stable")
            out = np.empty_like(found := self[order].gather(key, dtype, head))
            out[order] = found
            return out
        wanted = self.dtype(key) if dtype is None else np.dtype(dtype)
        first = self._stored_rows(int(self.shard[0]), key)
        shape = (len(self.row), *(first.shape[1:] if head is None else first.shape[2:]))
        out = into if into is not None and (into.shape, into.dtype) == (shape, wanted) else np.empty(shape, wanted)

        def read(stretch: tuple[int, int]) -> None:
            start, end = stretch
            view = self._stored_rows(int(self.shard[start]), key)
            if head is not None:
                view = view[:, head]
            if view.dtype == wanted:  # clip: the rows are there, and numpy then writes where it is told
                np.take(view, self.row[start:end], axis=0, out=out[start:end], mode="clip")
            else:
                out[start:end] = view[self.row[start:end]]

        for shard in np.unique(self.shard).tolist():  # opened here, by one thread
            if self._stored_rows(shard, key).shape[1:] != first.shape[1:]:
                both = [
                    (self._stored_rows(i, key).shape[1:], self.stores[self.shards[i][0]])
                    for i in (int(self.shard[0]), shard)
                ]
                told = " and ".join(f"{shape} in run '{store.meta.run_id}'" for shape, store in both)
                raise UsageError(f"{sites.tensor_name(*key)} has rows of shape {told}: ask for runs of one model.")
        pieces = [(i, min(i + _PIECE, end)) for start, end in pairwise(bounds) for i in range(start, end, _PIECE)]
        threads = 1 if out.nbytes < _LARGE else min(4, os.cpu_count() or 1)

        def read_all(number: int) -> None:
            for piece in pieces[len(pieces) * number // threads : len(pieces) * (number + 1) // threads]:
                read(piece)

        if threads == 1:
            read_all(0)
        else:  # numpy lets go of the interpreter while it copies
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read_all, range(threads)))
        return out

    def gather_in_pieces(self, key: Key, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which tokens, and their rows, `size` at most at a time, in the order in which they are stored."""
        order = np.lexsort((self.row, self.shard))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield part, self[part].gather(key)

    def __getitem__(self, which: np.ndarray) -> RowLocations:
        return RowLocations(self.stores, self.shards, self.shard[which], self.row[which])

    def _stored_rows(self, shard: int, key: Key) -> np.ndarray:
        store, name = self.shards[shard]
        return self.stores[store].blob(name).tensor(sites.tensor_name(*key))


def _locate_in_run(store: TraceStore, tokens: pa.Table, key: Key) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of a run's shards, and for every token the number of its shard and its row there."""
    examples = tokens["example_id"].combine_chunks().dictionary_encode()
    code, seq, pos = _to_numpy(examples.indices), _to_numpy(tokens["seq"]), _to_numpy(tokens["pos"])
    if len(seq) and seq.min() < 0:
        raise NotFoundError("seq", int(seq.min()), ())
    several = int(seq.max(initial=0)) + 1
    if several > 1 << 20:  # a run has some per example
        raise NotFoundError("seq", several - 1, (), f"(run '{store.meta.run_id}')")
    number = code.astype(np.int64) * several + seq
    asked = np.flatnonzero(np.bincount(number, minlength=1))
    ids = examples.dictionary.to_pylist()
    names: dict[str, int] = {}
    starts, ends, shards = (np.zeros(len(ids) * several, np.int64) for _ in range(3))
    for n in asked.tolist():
        blob, start, end = store.place(key, ids[n // several], n % several)
        starts[n], ends[n], shards[n] = start, end, names.setdefault(blob, len(names))
    row = starts[number] + pos
    beyond = np.flatnonzero((pos < 0) | (row >= ends[number]))
    if len(beyond):
        i = int(beyond[0])
        n = int(number[i])
        raise UsageError(
            f"Run '{store.meta.run_id}', example {ids[n // several]}, seq {n % several} has positions 0 to "
            f"{int(ends[n] - starts[n]) - 1} on side {key.side}; {int(pos[i])} is asked for."
        )
    # Shards by name: their order is the order of the rows.
    order = sorted(names)
    rank = np.array([order.index(name) for name in names], np.int64) if names else np.zeros(0, np.int64)
    return order, rank[shards[number]].astype(np.int32), row


def _to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def check_keys(answer: pa.Table) -> pa.Table:
    """What a query picked, in Arrow. Raises UsageError where it has no keys, or a NULL among them."""
    answer = answer.rename_columns([n.lower() if n.lower() in KEYS else n for n in answer.column_names])
    missing = [name for name in KEYS if name not in answer.column_names]
    if missing:
        raise UsageError(
            f"The query gives no {', '.join(missing)}: let it SELECT {', '.join(KEYS)}, and what else you like."
        )
    for name in KEYS:
        if answer[name].null_count:
            raise UsageError(f"The query gives rows whose {name} is NULL.")
        kind = pa.string() if name in ("run_id", "example_id") else pa.int64()
        try:
            whole = pc.cast(answer[name], kind)
        except pa.ArrowInvalid as e:
            raise UsageError(f"The query gives a {name} that is none: {str(e).splitlines()[0]}") from None
        answer = answer.set_column(answer.column_names.index(name), name, whole)
    return answer


class TokenSelection:
    """The tokens that a query picks, and their vectors, of one layer after the other."""

    def __init__(self, catalog: Catalog, query: str, side: str | None = None) -> None:
        """Raises UsageError where the query has no keys; DuckDB's own error where it is wrong."""
        check_one_question(catalog.cursor(), query)
        self.catalog, self.side = catalog, side
        self.answer = check_keys(catalog.attempt(lambda: catalog.sql(query).to_arrow_table()))
        if not len(self.answer):
            raise UsageError("The query picks no tokens.")
        self.store = catalog.cached_run(self.answer["run_id"][0].as_py())
        self._locations: dict[str, RowLocations] = {}

    def vectors(
        self, site: str, layer: int | None, head: int | None = None, dtype: DTypeLike | None = None
    ) -> np.ndarray:
        """Raises UsageError as `Warehouse.matrix` says."""
        key = stored_key(self.store, site, layer, self.side)
        places = self.locations(key)
        own = {None if head is None else store.own_head(key, head) for store in places.stores}
        if len(own) > 1:
            raise UsageError(
                f"Head {head} shares other K/V heads of {site} from run to run: ask for runs of one model."
            )
        return places.gather(key, dtype, own.pop())

    def locations(self, key: Key) -> RowLocations:
        if key.side not in self._locations:
            self._locations[key.side] = RowLocations.for_tokens(self.catalog, self.answer, key)
        return self._locations[key.side]

    def frame(self) -> pd.DataFrame:
        return self.answer.to_pandas()


def stored_key(store: TraceStore, site: str, layer: int | None, side: str | None) -> Key:
    """The tensor that holds a site's rows, derived sites' too: `hidden[l]` is `resid.post_mlp[l-1]`. It need not be stored.

    Raises NotFoundError for a name that is no site, UsageError for a site without a vector a token, and as `TraceStore.key` does.
    """
    if site.startswith("enc."):
        site, side = site.removeprefix("enc."), "enc"
    known = (*sites.STORED_ORDER, "resid.pre_attn")
    if site not in known:
        raise NotFoundError("site", site, known)
    if sites.row_kind(site, causal=True) != sites.TOKEN:
        raise UsageError(f"{site} has no vector for each token.")
    return store.key(site, layer, side)
