"""Check a run's tensors: that they are what the manifest and the index say, hold finite values, and agree with each other."""

from __future__ import annotations

import numpy as np

from warehouse.schema import sites
from warehouse.schema.quoting import sql_text
from warehouse.storage import paths
from warehouse.storage.blobs import DTYPES
from warehouse.storage.readable import readable
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect, portions, sample_sequences, select


def check_shapes(store: TraceStore) -> str | None:
    """Check that every shard holds the manifest's tensors, and that the index covers all their rows and says their dtype."""
    if store.meta.expired is not None:
        return f"its tensors were deleted on {store.meta.expired.at:%Y-%m-%d} (traces runs expire); rows stay"
    if not store.meta.sites:
        return None
    expected = {
        name: ({s.dtype, s.promoted.get(name, s.dtype)}, tuple(s.row_shape))
        for s in store.meta.sites
        for name in (sites.tensor_name(s.side, s.site, layer) for layer in s.layers)
    }
    blobs = [f.path for f in store.meta.files if f.path.startswith(paths.BLOBS)]
    for name in blobs:
        tensors = store.blob(name).tensors
        expect(
            tensors.keys() == expected.keys(),
            f"{name} holds other tensors than the manifest: {tensors.keys() ^ expected.keys()}",
        )
        for tensor, (dtype, shape) in tensors.items():
            dtypes, row_shape = expected[tensor]
            expect(
                dtype in dtypes and shape[1:] == row_shape,
                f"{name}: {tensor} is {dtype} (T, {shape[1:]}), not {' or '.join(sorted(dtypes))} (T, {row_shape})",
            )
    for portion in portions(store):
        bad = select(
            portion,
            "SELECT example_id, seq, tensor FROM tensors WHERE shape[1] <> row_end - row_start OR row_start < 0 "
            "OR row_end <= row_start LIMIT 1",
        )
        expect(not bad, f"the index has a slice whose shape is not its rows: {bad}")
        spread = select(
            portion,
            f"SELECT blob, example_id FROM tensors JOIN ({row_kinds_sql(store)}) USING (side, site) "
            "GROUP BY blob, example_id, seq, side, kind HAVING count(DISTINCT (row_start, row_end)) > 1 LIMIT 1",
        )
        expect(not spread, f"an example's rows differ from tensor to tensor: {spread}")
    for blob, tensor, rows, end, dtypes in select(
        store,
        "SELECT blob, tensor, sum(row_end - row_start), max(row_end), list(DISTINCT dtype) FROM tensors GROUP BY blob, tensor",
    ):
        dtype, (held, *_) = store.blob(blob).tensors[tensor]
        expect(rows == end == held, f"{blob}: the index covers {rows} of {held} rows of {tensor}")
        expect(dtypes == [dtype], f"{blob}: {tensor} is {dtype}; the index says {' and '.join(sorted(dtypes))}")
    kept = f", of one example in {store.keep_every} (--keep-every)" if store.keep_every > 1 else ""
    return f"{len(expected)} tensors in {len(blobs)} shards{kept}"


def row_kinds_sql(store: TraceStore) -> str:
    """Return a SQL query that says what a row of each side and site is."""
    kinds = {(s.side, s.site, s.rows) for s in store.meta.sites}
    rows = ", ".join(f"({', '.join(map(sql_text, kind))})" for kind in sorted(kinds))
    return f"SELECT * FROM (VALUES {rows}) AS t(side, site, kind)"


def check_finite(store: TraceStore) -> str | None:
    """Check that no tensor holds NaN or infinity."""
    if not store.meta.sites:
        return None
    count = 0
    for f in store.meta.files:
        if not f.path.startswith(paths.BLOBS):
            continue
        blob = store.blob(f.path)
        for tensor, (dtype, shape) in blob.tensors.items():
            expect(_all_finite(blob.rows(tensor, 0, shape[0])), f"{f.path}: {tensor} ({dtype}) holds NaN or infinity")
            blob.release_pages()
            count += int(np.prod(shape))
    return f"{count:,} values, no NaN or infinity"


def _all_finite(x: np.ndarray) -> bool:
    """Tell by the bits whether all values are finite: an exponent of all ones is NaN or infinity, in all three dtypes."""
    exponent = {DTYPES["F16"]: 0x7C00, DTYPES["BF16"]: 0x7F80, DTYPES["F32"]: 0x7F800000}[x.dtype]
    bits: np.ndarray = x.view(np.uint32 if x.dtype.itemsize == 4 else np.uint16)
    return not bool((np.bitwise_and(bits, exponent) == exponent).any())


def check_hidden(store: TraceStore) -> str | None:
    """Check on a sample that `hidden` is the residual stream, state by state, and that only its last one is normed."""
    sides = [r.side for r in readable(store.meta) if r.site == "hidden"]
    if not sides:
        return None
    sample = sample_sequences(store)
    for side in sides:
        stack = store.meta.model.stack(side)
        n = stack.n_layers
        for example_id, seq in sample:
            where = f"of {example_id}"
            hidden = [store.hidden(example_id, i, seq=seq, side=side) for i in range(n + 1)]
            stream = [store.resid(example_id, "embed", seq=seq, side=side)]
            stream += [store.resid(example_id, "post_mlp", i, seq=seq, side=side) for i in range(n)]
            for i in range(n):
                expect(np.array_equal(hidden[i], stream[i]), f"hidden[{i}] {where} is not the residual stream")
            expect(
                np.array_equal(hidden[n], stream[n]) != stack.final_norm,
                f"the last state {where} is {'the stream, not normed' if stack.final_norm else 'not the stream'}",
            )
    return f"equal to the residual stream on {len(sample)} sequences"
