"""Read the vectors of the tokens that SQL picks: where their rows lie, and the rows, with one gather per shard.

In: a query or a table with run_id, example_id, seq and pos. Out: numpy arrays (n, D) in the order of the query. `Warehouse.matrix`,
probes, batches and exact search all read through `RowLocations`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.catalog.statements import check_one_question
from warehouse.errors import NotFoundError, UsageError, first_line
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage.blobs import Blob
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import DTypeLike

    from warehouse.catalog.catalog import Catalog

KEYS = ("run_id", "example_id", "seq", "pos")
"""The columns that name a token, the side apart."""

_STRETCH = 16
"""Average number of consecutive tokens of one shard from which each stretch is read by itself."""
_PIECE = 4096
"""Rows that a thread reads at a time."""
_LARGE = 4 << 20
"""Bytes from which several threads read."""


@contextmanager
def filter_errors() -> Iterator[None]:
    """Turn DuckDB's errors about a filter into UsageError, since the filter is the caller's."""
    try:
        yield
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError) as e:
        raise UsageError(f"The filter fails on token_diagnostics: {first_line(e)}") from None


class RowLocations:
    """Where the rows of tokens lie: the shard of each and its row there. The same for all tensors with a row per token."""

    def __init__(self, stores: Sequence[TraceStore], shards: Sequence[tuple[int, str]], shard: np.ndarray, row: np.ndarray) -> None:  # fmt: skip
        self.stores, self.shards = stores, shards
        """A shard is the number of its store, and its name there."""
        self.shard, self.row = shard, row
        """Per token, (n,): the number of its shard, and its row there."""

    @classmethod
    def for_tokens(cls, catalog: Catalog, tokens: pa.Table, key: Key) -> RowLocations:
        """Locate tokens of any runs.

        Args:
            catalog: The warehouse.
            tokens: Table with the columns `KEYS`, a row per token.
            key: A tensor that their runs store.

        Returns:
            The locations, in the order of `tokens`.

        Raises:
            NotFoundError: For a run, an example or a sequence that does not exist.
            UsageError: For a position beyond its sequence, or a run that does not store the tensor.
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
        """Locate tokens of one run, whatever their run_id says; otherwise as `for_tokens`."""
        names, shard, row = _locate_in_run(store, tokens, key)
        return cls([store], [(0, name) for name in names], shard, row)

    def dtype(self, key: Key) -> np.dtype:
        """Return the dtype that holds the rows of all shards.

        Args:
            key: The tensor.

        Returns:
            The stored dtype, or float32 where shards differ: those of several runs, or of one run whose tensor was promoted.
        """
        dtypes = {self._blob(i).dtype(sites.tensor_name(*key)) for i in range(len(self.shards))}
        return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

    def gather(
        self,
        key: Key,
        dtype: DTypeLike | None = None,
        head: int | None = None,
        allocate: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
    ) -> np.ndarray:
        """Read the rows of a tensor.

        Args:
            key: The tensor.
            dtype: Of the result; None for `self.dtype(key)`.
            head: A head as the tensor counts them; None reads whole rows.
            allocate: Makes the array that is filled.

        Returns:
            The rows in the order of the tokens, (n, *row_shape), or (n, d_head) of one head.

        Raises:
            UsageError: Where there are no tokens, or runs store rows of different shapes.
        """
        if not len(self.row):
            raise UsageError("There are no tokens to read.")
        bounds = [0, *(np.flatnonzero(np.diff(self.shard)) + 1).tolist(), len(self.row)]
        # Where shards alternate, read each shard at once, then put its rows where they belong.
        if len(bounds) > len(self.row) // _STRETCH + len(self.shards) + 2:
            order = np.argsort(self.shard, kind="stable")
            rows = self[order].gather(key, dtype, head)
            out = allocate(rows.shape, rows.dtype)
            out[order] = rows
            return out
        wanted = self.dtype(key) if dtype is None else np.dtype(dtype)
        name = sites.tensor_name(*key)
        first = self._row_shape(int(self.shard[0]), name)
        shape = (len(self.row), *(first if head is None else first[1:]))
        out = allocate(shape, wanted)

        def read(stretch: tuple[int, int]) -> None:
            start, end = stretch
            self._blob(int(self.shard[start])).take_into(out[start:end], name, self.row[start:end], head)

        for shard in np.unique(self.shard).tolist():  # opens the shards, in one thread
            if self._row_shape(shard, name) != first:
                both = [(self._row_shape(i, name), self.stores[self.shards[i][0]]) for i in (int(self.shard[0]), shard)]
                shapes = " and ".join(f"{shape} in run '{store.meta.run_id}'" for shape, store in both)
                raise UsageError(f"{name} has rows of shape {shapes}: ask for runs of one model.")
        pieces = [(i, min(i + _PIECE, end)) for start, end in pairwise(bounds) for i in range(start, end, _PIECE)]
        threads = 1 if out.nbytes < _LARGE else min(4, os.cpu_count() or 1)

        def read_all(number: int) -> None:
            for piece in pieces[len(pieces) * number // threads : len(pieces) * (number + 1) // threads]:
                read(piece)

        if threads == 1:
            read_all(0)
        else:  # numpy releases the interpreter's lock while it copies
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read_all, range(threads)))
        return out

    def gather_in_pieces(self, key: Key, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of tokens and their rows, at most `size` at a time, in stored order."""
        order = np.lexsort((self.row, self.shard))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield part, self[part].gather(key)

    def __getitem__(self, tokens: np.ndarray) -> RowLocations:
        return RowLocations(self.stores, self.shards, self.shard[tokens], self.row[tokens])

    def _row_shape(self, shard: int, tensor: str) -> tuple[int, ...]:
        return self._blob(shard).shape(tensor)[1:]

    def _blob(self, shard: int) -> Blob:
        store, name = self.shards[shard]
        return self.stores[store].blob(name)


def _locate_in_run(store: TraceStore, tokens: pa.Table, key: Key) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the names of a run's shards, and for every token the number of its shard and its row there."""
    examples = tokens["example_id"].combine_chunks().dictionary_encode()
    code, seq, pos = _to_numpy(examples.indices), _to_numpy(tokens["seq"]), _to_numpy(tokens["pos"])
    if len(seq) and seq.min() < 0:
        raise NotFoundError("seq", int(seq.min()), ())
    several = int(seq.max(initial=0)) + 1
    if several > 1 << 20:  # a run has some per example
        raise NotFoundError("seq", several - 1, (), f"(run '{store.meta.run_id}')")
    number = code.astype(np.int64) * several + seq
    present = np.flatnonzero(np.bincount(number, minlength=1))
    ids = examples.dictionary.to_pylist()
    names: dict[str, int] = {}
    starts, ends, shards = (np.zeros(len(ids) * several, np.int64) for _ in range(3))
    for n in present.tolist():
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
    # Shards are sorted by name, because that is the order of the rows.
    order = sorted(names)
    rank = np.array([order.index(name) for name in names], np.int64) if names else np.zeros(0, np.int64)
    return order, rank[shards[number]].astype(np.int32), row


def _to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def check_keys(answer: pa.Table) -> pa.Table:
    """Check that the rows of a query name tokens.

    Args:
        answer: What the query returned.

    Returns:
        The same rows, with the columns `KEYS` in lower case, text and int64.

    Raises:
        UsageError: Where a key column is missing, holds NULL, or holds what cannot be a key.
    """
    answer = answer.rename_columns([n.lower() if n.lower() in KEYS else n for n in answer.column_names])
    missing = [name for name in KEYS if name not in answer.column_names]
    if missing:
        raise UsageError(
            f"The query gives no {', '.join(missing)}: let it SELECT {', '.join(KEYS)}, and whatever else you like."
        )
    for name in KEYS:
        if answer[name].null_count:
            raise UsageError(f"The query gives rows whose {name} is NULL.")
        kind = pa.string() if name in ("run_id", "example_id") else pa.int64()
        try:
            whole = pc.cast(answer[name], kind)
        except pa.ArrowInvalid as e:
            raise UsageError(f"The query gives a {name} that cannot be one: {first_line(e)}") from None
        answer = answer.set_column(answer.column_names.index(name), name, whole)
    return answer


class TokenSelection:
    """The tokens that a query picks, whose vectors can be read layer by layer."""

    def __init__(self, catalog: Catalog, query: str, side: str | None = None) -> None:
        """Run a query.

        Args:
            catalog: The warehouse.
            query: SELECTs the columns `KEYS`, and whatever else the caller needs.
            side: `dec` or `enc`; None for the model's main side.

        Raises:
            UsageError: Where the query does not name tokens, or picks none. DuckDB's own error where the SQL is wrong.
        """
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
        """Read the tokens' vectors of a site.

        Args:
            site: Name of the site.
            layer: Its layer; None for a site without layers.
            head: Query head, for a site with heads; None reads all heads.
            dtype: Of the result; None for the stored one, or float32 where shards differ.

        Returns:
            The vectors in the order of the query, (n, D), or (n, heads, d_head) of all heads.

        Raises:
            UsageError: Where runs assign the head to different K/V heads, and as `Warehouse.matrix` says.
        """
        key = stored_key(self.store, site, layer, self.side)
        locations = self.locations(key)
        heads = {None if head is None else store.own_head(key, head) for store in locations.stores}
        if len(heads) > 1:
            raise UsageError(f"Head {head} reads another K/V head of {site} in each run: ask for runs of one model.")
        return locations.gather(key, dtype, heads.pop())

    def locations(self, key: Key) -> RowLocations:
        """Locate the tokens' rows of a tensor, once per side."""
        if key.side not in self._locations:
            self._locations[key.side] = RowLocations.for_tokens(self.catalog, self.answer, key)
        return self._locations[key.side]

    def frame(self) -> pd.DataFrame:
        """Return the query's rows as a data frame."""
        return self.answer.to_pandas()


def stored_key(store: TraceStore, site: str, layer: int | None, side: str | None) -> Key:
    """Return the tensor that holds a site's rows, also for a derived site: `hidden[l]` is `resid.post_mlp[l-1]`.

    Args:
        store: The run.
        site: Name of the site; `enc.` before it means the encoder's side.
        layer: Its layer; None for a site without layers.
        side: `dec` or `enc`; None for the model's main side.

    Returns:
        The key of the tensor, which the run need not have stored.

    Raises:
        NotFoundError: For a name that is not a site.
        UsageError: For a site without a vector per token, and as `TraceStore.key` does.
    """
    if site.startswith("enc."):
        site, side = site.removeprefix("enc."), "enc"
    known = (*sites.STORED_ORDER, "resid.pre_attn")
    if site not in known:
        raise NotFoundError("site", site, known)
    if sites.row_kind(site, causal=True) != sites.TOKEN:
        raise UsageError(f"{site} has no vector for each token.")
    return store.key(site, layer, side)
