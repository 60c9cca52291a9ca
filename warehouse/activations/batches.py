"""Vectors in batches, for training probes and sparse autoencoders: in stored order, or shuffled.

`Warehouse.batches` makes a `Batches` from a site, a layer and a filter. Iterating over it reads the vectors from the runs' shards.

Shuffling draws pieces of 32 tokens from all shards in random order into a window of `buffer` tokens, then draws the window's tokens
at random into batches. Each batch mixes examples and shards, and what is read together lies together on the disk. Within a batch
the rows are ordered by shard. Memory holds a batch, the window's token numbers, and 40 bytes for every piece that is read; the
vectors stay in the shards.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from warehouse.activations.filters import condition
from warehouse.activations.gather import KEYS, RowLocations, filter_errors, stored_key
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.quoting import sql_texts
from warehouse.schema.sites import Key
from warehouse.storage import paths, run_list
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_list import find_run
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from warehouse.catalog.catalog import Catalog

_PIECE = 32
"""Tokens that are drawn together: 37 KB of a residual stream of width 576."""
_PASS_LOCK = threading.Lock()
"""Held while a pass takes its number, so that no two passes have the same."""


class Batch(NamedTuple):
    """A batch of vectors, and the tokens that they belong to."""

    vectors: np.ndarray
    """(n, D), or (n, heads, d_head)."""
    keys: pa.Table
    """run_id, example_id, seq and pos of each vector, (n) rows."""


@dataclass(frozen=True)
class _Spans:
    """Stretches of sequences: arrays with one element per stretch."""

    sequence: np.ndarray
    """Row of `Batches.sequences`."""
    shard: np.ndarray
    """Element of `Batches.shards`."""
    start: np.ndarray
    """First row, in the shard."""
    length: np.ndarray
    """Number of tokens."""
    pos: np.ndarray
    """Position of the first row in its sequence."""

    def __getitem__(self, index: Any) -> _Spans:
        return _Spans(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def cut(self, size: int) -> _Spans:
        """Cut the stretches into stretches of at most `size` tokens."""
        pieces = -(-self.length // size)
        span = np.repeat(np.arange(len(pieces)), pieces)
        offset = (np.arange(len(span)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * size
        length = np.minimum(self.length[span] - offset, size)
        return _Spans(self.sequence[span], self.shard[span], self.start[span] + offset, length, self.pos[span] + offset)

    def token_offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the stretch that each token is in, and the token's offset from the start of that stretch."""
        span = np.repeat(np.arange(len(self.length)), self.length)
        return span, np.arange(len(span)) - np.repeat(np.cumsum(self.length) - self.length, self.length)


class _Buffers:
    """The memory of one pass: a batch's memory is used again once nobody holds the batch, or any view of it.

    Fresh memory takes as long to fill as reading does. An array that a caller keeps is never overwritten: its memory comes back
    only when the array is garbage. Views, tensors made by `torch.from_numpy` and the like all keep the array alive.
    """

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array with arbitrary contents."""
        size = math.prod(shape) * dtype.itemsize
        memory = self._free.pop() if self._free else bytearray(size)
        if len(memory) < size:
            memory = bytearray(size)
        batch: np.ndarray = np.ndarray(shape, dtype, buffer=memory)
        weakref.finalize(batch, self._take_back, memory).atexit = False
        return batch

    def _take_back(self, memory: bytearray) -> None:
        if len(self._free) < 2:  # the consumer holds one batch while the next is read
            self._free.append(memory)


@dataclass
class Batches:
    """An iterable over batches of vectors, numpy arrays (n, D); `with_keys` iterates over `Batch`es, which name their tokens.

    It can be iterated over any number of times. Each pass over shuffled batches has another order, determined by the seed and the
    number of the pass. `capture.training.torch_batches` presents the same vectors to PyTorch and to the library datasets.
    """

    root: AnyPath
    runs: list[str]
    key: Key
    sequences: pa.Table
    """run_id, example_id and seq of every sequence."""
    shards: list[tuple[str, str]]
    """(run, shard)."""
    spans: _Spans
    """The tokens, in stored order."""
    size: int
    """Tokens in a batch; the last batch may have fewer."""
    shuffle: bool
    seed: int
    buffer: int
    """Tokens in the window that batches are drawn from."""
    head: int | None
    """As the tensor counts heads: a K/V head for `k` and `v`."""
    dtype: np.dtype
    passes: int = 0
    """Number of passes that have begun."""
    _locations: RowLocations | None = field(default=None, repr=False, compare=False)
    """The open shards. Each process opens its own."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_locations": None}

    @classmethod
    def for_site(
        cls,
        catalog: Catalog,
        site: str,
        layer: int | None,
        where: str | None,
        model: str | None,
        side: str | None,
        *,
        size: int,
        shuffle: bool,
        seed: int,
        buffer: int,
        head: int | None,
        dtype: DTypeLike | None,
        runs: Sequence[str] = (),
    ) -> Batches:
        """Find the tokens that stored a site and that a filter leaves.

        Args:
            catalog: The warehouse.
            site: Name of the site, such as `resid.post_mlp`.
            layer: Layer of the site; None for a site without layers.
            where: SQL condition on columns of `token_diagnostics`; None keeps all tokens.
            model: Name of the model; None where all runs that stored the site are of one model.
            side: `dec` or `enc`; None for the model's main side.
            size: Tokens in a batch.
            shuffle: Whether tokens come in random order.
            seed: Seed of the random order.
            buffer: Tokens in the window that shuffled batches are drawn from.
            head: Query head, for a site with heads; None keeps all heads.
            dtype: Of the batches; None for the stored one, or float32 where shards differ.
            runs: Only tokens of these runs; none: of all.

        Returns:
            Batches that have read no vectors yet.

        Raises:
            UsageError: Where no run stored the site, where runs of models with different weights did (give `model` or `runs`), where
                the filter has an error or leaves nothing, and where `size` or `buffer` is too small.
            NotFoundError: There is no such run.
        """
        if size < 1 or buffer < size:
            raise UsageError(
                f"size {size}, buffer {buffer}: a batch has at least one token, the buffer at least a batch."
            )
        stores, key = _stores_with_site(catalog, site, layer, model, side, runs)
        stored_head = None if head is None else stores[0].own_head(key, head)
        names_of_runs = [paths.run_id_of(s.path) for s in stores]
        shards, stored_dtypes = list[tuple[str, str]](), set[np.dtype]()
        columns, tables = list[tuple[np.ndarray, ...]](), list[pa.Table]()
        n = 0
        for run, store in zip(names_of_runs, stores, strict=True):
            p = store.places(key)
            columns.append(
                (np.arange(n, n + len(p.seq)), p.blob + len(shards), p.start, p.end - p.start, np.zeros_like(p.start))
            )
            tables.append(
                pa.table(
                    {"run_id": pa.repeat(run, len(p.seq)), "example_id": p.example_id, "seq": p.seq.astype(np.int64)}
                )
            )
            shards += [(run, name) for name in p.blobs]
            stored_dtypes |= {store.blob(name).dtype(sites.tensor_name(*key)) for name in p.blobs}
            n += len(p.seq)
        spans = _Spans(*(np.concatenate(c).astype(np.int64) for c in zip(*columns, strict=True)))
        names = pa.concat_tables(tables).combine_chunks()
        if where is not None and where.strip():
            spans = _filter_spans(catalog, names, spans, names_of_runs, key.side, where)
        if not spans.length.sum():
            raise UsageError("The filter leaves no tokens." if where else f"No tokens of {site} are stored.")
        if dtype is None:
            dtype = stored_dtypes.pop() if len(stored_dtypes) == 1 else np.float32
        return cls(
            catalog.root.absolute(), names_of_runs, key, names, shards, spans, size, shuffle, seed, buffer, stored_head,
            np.dtype(dtype),
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.tokens // self.size)

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return int(self.spans.length.sum())

    def __iter__(self) -> Iterator[np.ndarray]:
        buffers = _Buffers()
        return (self._gather(*tokens[2:], buffers) for tokens in self._batches(keys=False))

    def with_keys(self) -> Iterator[Batch]:
        """Iterate over batches that name the token of each vector."""
        buffers = _Buffers()
        for sequence, pos, shard, row in self._batches(keys=True):
            yield Batch(self._gather(shard, row, buffers), self._keys(sequence, pos))

    def part(self, index: int, count: int) -> Batches:
        """Return the share of one of `count` workers, which read all tokens between them.

        Args:
            index: Number of the worker, from 0.
            count: Number of workers.

        Returns:
            Batches over every `count`-th piece of 32 tokens, from piece `index` on.
        """
        spans = self.spans.cut(_PIECE)
        return replace(self, spans=spans[index::count], _locations=None)

    def of_sequences(self, chosen: np.ndarray) -> Batches:
        """Return batches over some of the sequences.

        Args:
            chosen: Whether each row of `sequences` is one of them, (n,) booleans.

        Returns:
            Batches over their tokens, whose passes are counted anew.
        """
        return replace(self, spans=self.spans[chosen[self.spans.sequence]], passes=0, _locations=None)

    def vectors_at(self, tokens: np.ndarray) -> np.ndarray:
        """Read the vectors of single tokens.

        Args:
            tokens: Numbers of the tokens, (n,), counted from 0 in stored order.

        Returns:
            Their vectors, (n, D), or (n, heads, d_head).
        """
        ends = np.cumsum(self.spans.length)
        span = np.searchsorted(ends, tokens, side="right")
        row = self.spans.start[span] + tokens - (ends - self.spans.length)[span]
        return self._gather(self.spans.shard[span], row)

    def keys(self) -> pa.Table:
        """Return run_id, example_id, seq and pos of all tokens, in stored order."""
        span, offset = self.spans.token_offsets()
        return self._keys(self.spans.sequence[span], self.spans.pos[span] + offset)

    def _keys(self, sequence: np.ndarray, pos: np.ndarray) -> pa.Table:
        return self.sequences.take(pa.array(sequence)).append_column("pos", pa.array(pos))

    def _batches(self, keys: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield sequence, position, shard and row of every token of a batch; without `keys` the first two are empty."""
        with _PASS_LOCK:
            random = np.random.default_rng((self.seed, self.passes))
            self.passes += 1
        left = [np.zeros(0, np.int64)] * 4
        small = np.int16 if len(self.shards) < 1 << 15 else np.int64
        for window in self._windows(random):
            span, offset = window.token_offsets()
            drawn = (window.sequence[span], window.pos[span] + offset, window.shard[span], window.start[span] + offset)
            tokens = [np.concatenate(pair) for pair in zip(left, drawn, strict=True)]
            n = len(tokens[0])
            order = random.permutation(n) if self.shuffle else np.arange(n)
            whole = n - n % self.size
            for start in range(0, whole, self.size):
                chosen = order[start : start + self.size]
                if self.shuffle:  # the tokens of a batch are random; their order within it need not be
                    chosen = chosen[np.argsort(tokens[2][chosen].astype(small), kind="stable")]
                yield self._select(tokens, chosen, keys)
            left = [x[order[whole:]] for x in tokens]
        if len(left[0]):
            yield self._select(left, np.argsort(left[2], kind="stable"), keys)

    @staticmethod
    def _select(
        tokens: list[np.ndarray], chosen: np.ndarray, keys: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        empty = chosen[:0]
        sequence, pos, shard, row = tokens
        return (sequence[chosen] if keys else empty, pos[chosen] if keys else empty, shard[chosen], row[chosen])

    def _windows(self, random: np.random.Generator) -> Iterator[_Spans]:
        """Yield spans of at most `buffer` tokens, in the order in which they are to be read."""
        if self.shuffle:
            spans = self.spans.cut(_PIECE)
            spans = spans[random.permutation(len(spans.length))]
        else:
            spans = self.spans.cut(self.buffer)
        ends = np.cumsum(spans.length)
        start = 0
        while start < len(ends):
            before = ends[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + self.buffer, side="right")))
            yield spans[start:end]
            start = end

    def _open_shards(self) -> RowLocations:
        if self._locations is None:
            stores = [TraceStore(find_run(self.root, run)) for run in self.runs]
            shards = [(self.runs.index(run), blob) for run, blob in self.shards]
            self._locations = RowLocations(stores, shards, np.zeros(0, np.int32), np.zeros(0, np.int64))
        return self._locations

    def _gather(self, shard: np.ndarray, row: np.ndarray, buffers: _Buffers | None = None) -> np.ndarray:
        """Read vectors into memory from `buffers`, or into new memory."""
        locations = RowLocations(self._open_shards().stores, self._open_shards().shards, shard, row)
        return locations.gather(self.key, self.dtype, self.head, buffers.allocate if buffers else np.empty)


def _stores_with_site(
    catalog: Catalog, site: str, layer: int | None, model: str | None, side: str | None, runs: Sequence[str]
) -> tuple[list[TraceStore], Key]:
    """Find the runs that stored a site in a layer, all of one model, and the tensor's key; `runs` are the ones to look in, if any."""
    by_weights: dict[str, list[tuple[TraceStore, Key]]] = {}
    errors: list[UsageError] = []
    for run in dict.fromkeys(runs) or run_list.published_runs(catalog.root):
        store = TraceStore(find_run(catalog.root, run))
        if not store.meta.sites or model not in (None, store.meta.model.name, paths.sql_name(store.meta.model.name)):
            continue
        try:
            key = stored_key(store, site, layer, side)
            if store.has(key):
                by_weights.setdefault(store.meta.model.space, []).append((store, key))
        except UsageError as e:
            errors.append(e)
    if not by_weights:
        raise (
            errors[0]
            if errors
            else UsageError(
                f"No run {f'of {model} ' if model else ''}stored {site}{'' if layer is None else f' in layer {layer}'}."
            )
        )
    if len(by_weights) > 1:
        names = sorted({s.meta.model.name for group in by_weights.values() for s, _ in group})
        raise UsageError(f"{site} is stored of models with different weights ({', '.join(names)}): give model=…")
    (group,) = by_weights.values()
    return [store for store, _ in group], group[0][1]


def _filter_spans(catalog: Catalog, names: pa.Table, spans: _Spans, runs: list[str], side: str, where: str) -> _Spans:
    """Return the stretches of the sequences that a filter leaves."""
    numbered = names.append_column("sequence", pa.array(np.arange(len(names))))
    sql = condition(where)
    con = catalog.cursor()
    con.register("_sequences", numbered)
    with filter_errors():
        columns = con.sql(
            f"SELECT s.sequence, t.pos FROM (SELECT {', '.join(KEYS)} FROM token_diagnostics "
            f"WHERE run_id IN {sql_texts(runs)} AND side = '{side}' AND ({sql})) AS t "
            "JOIN _sequences AS s USING (run_id, example_id, seq) ORDER BY s.sequence, t.pos"
        ).fetchnumpy()
    sequence, pos = np.asarray(columns["sequence"]), np.asarray(columns["pos"])
    if not len(sequence):
        return spans[:0]
    breaks = np.flatnonzero((np.diff(sequence) != 0) | (np.diff(pos) != 1)) + 1
    first = np.concatenate([[0], breaks])
    length = np.diff(np.concatenate([first, [len(sequence)]]))
    at = sequence[first]
    return _Spans(at, spans.shard[at], spans.start[at] + pos[first], length, pos[first])
