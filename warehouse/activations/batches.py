"""Vectors in batches, for training probes and sparse autoencoders: in the order in which they are stored, or shuffled.

Shuffling draws pieces of 32 tokens from all shards in random order into a window of `buffer` tokens, and the window's tokens
at random into batches: each batch mixes examples and shards (its rows come shard by shard), and what is read lies together on the
disk. Memory holds a batch, the window's token numbers, and 40 bytes for every piece that is read; the vectors stay in the
shards.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from warehouse.activations.filters import condition
from warehouse.activations.gather import KEYS, RowLocations, filter_errors, stored_key
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.quoting import sql_texts
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.paths import find_run
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from warehouse.catalog.catalog import Catalog

_PIECE = 32
"""Tokens that are drawn together: 37 KB of a stream of width 576."""
_PASS_LOCK = threading.Lock()
"""Around the number of a pass: no two have the same."""


class Batch(NamedTuple):
    vectors: np.ndarray
    """(n, D), or (n, heads, d_head)."""
    keys: pa.Table
    """run_id, example_id, seq and pos of each."""


@dataclass(frozen=True)
class _Spans:
    """Stretches of sequences, each a row of these arrays."""

    sequence: np.ndarray
    """Of `Batches.sequences`."""
    shard: np.ndarray
    start: np.ndarray
    """The first row, in the shard."""
    length: np.ndarray
    pos: np.ndarray
    """The first row's position in the sequence."""

    def __getitem__(self, which: Any) -> _Spans:
        return _Spans(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def cut(self, size: int) -> _Spans:
        """The same in stretches of at most `size`."""
        pieces = -(-self.length // size)
        which = np.repeat(np.arange(len(pieces)), pieces)
        offset = (np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * size
        length = np.minimum(self.length[which] - offset, size)
        return _Spans(
            self.sequence[which], self.shard[which], self.start[which] + offset, length, self.pos[which] + offset
        )

    def token_offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every token: which span it is of, and the how manyth of it."""
        which = np.repeat(np.arange(len(self.length)), self.length)
        return which, np.arange(len(which)) - np.repeat(np.cumsum(self.length) - self.length, self.length)


@dataclass
class Batches:
    """Iterates over batches (n, D) of numpy arrays; `with_keys` over `Batch`es that say whose vectors they are.

    Every pass over shuffled batches is in another order, the same for the same seed and the same pass. `capture.training.torch_batches` shows
    the same vectors to PyTorch and to the library datasets.
    """

    root: Path
    runs: list[str]
    key: Key
    sequences: pa.Table
    """run_id, example_id and seq of every sequence."""
    shards: list[tuple[str, str]]
    """(run, shard)."""
    spans: _Spans
    size: int
    shuffle: bool
    seed: int
    buffer: int
    head: int | None
    dtype: np.dtype
    passes: int = 0
    """So many have begun."""
    _locations: RowLocations | None = field(default=None, repr=False, compare=False)
    """The shards, open: each process opens its own."""

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
    ) -> Batches:
        """Raises UsageError where no run stored the site, where the runs that did are of models with different weights
        (say `model`), for a filter with an error, and where it leaves nothing.
        """
        if size < 1 or buffer < size:
            raise UsageError(
                f"size {size}, buffer {buffer}: a batch has at least one token, the buffer at least a batch."
            )
        stores, key = _stores_with_site(catalog, site, layer, model, side)
        own = None if head is None else stores[0].own_head(key, head)
        runs = [paths.run_id_of(s.path) for s in stores]
        found, shards = [], dict[tuple[str, str], int]()
        sequences: dict[str, list[Any]] = {"run_id": [], "example_id": [], "seq": []}
        for run, store in zip(runs, stores, strict=True):
            for s in store.slices(key):
                shard = shards.setdefault((run, s.blob), len(shards))
                found.append((len(sequences["seq"]), shard, s.start, s.end - s.start, 0))
                for name, value in (("run_id", run), ("example_id", s.example_id), ("seq", s.seq)):
                    sequences[name].append(value)
        spans = _Spans(*np.array(found, np.int64).reshape(-1, 5).T)
        names = pa.table(sequences)
        if where is not None and where.strip():
            spans = _filter_spans(catalog, names, spans, runs, key.side, where)
        if not spans.length.sum():
            raise UsageError("The filter leaves no tokens." if where else f"No tokens of {site} are stored.")
        if dtype is None:
            kinds = {
                s.blob(b).tensor(sites.tensor_name(*key)).dtype for s in stores for b in {x.blob for x in s.slices(key)}
            }
            dtype = kinds.pop() if len(kinds) == 1 else np.float32
        return cls(
            catalog.root.absolute(), runs, key, names, list(shards), spans, size, shuffle, seed, buffer, own, np.dtype(dtype)
        )  # fmt: skip

    def __len__(self) -> int:
        """How many batches."""
        return -(-self.tokens // self.size)

    @property
    def tokens(self) -> int:
        return int(self.spans.length.sum())

    def __iter__(self) -> Iterator[np.ndarray]:
        lent: list[np.ndarray] = []
        return (self._gather(*tokens[2:], lent) for tokens in self._batches(keys=False))

    def with_keys(self) -> Iterator[Batch]:
        lent: list[np.ndarray] = []
        for sequence, pos, shard, row in self._batches(keys=True):
            yield Batch(self._gather(shard, row, lent), self._keys(sequence, pos))

    def part(self, index: int, count: int) -> Batches:
        """Every `of`th piece, from the `index`th on: what one of several workers reads."""
        spans = self.spans.cut(_PIECE)
        return replace(self, spans=spans[index::count], _locations=None)

    def vectors_at(self, tokens: np.ndarray) -> np.ndarray:
        """The vectors of the tokens with these numbers, counted in the order in which they are stored."""
        ends = np.cumsum(self.spans.length)
        which = np.searchsorted(ends, tokens, side="right")
        row = self.spans.start[which] + tokens - (ends - self.spans.length)[which]
        return self._gather(self.spans.shard[which], row, [])

    def keys(self) -> pa.Table:
        """Of all tokens, in the order in which they are stored."""
        which, offset = self.spans.token_offsets()
        return self._keys(self.spans.sequence[which], self.spans.pos[which] + offset)

    def _keys(self, sequence: np.ndarray, pos: np.ndarray) -> pa.Table:
        return self.sequences.take(pa.array(sequence)).append_column("pos", pa.array(pos))

    def _batches(self, keys: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Sequence, position (both empty unless asked for), shard and row of every token, a batch at a time."""
        with _PASS_LOCK:
            random = np.random.default_rng((self.seed, self.passes))
            self.passes += 1
        left = [np.zeros(0, np.int64)] * 4
        small = np.int16 if len(self.shards) < 1 << 15 else np.int64
        for window in self._windows(random):
            which, offset = window.token_offsets()
            found = (
                window.sequence[which],
                window.pos[which] + offset,
                window.shard[which],
                window.start[which] + offset,
            )
            tokens = [np.concatenate(pair) for pair in zip(left, found, strict=True)]
            n = len(tokens[0])
            order = random.permutation(n) if self.shuffle else np.arange(n)
            whole = n - n % self.size
            for start in range(0, whole, self.size):
                chosen = order[start : start + self.size]
                if self.shuffle:  # which tokens a batch has is chance, their order within it need not be
                    chosen = chosen[np.argsort(tokens[2][chosen].astype(small), kind="stable")]
                yield self._select(tokens, chosen, keys)
            left = [x[order[whole:]] for x in tokens]
        if len(left[0]):
            yield self._select(left, np.argsort(left[2], kind="stable"), keys)

    @staticmethod
    def _select(
        tokens: list[np.ndarray], which: np.ndarray, keys: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        none = which[:0]
        sequence, pos, shard, row = tokens
        return (sequence[which] if keys else none, pos[which] if keys else none, shard[which], row[which])

    def _windows(self, random: np.random.Generator) -> Iterator[_Spans]:
        """Spans of `buffer` tokens and no more, in the order in which they are to be read."""
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

    def _gather(self, shard: np.ndarray, row: np.ndarray, lent: list[np.ndarray]) -> np.ndarray:
        """Vectors, in memory that is new or that of a batch of this pass, `lent` before, which nobody holds any more."""
        places = RowLocations(self._open_shards().stores, self._open_shards().shards, shard, row)
        out = places.gather(self.key, self.dtype, self.head, _unused(lent))
        if all(out is not x for x in lent):
            lent[:] = [*lent[-1:], out]
        return out


def _unused(lent: list[np.ndarray]) -> np.ndarray | None:
    """One that nobody else holds: fresh memory takes as long as reading does."""
    for i in range(len(lent)):
        if sys.getrefcount(lent[i]) == 2:  # the list's, and this question's
            return lent[i]
    return None


def _stores_with_site(
    catalog: Catalog, site: str, layer: int | None, model: str | None, side: str | None
) -> tuple[list[TraceStore], Key]:
    """The runs that stored a site in a layer, all of one model, and which tensor it is."""
    found: dict[str, list[tuple[TraceStore, Key]]] = {}
    errors: list[UsageError] = []
    for run in paths.published_runs(catalog.root):
        store = TraceStore(find_run(catalog.root, run))
        if not store.meta.sites or model not in (None, store.meta.model.name, paths.sql_name(store.meta.model.name)):
            continue
        try:
            key = stored_key(store, site, layer, side)
            if store.has(key):
                found.setdefault(store.meta.model.space, []).append((store, key))
        except UsageError as e:
            errors.append(e)
    if not found:
        raise (
            errors[0]
            if errors
            else UsageError(
                f"No run {f'of {model} ' if model else ''}stored {site}{'' if layer is None else f' in layer {layer}'}."
            )
        )
    if len(found) > 1:
        names = sorted({s.meta.model.name for group in found.values() for s, _ in group})
        raise UsageError(f"{site} is stored of models with different weights ({', '.join(names)}): say model=…")
    (group,) = found.values()
    return [store for store, _ in group], group[0][1]


def _filter_spans(catalog: Catalog, names: pa.Table, spans: _Spans, runs: list[str], side: str, where: str) -> _Spans:
    """The stretches of the sequences that a filter leaves."""
    numbered = names.append_column("sequence", pa.array(np.arange(len(names))))
    asked = condition(where)
    con = catalog.cursor()
    con.register("_sequences", numbered)
    with filter_errors():
        found = con.sql(
            f"SELECT s.sequence, t.pos FROM (SELECT {', '.join(KEYS)} FROM token_diagnostics "
            f"WHERE run_id IN {sql_texts(runs)} AND side = '{side}' AND ({asked})) AS t "
            "JOIN _sequences AS s USING (run_id, example_id, seq) ORDER BY s.sequence, t.pos"
        ).fetchnumpy()
    sequence, pos = np.asarray(found["sequence"]), np.asarray(found["pos"])
    if not len(sequence):
        return spans[:0]
    breaks = np.flatnonzero((np.diff(sequence) != 0) | (np.diff(pos) != 1)) + 1
    first = np.concatenate([[0], breaks])
    length = np.diff(np.concatenate([first, [len(sequence)]]))
    at = sequence[first]
    return _Spans(at, spans.shard[at], spans.start[at] + pos[first], length, pos[first])
