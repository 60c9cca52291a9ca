"""Where an example's rows of a tensor lie: from the tensor index, against a filtered read of the same Parquet file and a dict of all rows.

The index is made up: random ids, lengths and checksums, 61 tensors, sorted as a run's. Every look-up of the first kind begins with
nothing read, as in a run that was just opened; later ones are of other examples, with what earlier ones left.

    python benchmarks/tensor_index.py [--examples 1000 100000]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import parsed, record

from warehouse.schema.arrow import arrow_schema
from warehouse.storage.parquet import merge_table_parts, to_table, write_part
from warehouse.storage.sorted_table import SortedTable
from warehouse.storage.tensor_index import TensorIndex

_TENSORS = [(site, layer) for site in ("resid.post_attn", "resid.post_mlp") for layer in range(30)] + [("hidden", 30)]
_TENSOR = "resid.post_mlp.L15"
_SHARD_ROWS = 1 << 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--times", type=int, default=21)
    args = parsed(parser, examples=[200], times=2)
    for n in args.examples:
        with tempfile.TemporaryDirectory() as folder:
            file = make(Path(folder), n)
            os.sync()  # what was made is not written while it is read
            compare(file, n, args.times)


def compare(path: Path, n: int, times: int) -> None:
    ids = pc.unique(pq.read_table(path, columns=["example_id"], partitioning=None)["example_id"]).to_pylist()
    index = opened(path)
    chosen = [ids[i] for i in np.random.default_rng(0).integers(n, size=times + 1)]
    # One kind after the other: a filtered read leaves threads and memory behind that the next look-up would pay for.
    kinds: tuple[Callable[[str], Any], ...] = (
        lambda e: opened(path).find(e, 0),
        lambda e: index.find(e, 0),
        lambda e: filtered(path, e),
    )
    found = [[timed(lambda e=e, ask=ask: ask(e)) for e in chosen] for ask in kinds]
    for answers in zip(*found, strict=True):
        assert len({place for _, place in answers}) == 1
    mine, later, other = (statistics.median(seconds for seconds, _ in kind[1:]) for kind in found)
    made, places = timed(lambda: as_dict(path))
    assert len(places) == n
    size = f"{path.stat().st_size / n / len(_TENSORS):.2f} bytes a row, {path.stat().st_size / n:.0f} an example of 61 tensors"
    record(f"tensor_index#{n}", f"first look-up of an example's place, {n:,} examples; {size} (made-up rows)", "a filtered Parquet read; a dict of all",
           f"{mine * 1e3:.2f} ms; later {later * 1e3:.3f} ms", f"{other * 1e3:.1f} ms; {made * 1e3:.0f} ms",
           f"{other / mine:.1f} times faster; {made / mine:.0f} times", "under 10 ms, under 60 bytes an example")  # fmt: skip


def opened(path: Path) -> TensorIndex:
    return TensorIndex(SortedTable([path], arrow_schema("tensors")), _TENSOR)


def filtered(path: Path, example: str) -> tuple[str, int, int]:
    wanted = (pc.field("example_id") == example) & (pc.field("seq") == 0) & (pc.field("tensor") == _TENSOR)
    rows = pq.read_table(path, columns=["blob", "row_start", "row_end"], filters=wanted, partitioning=None)
    return tuple(rows.to_pylist()[0].values())


def as_dict(path: Path) -> dict[Any, Any]:
    names = ["example_id", "seq", "blob", "row_start", "row_end"]
    rows = pq.read_table(path, columns=names, filters=pc.field("tensor") == _TENSOR, partitioning=None)
    columns = (rows[name].to_pylist() for name in names)
    return {(e, s): (b, i, j) for e, s, b, i, j in zip(*columns, strict=True)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = work()
    return time.perf_counter() - start, answer


def make(folder: Path, n: int) -> Path:
    """Makes the index of n examples of 4 to 11 tokens, in the order in which a capture would have read them, and sorts it."""
    chance, tensors = np.random.default_rng(n), len(_TENSORS)
    parts, row = [], 0
    for number, begin in enumerate(range(0, n, 10_000)):
        m = min(10_000, n - begin)
        lengths = chance.integers(4, 12, m)
        ends = row + np.cumsum(lengths)
        row = int(ends[-1])
        blobs = pa.array([f"blobs/{e // _SHARD_ROWS:05d}.safetensors" for e in ends])
        one = {
            "example_id": pa.array([chance.bytes(8).hex() for _ in range(m)]),
            "seq": pa.array(np.zeros(m, np.int32)),
            "blob": blobs,
            "row_start": pa.array((ends - lengths) % _SHARD_ROWS),
            "row_end": pa.array((ends - lengths) % _SHARD_ROWS + lengths),
            "shape": pa.array([[k, 576] for k in lengths.tolist()], pa.list_(pa.field("element", pa.int64()))),
            "checksum": pa.array([chance.bytes(16).hex() for _ in range(m)]),
        }
        of_tensor = np.repeat(np.arange(tensors), m)
        columns = {name: pa.chunked_array([values] * tensors) for name, values in one.items()}
        columns |= {
            "side": pa.repeat("dec", m * tensors),
            "dtype": pa.repeat("F16", m * tensors),
            "site": pa.array([s for s, _ in _TENSORS]).take(pa.array(of_tensor)),
            "layer": pa.array([i for _, i in _TENSORS], pa.int32()).take(pa.array(of_tensor)),
            "tensor": pa.array([f"{s}.L{i:02d}" for s, i in _TENSORS]).take(pa.array(of_tensor)),
        }
        parts.append(folder / f"{number}.arrow")
        write_part("tensors", parts[-1], to_table("tensors", columns))
    merge_table_parts("tensors", parts, folder / "tensors.parquet")
    return folder / "tensors.parquet"


if __name__ == "__main__":
    main()
