"""Twenty traits onto a captured run, against reading the blobs that they are in from front to back.

Both sides open the run anew in every round and go through its memory map, the other side copying every byte into a buffer that stays
in the cache: what reading costs where nothing is done with what was read. Three ways of twenty traits: each in a layer of its own,
all in one layer, and the whole command with its rows, sorted and published, against reading the run.

    python benchmarks/projection.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import in_turns, parsed, record
from residuals import real, shrink
from threadpoolctl import threadpool_limits

from capture.traits import project
from capture.traits.directions import Direction, Options
from warehouse import TraceStore, Warehouse
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths

TRAITS = 20
_BUFFER = 1 << 18
"""Bytes: stays in a core's own cache."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path, help="a captured run's folder; the benchmarks' own if left out")
    asked = parsed(parser, rounds=1)
    if asked.small:
        shrink()
    store = TraceStore(asked.run) if asked.run else real()
    layers = store.layers_with("resid.post_mlp", "dec")
    apart = [layers[i * len(layers) // TRAITS] for i in range(TRAITS)]
    passes("layers", "each in a layer of its own", store, apart, asked.rounds, "at least 0.8 times its speed")
    one = [layers[len(layers) // 2]] * TRAITS
    passes(
        "layer",
        "all in one layer",
        store,
        one,
        asked.rounds,
        "no target: twenty products a value, not reading, take the time",
    )
    command(store, apart, asked.rounds)


def directions(store: TraceStore, layers: Sequence[int], vectors_run: str) -> list[Direction]:
    rng = np.random.default_rng(0)
    found = []
    for i, layer in enumerate(layers):
        v = rng.standard_normal(store.meta.model.d_model)
        v = (v / np.linalg.norm(v)).astype(np.float32)
        found.append(Direction(f"trait{i:02d}", "random", "residual", layer, vectors_run, v, ""))
    return found


def read(folder: Path, keys: Sequence[Key]) -> int:
    """Copies tensors through the run's memory map, shard by shard; returns their bytes."""
    store, buffer, total = TraceStore(folder), np.empty(_BUFFER, np.uint8), 0
    for blob in sorted({s.blob for s in store.slices(keys[0])}):
        for key in keys:
            octets = store.blob(blob).tensor(sites.tensor_name(*key)).reshape(-1).view(np.uint8)
            for at in range(0, len(octets), _BUFFER):
                piece = octets[at : at + _BUFFER]
                np.copyto(buffer[: len(piece)], piece)
            total += len(octets)
    return total


def passes(name: str, how: str, store: TraceStore, layers: Sequence[int], rounds: int, target: str) -> None:
    """The pass over the shards alone: every token's projections and lengths, no rows."""
    chosen = directions(store, layers, store.meta.run_id)
    keys = [Key("dec", "resid.post_mlp", layer) for layer in dict.fromkeys(layers)]
    size = read(store.path, keys)

    def ours() -> None:
        plan = project.ProjectionPlan(TraceStore(store.path), chosen, Options(()))
        with threadpool_limits(1, user_api="blas"):
            for group in plan.groups():
                plan.project_group(group)

    mine, theirs = in_turns(ours, lambda: read(store.path, keys), rounds)
    told(f"projection#{name}", f"projecting {store.meta.counts.tokens:,} tokens on {TRAITS} traits, {how}",
         "copying the bytes of those tensors through the same memory map", size, mine, theirs, target)  # fmt: skip


def command(store: TraceStore, layers: Sequence[int], rounds: int) -> None:
    """All of `traces trait project`, and reading all blobs of the run."""
    keys = [Key(s.side, s.site, layer) for s in store.meta.sites for layer in s.layers]
    size = read(store.path, keys)
    source = paths.run_id_of(store.path)
    with tempfile.TemporaryDirectory(dir=store.path.parent) as folder:
        root = Path(folder)
        paths.run_dir(root, source).symlink_to(store.path)
        chosen = directions(store, layers, source)
        for only in (True, False):

            def ours(only: bool = only) -> None:
                shutil.rmtree(paths.run_dir(root, "made"), ignore_errors=True)
                with Warehouse(root) as wh:
                    project.project(wh, source, chosen, Options((), dynamics_only=only), "made")

            mine, theirs = in_turns(ours, lambda: read(store.path, keys), max(1, rounds // 2))
            told(
                f"projection#{'dynamics' if only else 'rows'}",
                f"`traces trait project` of {TRAITS} traits, {'--dynamics-only' if only else 'a row a token and trait'}, published",
                "copying all the run's tensors through the memory map", size, mine, theirs,
                "at least 0.8 times its speed" if only else "no target: rows are sorted and written",
            )  # fmt: skip


def told(
    name: str, claim: str, other: str, size: int, mine: Sequence[float], theirs: Sequence[float], target: str
) -> None:
    a, b = statistics.median(mine), statistics.median(theirs)
    ratios = [t / m for m, t in zip(mine, theirs, strict=True)]
    record(name, claim, other, f"{a * 1e3:,.0f} ms", f"{b * 1e3:,.0f} ms ({size / b / 1e9:.1f} GB/s)",
           f"{b / a:.2f} times its speed ({min(ratios):.2f} to {max(ratios):.2f})", target)  # fmt: skip


if __name__ == "__main__":
    started = time.time()
    main()
    print(f"{time.time() - started:.0f} s")
