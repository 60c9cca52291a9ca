"""Vectors out of the shards: into a Lance table, into a matrix, into batches; each against the plainest way of moving the bytes.

Ours reads through the page cache, and so does the other side; both have read everything once before.

    python benchmarks/vector_io.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from common import in_turns, parsed, record
from residuals import KEY, LAYER, million, real, rows_of, shrink

from warehouse import Warehouse
from warehouse.schema import sites
from warehouse.storage import paths
from warehouse.vectors import index_spec, ingest

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    if parsed(parser).small:
        shrink()
    filling()
    matrix()
    batches()


def spread(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def filling() -> None:
    """A million rows into a table without an index, and a file of the same bytes, fsynced."""
    store = million()
    x = rows_of(store)
    with tempfile.TemporaryDirectory(dir=store.path.parent) as folder:
        root = Path(folder)
        paths.run_dir(root, "million").symlink_to(store.path)

        def ours() -> None:
            shutil.rmtree(paths.vectors_dir(root), ignore_errors=True)
            ingest.add(root, "million", [index_spec.IndexSpec(None, KEY.site, (LAYER,))], ingest.Settings(kind="none"))

        def raw() -> None:
            with (root / "raw").open("wb") as f:
                f.write(x.data)
                f.flush()
                os.fsync(f.fileno())

        mine, theirs = in_turns(ours, raw, 3)
    a, b = statistics.median(mine), statistics.median(theirs)
    record(
        "vector_io#fill", "filling a vector table from the shards, a million rows of width 576", "a file of the same bytes",
        f"{x.nbytes / a / 1e6:.0f} MB/s", f"{x.nbytes / b / 1e6:.0f} MB/s", f"{a / b:.2f} times its time", "at least 150 MB/s",
    )  # fmt: skip


def matrix() -> None:
    """100,000 tokens scattered over a run, by a query, and the same rows from one .npy that holds the whole layer."""
    store = real()
    x = rows_of(store)
    number = {}
    for n, s in enumerate(store.slices(KEY)):
        number[s.example_id] = n
    starts = np.cumsum([0] + [s.end - s.start for s in store.slices(KEY)])
    query = (
        f"SELECT run_id, example_id, seq, pos FROM tokens WHERE run_id = 'wt2' AND hash(example_id, pos) % {len(x)} < 100000 "
        "ORDER BY example_id, pos LIMIT 100000"
    )
    with tempfile.TemporaryDirectory() as folder, Warehouse(store.path.parent) as wh:
        np.save(Path(folder) / "whole.npy", x)
        _, keys = wh.matrix(query, layer=LAYER)
        rows = starts[[number[e] for e in keys.example_id]] + keys.pos.to_numpy()
        np.save(Path(folder) / "chosen.npy", x[rows])
        found: list[np.ndarray] = []

        def ours() -> None:
            found[:] = [wh.matrix(query, layer=LAYER)[0]]

        mine, theirs = in_turns(ours, lambda: np.load(Path(folder) / "chosen.npy"), ROUNDS)
        np.testing.assert_array_equal(found[0], x[rows])
        whole, _ = in_turns(lambda: np.load(Path(folder) / "whole.npy", mmap_mode="r")[rows], lambda: None, ROUNDS)
        asking, _ = in_turns(lambda: wh.sql(query).df(), lambda: None, ROUNDS)
    a, b, c, d = (statistics.median(t) * 1e3 for t in (mine, theirs, whole, asking))
    ratios = [m / t for m, t in zip(mine, theirs, strict=True)]
    record(
        "vector_io#matrix", f"`matrix` of {len(rows):,} tokens scattered over a run of {len(x):,}, their query and its answer included",
        "those rows in order, from one .npy of them alone", f"{a:.0f} ms, of which the query {d:.0f} ms",
        f"{b:.0f} ms ({c:.0f} ms from a .npy of the layer, by row numbers that are known)",
        f"{a / b:.1f} times its time ({spread(ratios)})", "at most 3 times",
    )  # fmt: skip


def batches() -> None:
    store = real()
    x = rows_of(store)
    names = {s.blob for s in store.slices(KEY)}
    spans = []
    for name in sorted(names):
        with (store.path / name).open("rb") as f:
            base = 8 + int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(base - 8))
        start, end = header[sites.tensor_name(*KEY)]["data_offsets"]
        spans.append((store.path / name, base + start, end - start))
    size = 8192 * x.shape[1] * 2

    def sequential() -> None:
        for path, start, length in spans:
            with path.open("rb") as f:
                f.seek(start)
                for at in range(0, length, size):
                    f.read(min(size, length - at))

    with Warehouse(store.path.parent) as wh:
        given = wh.batches(layer=LAYER, shuffle=True)

        def ours() -> None:
            for _ in given:
                pass

        mine, theirs = in_turns(ours, sequential, ROUNDS)
        tracemalloc.start()
        ours()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    ratios = [m / t for m, t in zip(mine, theirs, strict=True)]
    a, b = statistics.median(mine), statistics.median(theirs)
    record(
        "vector_io#batches", "`batches` of one layer, shuffled, 8,192 at a time (peak of what Python holds)",
        "reading that layer from front to back", f"{x.nbytes / a / 1e6:.0f} MB/s ({peak / 1e6:.0f} MB)",
        f"{x.nbytes / b / 1e6:.0f} MB/s", f"{a / b:.2f} times its time ({spread(ratios)})",
        "at most 2 times, memory bounded by the buffer",
    )  # fmt: skip


if __name__ == "__main__":
    started = time.time()
    main()
    print(f"{time.time() - started:.0f} s")
