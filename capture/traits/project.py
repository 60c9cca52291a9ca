"""Project every token of a run on traits' vectors: h·v/‖v‖ with ‖h‖ beside it, and how it moves along each response.

Reads a captured run's shards and the vectors of one or more trait-vectors runs; no model is loaded. All traits, methods and layers
are done in one pass: a shard's tensor is read once, a few rows at a time, and multiplied by all vectors of its layer while it is in
the processor's cache. The result is a run of kind `trait-projection` with the tables `trait_projections` and `trait_dynamics`; its
parents are the projected run and those of the vectors. `directions` chooses the vectors, `dynamics` has the formulas.
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
from capture.traits.projection_rows import ProjectionRows
from warehouse.catalog.publish import publish
from warehouse.schema import sites
from warehouse.storage import paths
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.files import parquet_source
from warehouse.storage.grouping import group_by_size
from warehouse.storage.journal import Journal
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.stored_tensors import Slice
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse

KIND = "trait-projection"

_SHARD_ROWS = 1 << 20
"""Rows of `trait_projections` in a shard, where an interrupted projection can resume: about 30 MB."""
_PIECE_VALUES = 1 << 17
"""Values of a tensor that are multiplied at once, 512 KB as float32: stay in a core's own cache. With far fewer, threads wait for the
interpreter longer than they compute."""
_THREADS = 4


def project(
    wh: Warehouse,
    source: str,
    directions: Sequence[Direction],
    options: Options,
    run_id: str | None = None,
    report: Callable[[DerivedProgress], None] = lambda _: None,
) -> Manifest:
    """Project the tokens of a run on directions, and publish the projections as a run.

    The same call resumes where an earlier one was interrupted.

    Args:
        wh: The warehouse.
        source: The run to project.
        directions: What to project it on, from `choose_directions`.
        options: The options that the directions were chosen by.
        run_id: The new run's name. If None, it is `<source>-traits`, or the same with -2, -3, … where that name belongs to another
            projection; if this very projection exists, it is returned as it is.
        report: Called after every group of sequences.

    Returns:
        The new run's manifest.

    Raises:
        RunExistsError: The name was given and exists already.
    """
    store = wh.cached_run(source)
    parents = [source, *sorted({d.vectors_run_id for d in directions})]
    manifest_options = {
        "traits": list(dict.fromkeys(d.trait for d in directions)),
        "directions": [d.key for d in directions],
        "dynamics_only": options.dynamics_only,
        "threshold": options.threshold,
        "shard": options.shard,
        "parent_manifests": {run: manifest_hash(wh.root, run) for run in parents},
    }
    identity = RunIdentity(KIND, manifest_options).to_dict()
    named = None if run_id is None else partition.part_run_name(run_id, options.shard)
    name, published = (
        (named, None) if named is not None else _find_free_name(wh, source, parents, manifest_options, identity)
    )
    if published is not None:
        return published
    plan = ProjectionPlan(store, directions, options)
    progress = DerivedProgress(name)
    with RunWriter(wh.root, name, identity) as writer, threadpool_limits(1, user_api="blas"):
        for number, group in enumerate(partition.take_part(plan.groups(), options.shard)):
            done = number < len(writer.done)
            progress.begun += len(group)
            progress.tokens += sum(s.end - s.start for s in group)
            if done:
                progress.resumed_tokens = progress.tokens
            else:
                writer.begin_shard({}, {})
                writer.put(RecordedBatch([], {}, {}, plan.tables(group)))
                writer.end_shard(str(number))
            report(progress)
        return publish(writer, lambda p: store.meta.derive(KIND, name, parents, manifest_options, p))


def _find_free_name(
    wh: Warehouse, source: str, parents: list[str], manifest_options: dict[str, Any], identity: dict[str, Any]
) -> tuple[str, Manifest | None]:
    """Find the first of `<source>-traits`, `<source>-traits-2`, … that is free or belongs to this projection.

    Args:
        wh: The warehouse.
        source: The run to project.
        parents: The parents of the projection.
        manifest_options: Its options as its manifest keeps them.
        identity: What identifies it where it was interrupted.

    Returns:
        The name, and the manifest where the projection exists and is complete.
    """
    number = 1
    while True:
        name = partition.part_run_name(
            f"{source}-traits" + (f"-{number}" if number > 1 else ""), manifest_options["shard"]
        )
        folder = paths.run_dir(wh.root, name)
        staged = paths.journal_path(paths.staging_dir(wh.root, name))
        if folder.exists():
            other = Manifest.read(folder)
            if (other.kind, other.parents, other.options) == (KIND, parents, manifest_options):
                return name, other
        elif not staged.exists() or Journal(staged).job in (None, identity):
            return name, None
        number += 1


class ProjectionPlan:
    """Which rows of which tensors are projected on which vectors: what stays the same from shard to shard."""

    def __init__(self, store: TraceStore, directions: Sequence[Direction], options: Options) -> None:
        self._store, self._directions, self._options = store, directions, options
        keys = [tensor_key(store, d) for d in directions]
        self._keys = list(dict.fromkeys(keys))
        self._tensor = np.array([self._keys.index(key) for key in keys])
        """(K,): for each direction, the place of its tensor in the keys."""
        self._vectors = [
            np.ascontiguousarray(
                np.stack([d.vector for d, k in zip(directions, keys, strict=True) if k == key], axis=1)
            )
            for key in self._keys
        ]
        self._slices = store.slices(self._keys[0])
        self._analyzed = _AnalyzedTokens(store, self._keys[0].side)

    def groups(self) -> Iterator[list[Slice]]:
        """Return the run's sequences in the order on disk; those of a group lie side by side in one shard."""
        most = max(1, _SHARD_ROWS // len(self._directions))
        return group_by_size(self._slices, lambda s: s.n_rows, most, Slice.is_followed_by)

    def tables(self, group: Sequence[Slice]) -> dict[str, pa.Table]:
        """Return the rows of a group of sequences, sorted by their tables' keys."""
        projection, norm = self.project_group(group)
        ordered = sorted(group, key=lambda s: (s.example_id, s.seq))
        lengths = np.array([s.end - s.start for s in ordered])
        begins = np.array([s.start - group[0].start for s in ordered])
        pos = dynamics.token_numbers(lengths)
        order = np.repeat(begins, lengths) + pos
        projection, norm = projection[:, order], norm[self._tensor[:, None], order]
        at = np.flatnonzero(self._analyzed.mask(ordered))
        sequence = np.repeat(np.arange(len(ordered)), lengths)
        counts = np.bincount(sequence[at], minlength=len(ordered))
        analyzed = np.flatnonzero(counts)
        rows = ProjectionRows(self._store.meta.run_id, self._directions, ordered)
        counts = counts[analyzed]
        velocity, acceleration = dynamics.differences(projection[:, at], counts)
        tables = {}
        if len(analyzed):
            summary = dynamics.summarize_sequences(
                projection[:, at], counts, velocity, acceleration, self._options.threshold
            )
            cosine = _sequence_means(projection[:, at] / np.maximum(norm[:, at], np.finfo(np.float32).tiny), counts)
            tables["trait_dynamics"] = rows.dynamics(
                analyzed, counts, pos[at[np.cumsum(counts) - counts]], summary, cosine
            )
        if not self._options.dynamics_only:
            tables["trait_projections"] = rows.projections(
                sequence, pos, projection, norm, _scatter(velocity, at, len(pos)), _scatter(acceleration, at, len(pos)),
                _scatter(dynamics.token_numbers(counts)[None], at, len(pos), dynamics.NO_TOKEN)[0],
            )  # fmt: skip
        return tables

    def project_group(self, group: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
        """Return the projections (K, n) of a group, and the lengths of its states (tensors, n), in the order on disk."""
        start, end = group[0].start, group[-1].end
        blob = self._store.blob(group[0].blob)
        rows = [blob.rows(sites.tensor_name(*key), start, end) for key in self._keys]
        by_tensor = project_states(rows, self._vectors)
        grouped = np.concatenate([projection for projection, _ in by_tensor])
        projection = np.empty_like(grouped)
        projection[np.argsort(self._tensor, kind="stable")] = grouped
        return projection, np.stack([norm for _, norm in by_tensor])


def project_states(states: Sequence[np.ndarray], vectors: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Project states on unit vectors.

    States are read a piece at a time by several threads: each piece is widened to float32 in a buffer that stays in the cache, and
    multiplied there. numpy and its BLAS release the interpreter; call this under `threadpool_limits(1)`, or BLAS starts threads of
    its own, which wait for one another.

    Args:
        states: Tensors (n, D) in a stored dtype.
        vectors: For each tensor, its unit vectors (D, k), float32.

    Returns:
        For each tensor, projections (k, n) and the states' lengths (n,), float32.
    """
    results = [
        (np.empty((v.shape[1], len(x)), np.float32), np.empty(len(x), np.float32))
        for x, v in zip(states, vectors, strict=True)
    ]

    def work(part: tuple[int, int, int]) -> None:
        tensor, start, end = part
        rows, (projection, norm) = states[tensor], results[tensor]
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
    return results


def _widen(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Widen finite values to float32 at six times the speed of numpy's own conversion from float16.

    A float16's bits without the sign, moved 13 places to the left, are those of a float32 that is 2^112 times too small, whether
    normal or subnormal: the exponents' biases are 15 and 127.

    Args:
        x: Values in a stored dtype.
        out: A float32 buffer of the same shape.

    Returns:
        `out`, or `x` itself where it is float32.
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
    np.bitwise_and(bits, np.int32(-0x70000001), out=bits)  # keep only the first copy of the sign
    return np.multiply(out, np.float32(2.0**112), out=out)


def _sequence_means(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the mean of values (K, n) over each sequence, (K, S)."""
    means: np.ndarray = np.add.reduceat(values, np.cumsum(lengths) - lengths, axis=1, dtype=np.float64) / lengths
    return means


def _scatter(values: np.ndarray, at: np.ndarray, n: int, rest: int = 0) -> np.ndarray:
    """Return (K, n) with the values (K, m) in the columns `at`, and `rest` elsewhere."""
    scattered = np.full((len(values), n), rest, values.dtype)
    scattered[:, at] = values
    return scattered


class _AnalyzedTokens:
    """The tokens that dynamics cover: the response's, or all where the run generated none; never special ones."""

    def __init__(self, store: TraceStore, side: str) -> None:
        names = ["example_id", "seq", "side", "is_special", "is_response"]
        rows = pq.read_table(
            parquet_source(store.path / paths.table_file("tokens")), columns=names, partitioning=None, read_dictionary=["example_id"],
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
        """Return which tokens of these sequences, end to end, are covered: (n,) bool."""
        starts = [self._start[s.example_id, s.seq] for s in sequences]
        return np.concatenate(
            [self._is_analyzed[i : i + s.end - s.start] for i, s in zip(starts, sequences, strict=True)]
        )
