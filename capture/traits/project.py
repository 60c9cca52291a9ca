"""Every token of a run on traits' vectors: h·v/‖v‖ with ‖h‖ beside it, and how it moves along each response.

Reads a captured run's shards and the vectors of one or more trait-vectors runs; no model is needed, and none is loaded. All
traits, methods and layers asked for are done in one pass: a shard's tensor is read once, a few rows at a time, and multiplied
by all vectors of its layer while it is in the processor's cache. Leaves a run of kind `trait-projection`, its parents the run
projected and those of the vectors, with the tables `trait_projections` and `trait_dynamics`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from capture.sequences import partition
from capture.traits import dynamics
from capture.traits.directions import Direction, Options, tensor_key
from warehouse.catalog.publish import publish
from warehouse.schema import sites
from warehouse.schema.tables import SCHEMA_VERSION, STORED
from warehouse.storage import paths
from warehouse.storage.journal import Journal
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.progress import DerivedProgress
from warehouse.storage.run_writer import RecordedBatch, RunWriter
from warehouse.storage.stored_tensors import Slice
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse

KIND = "trait-projection"

_SHARD_ROWS = 1 << 20
"""Rows of `trait_projections` between two points from which an interrupted projection can go on: some 30 MB."""
_PIECE_VALUES = 1 << 19
"""Values of a tensor that are multiplied at once: 2 MB as float32. With fewer, threads wait for the interpreter between two calls
longer than the calls take."""
_THREADS = 4


def project(
    wh: Warehouse,
    source: str,
    chosen: Sequence[Direction],
    options: Options,
    run_id: str | None = None,
    report: Callable[[DerivedProgress], None] = lambda _: None,
) -> Manifest:
    """Publishes the projections of a run's tokens on `chosen` (from `directions`) as a run of its own.

    The same call goes on where an earlier one was interrupted. Without a name the run is called `<source>-traits`, or with -2,
    -3, … after it where that is another projection; if this very projection is there already, it is returned as it is. Raises
    RunExistsError where the name is given and taken.
    """
    store = wh.cached_run(source)
    parents = [source, *sorted({d.vectors_run_id for d in chosen})]
    told = {
        "traits": list(dict.fromkeys(d.trait for d in chosen)),
        "directions": [d.key for d in chosen],
        "dynamics_only": options.dynamics_only,
        "threshold": options.threshold,
        "shard": options.shard,
        "parent_manifests": {run: manifest_hash(wh.root, run) for run in parents},
    }
    identity = {"kind": KIND, "schema_version": SCHEMA_VERSION, "parents": parents, **told}
    named = None if run_id is None else partition.part_run_name(run_id, options.shard)
    name, there = (named, None) if named is not None else _find_free_name(wh, source, parents, told, identity)
    if there is not None:
        return there
    plan = ProjectionPlan(store, chosen, options)
    counted = DerivedProgress(name)
    with RunWriter(wh.root, name, identity) as writer, threadpool_limits(1, user_api="blas"):
        for number, group in enumerate(partition.take_part(plan.groups(), options.shard)):
            done = number < len(writer.done)
            counted.begun += len(group)
            counted.tokens += sum(s.end - s.start for s in group)
            if done:
                counted.resumed_tokens = counted.tokens
            else:
                writer.begin_shard({}, {})
                writer.put(RecordedBatch([], {}, {}, plan.tables(group)))
                writer.end_shard(str(number))
            report(counted)
        return publish(writer, lambda published: store.meta.derive(KIND, name, parents, told, published))


def _find_free_name(
    wh: Warehouse, source: str, parents: list[str], told: dict[str, Any], identity: dict[str, Any]
) -> tuple[str, Manifest | None]:
    """The first of `<source>-traits`, `<source>-traits-2`, … that is free, or holds a part of this projection; with its manifest
    where it holds all of it.
    """
    number = 1
    while True:
        name = partition.part_run_name(f"{source}-traits" + (f"-{number}" if number > 1 else ""), told["shard"])
        folder = paths.run_dir(wh.root, name)
        staged = paths.journal_path(paths.staging_dir(wh.root, name))
        if folder.exists():
            there = Manifest.read(folder)
            if (there.kind, there.parents, there.options) == (KIND, parents, told):
                return name, there
        elif not staged.exists() or Journal(staged).job in (None, identity):
            return name, None
        number += 1


class ProjectionPlan:
    """Which rows of which tensors, on which vectors: what does not change from shard to shard."""

    def __init__(self, store: TraceStore, chosen: Sequence[Direction], options: Options) -> None:
        self._store, self._chosen, self._options = store, chosen, options
        keys = [tensor_key(store, d) for d in chosen]
        self._keys = list(dict.fromkeys(keys))
        self._tensor = np.array([self._keys.index(key) for key in keys])
        """Of every direction, which of the keys it is in."""
        self._vectors = [
            np.ascontiguousarray(np.stack([d.vector for d, k in zip(chosen, keys, strict=True) if k == key], axis=1))
            for key in self._keys
        ]
        self._slices = store.slices(self._keys[0])
        self._analyzed = _AnalyzedTokens(store, self._keys[0].side)

    def groups(self) -> Iterator[list[Slice]]:
        """The run's sequences in the order in which they lie on the disk; those of a group lie side by side in one shard."""
        most = max(1, _SHARD_ROWS // len(self._chosen))
        group: list[Slice] = []
        for s in self._slices:
            if group and (s.blob != group[0].blob or s.end - group[0].start > most):
                yield group
                group = []
            group.append(s)
        if group:
            yield group

    def tables(self, group: Sequence[Slice]) -> dict[str, pa.Table]:
        """The rows of a group of sequences, sorted by their tables' keys."""
        projection, norm = self.project_group(group)
        ordered = sorted(group, key=lambda s: (s.example_id, s.seq))
        lengths = np.array([s.end - s.start for s in ordered])
        begins = np.array([s.start - group[0].start for s in ordered])
        pos = dynamics.token_numbers(lengths)
        order = np.repeat(begins, lengths) + pos
        projection, norm = projection[:, order], norm[self._tensor[:, None], order]
        at = np.flatnonzero(self._analyzed.mask(ordered))
        which = np.repeat(np.arange(len(ordered)), lengths)
        counts = np.bincount(which[at], minlength=len(ordered))
        some = np.flatnonzero(counts)
        rows = _Rows(self._store.meta.run_id, self._chosen, ordered)
        counts = counts[some]
        velocity, acceleration = dynamics.differences(projection[:, at], counts)
        tables = {}
        if len(some):
            found = dynamics.summarize_sequences(
                projection[:, at], counts, velocity, acceleration, self._options.threshold
            )
            cosine = _sequence_means(projection[:, at] / np.maximum(norm[:, at], np.finfo(np.float32).tiny), counts)
            tables["trait_dynamics"] = rows.dynamics(some, counts, pos[at[np.cumsum(counts) - counts]], found, cosine)
        if not self._options.dynamics_only:
            tables["trait_projections"] = rows.projections(
                which, pos, projection, norm, _scatter(velocity, at, len(pos)), _scatter(acceleration, at, len(pos)),
                _scatter(dynamics.token_numbers(counts)[None], at, len(pos), dynamics.NO_TOKEN)[0],
            )  # fmt: skip
        return tables

    def project_group(self, group: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
        """(K, n) projections on every direction, and (tensors, n) lengths of the states projected, as the rows lie on the disk."""
        start, end = group[0].start, group[-1].end
        blob = self._store.blob(group[0].blob)
        rows = [blob.rows(sites.tensor_name(*key), start, end) for key in self._keys]
        found = project_states(rows, self._vectors)
        together = np.concatenate([projection for projection, _ in found])
        projection = np.empty_like(together)
        projection[np.argsort(self._tensor, kind="stable")] = together
        return projection, np.stack([norm for _, norm in found])


def project_states(states: Sequence[np.ndarray], vectors: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(k, n) projections and (n,) lengths, float32, of each tensor of states (n, D) in a stored dtype on its unit vectors (D, k).

    Read a piece at a time, by several threads: each piece is widened to float32 in a buffer that stays in the cache, and
    multiplied there. numpy and its BLAS let go of the interpreter; call it under `threadpool_limits(1)`, or BLAS has threads of its
    own, which wait for one another.
    """
    found = [
        (np.empty((v.shape[1], len(x)), np.float32), np.empty(len(x), np.float32))
        for x, v in zip(states, vectors, strict=True)
    ]

    def work(part: tuple[int, int, int]) -> None:
        tensor, start, end = part
        rows, (projection, norm) = states[tensor], found[tensor]
        size = max(8, _PIECE_VALUES // rows.shape[1])
        wide = np.zeros((min(size, end - start), rows.shape[1]), np.float32)
        for at in range(start, end, size):
            here = slice(at, min(at + size, end))
            x = _widen(rows[here], wide[: here.stop - at])
            projection[:, here] = (x @ vectors[tensor]).T
            np.matmul(x[:, None, :], x[:, :, None], out=norm[here, None, None])
        np.sqrt(norm[start:end], out=norm[start:end])

    threads = max(1, min(_THREADS, os.cpu_count() or 1))
    parts = [
        (tensor, start, end)
        for tensor, x in enumerate(states)
        for start, end in pairwise([len(x) * i // threads for i in range(threads + 1)])
    ]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))
    return found


def _widen(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The values of finite x as float32, in `out`, or x itself where it is that. numpy's own way from float16 goes value by
    value, at a sixth of this one's speed.

    A float16's bits, sign apart, moved 13 places to the left are those of a float32 that is 2^112 times too small, whether
    they are normal or subnormal: the exponents' biases are 15 and 127.
    """
    if x.dtype == np.float32:
        return x
    bits = out.view(np.int32)
    if x.dtype == ml_dtypes.bfloat16:  # the upper half of a float32
        np.copyto(bits, x.view(np.int16))
        np.left_shift(bits, 16, out=bits)
        return out
    np.copyto(bits, x.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70000001), out=bits)  # of the copies of the sign, the first
    return np.multiply(out, np.float32(2.0**112), out=out)


def _sequence_means(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(K, S): of (K, n) values, over each sequence's."""
    found: np.ndarray = np.add.reduceat(values, np.cumsum(lengths) - lengths, axis=1, dtype=np.float64) / lengths
    return found


def _scatter(values: np.ndarray, at: np.ndarray, n: int, rest: int = 0) -> np.ndarray:
    """(K, n) with the values (K, m) in the columns `at`."""
    found = np.full((len(values), n), rest, values.dtype)
    found[:, at] = values
    return found


class _AnalyzedTokens:
    """Which tokens dynamics are of: the response's, or all where the run generated none; special ones left out."""

    def __init__(self, store: TraceStore, side: str) -> None:
        names = ["example_id", "seq", "side", "is_special", "is_response"]
        rows = pq.read_table(
            store.path / paths.table_file("tokens"), columns=names, partitioning=None, read_dictionary=["example_id"],
            filters=pc.field("side") == side,
        ).combine_chunks()  # fmt: skip
        response, special = (rows[name].to_numpy() for name in ("is_response", "is_special"))
        self._is_analyzed = (response if response.any() else True) & ~special
        # A run's tokens are sorted by example, sequence and side.
        codes = rows["example_id"].chunk(0) if len(rows) else pa.array([], pa.string()).dictionary_encode()
        code, seq = codes.indices.to_numpy(), rows["seq"].to_numpy()
        new = np.concatenate([[True], (np.diff(code) != 0) | (np.diff(seq) != 0)])[: len(rows)]
        first = np.flatnonzero(new)
        ids = codes.dictionary.to_pylist()
        self._start = {(ids[code[i]], int(seq[i])): int(i) for i in first}

    def mask(self, sequences: Sequence[Slice]) -> np.ndarray:
        """(n,) of these sequences' tokens, end to end."""
        starts = [self._start[s.example_id, s.seq] for s in sequences]
        return np.concatenate(
            [self._is_analyzed[i : i + s.end - s.start] for i, s in zip(starts, sequences, strict=True)]
        )


# -- rows --------------------------------------------------------------------------------------------------------------


class _Rows:
    """Makes tables of arrays: every column at once, what repeats as numbers into a dictionary."""

    def __init__(self, source: str, chosen: Sequence[Direction], sequences: Sequence[Slice]) -> None:
        self._source, self._chosen = source, chosen
        self._examples = pa.array([s.example_id for s in sequences])
        self._seqs = np.array([s.seq for s in sequences], np.int32)

    def projections(
        self,
        which: np.ndarray,
        pos: np.ndarray,
        projection: np.ndarray,
        norm: np.ndarray,
        velocity: np.ndarray,
        acceleration: np.ndarray,
        nth: np.ndarray,
    ) -> pa.Table:
        """Of (K, n) numbers n K rows, all directions of a token together. `which` and `pos` say whose they are, `nth` the how
        manyth of the tokens looked at each is, `NONE` for the others.
        """
        k = len(self._chosen)
        again = np.repeat(nth, k)
        return _table(
            "trait_projections",
            self._names(which)
            | {
                "pos": np.repeat(pos.astype(np.int32), k),
                "projection": projection.T.ravel(),
                "token_norm": norm.T.ravel(),
                "velocity": pa.array(velocity.T.ravel(), mask=again < 1),
                "acceleration": pa.array(acceleration.T.ravel(), mask=again < 2),
            },
        )

    def dynamics(
        self, which: np.ndarray, counts: np.ndarray, first: np.ndarray, found: dynamics.Dynamics, cosine: np.ndarray
    ) -> pa.Table:
        """A row a sequence of `which` and direction; `counts` and `first` are its number of tokens and its first one's position."""
        k = len(self._chosen)
        n = np.repeat(counts.astype(np.int32), k)

        def token(numbers: np.ndarray) -> pa.Array:
            flat = numbers.T.ravel().astype(np.int32)
            return pa.array(flat, mask=flat == dynamics.NO_TOKEN)

        return _table(
            "trait_dynamics",
            self._names(which)
            | {
                "n_tokens": n,
                "first_pos": np.repeat(first.astype(np.int32), k),
                "mean_projection": found.mean.T.ravel().astype(np.float32),
                "mean_cosine": cosine.T.ravel().astype(np.float32),
                "spread": found.spread.T.ravel().astype(np.float32),
                "peak_velocity": pa.array(found.peak_velocity.T.ravel(), mask=n < 2),
                "commitment_point": token(found.commitment),
                "commitment_point_relative": token(found.commitment_relative),
                "peak_point": token(found.peak),
                "persistence": token(found.persistence),
            },
        )

    def _names(self, which: np.ndarray) -> dict[str, Any]:
        """The columns that say which sequence and which direction: for every sequence of `which`, all directions."""
        k, n = len(self._chosen), len(which)
        layers = np.array([dynamics.NO_TOKEN if d.layer is None else d.layer for d in self._chosen], np.int32)
        columns = {
            "source_run_id": _dictionary_array(np.zeros(n * k, np.int32), [self._source]),
            "example_id": pa.DictionaryArray.from_arrays(np.repeat(which.astype(np.int32), k), self._examples),
            "seq": np.repeat(self._seqs[which], k),
            "layer": pa.array(np.tile(layers, n), mask=np.tile(layers == dynamics.NO_TOKEN, n)),
        }
        for name in ("trait", "method", "component", "vectors_run_id"):
            values = [getattr(d, name) for d in self._chosen]
            known = sorted(set(values))
            codes = np.array([known.index(v) for v in values], np.int32)
            columns[name] = _dictionary_array(np.tile(codes, n), known)
        return columns


def _dictionary_array(codes: np.ndarray, values: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(values))


def _table(name: str, columns: dict[str, Any]) -> pa.Table:
    """A table's rows with strings kept as numbers into a dictionary: `publish` gives them the table's own types."""
    return pa.table({c.name: columns[c.name] for c in STORED[name].file_columns})
