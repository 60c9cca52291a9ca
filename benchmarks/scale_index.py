"""Training of a vector table's index from a hundred thousand rows to some millions: CPU time, and how it grows with the rows.

The vectors are made up: rows around centres of their own, so that there is something to partition. Ours has the partitions that
`warehouse.vectors.ann_index` chooses; the other has one for each 2,048 rows at every size, as ours has to a million. Ten nearest rows are
looked for among an equal part of each index's rows.

    python benchmarks/scale_index.py [--rows 300000 3000000] [--width 64]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator

import lancedb
import numpy as np
import pyarrow as pa
from common import cpu_ms, parsed, record
from lancedb.index import IvfSq

from warehouse.vectors.ann_index import ivf_options

BATCH = 50_000
QUERIES = 50


def batches(rows: int, width: int) -> Iterator[pa.RecordBatch]:
    """Rows around a centre for each thousand of them, as float16."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, rows // 1000), width), np.float32)
    for first in range(0, rows, BATCH):
        n = min(BATCH, rows - first)
        x = centres[rng.integers(len(centres), size=n)] + rng.standard_normal((n, width), np.float32) / 2
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float16).ravel()), width)
        yield pa.RecordBatch.from_arrays([values], ["vector"])


def recall(table: lancedb.table.Table, partitions: int) -> float:
    """Part of the ten nearest rows of some rows that a search of a twentieth of the partitions finds."""
    queries = table.search().limit(QUERIES).to_arrow()["vector"].to_pylist()
    found = 0
    for query in queries:
        near, exact = (
            table.search(query).distance_type("l2").limit(10).with_row_id(True).select(["_distance"])
            for _ in range(2)
        )  # fmt: skip
        near = near.nprobes(max(1, partitions // 20)).refine_factor(4)
        ids = [set(q.to_arrow()["_rowid"].to_pylist()) for q in (near, exact.bypass_vector_index())]
        found += len(ids[0] & ids[1])
    return found / (10 * len(queries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 3_000_000])
    parser.add_argument("--width", type=int, default=64)
    args = parsed(parser, rows=[5_000, 10_000], width=8)
    costs: dict[int, list[float]] = {}
    found: dict[int, list[float]] = {}
    for rows in args.rows:
        plain = ivf_options(rows) | {"num_partitions": max(1, rows // 2048)}
        schema = pa.schema({"vector": pa.list_(pa.float16(), args.width)})
        with tempfile.TemporaryDirectory() as folder:
            table = lancedb.connect(folder).create_table("made", batches(rows, args.width), schema=schema)
            costs[rows], found[rows] = [], []
            for options in (ivf_options(rows), plain):
                config = IvfSq(distance_type="l2", **options)
                costs[rows].append(cpu_ms(lambda t=table, c=config: t.create_index("vector", config=c, replace=True)))
                found[rows].append(recall(table, options["num_partitions"]))
    few, many = min(args.rows), max(args.rows)
    ours, other = (math.log(costs[many][i] / costs[few][i]) / math.log(many / few) for i in range(2))
    record(
        "scale_index", f"training the index of {many:,} vectors of width {args.width} (made up)",
        "with a partition for each 2,048 rows",
        *(f"{costs[many][i] / 1e3:.1f} s of CPU, as rows to the power {power:.2f} from {few:,} rows on, recall {found[many][i]:.3f}"
          for i, power in enumerate((ours, other))),
        f"{costs[many][0] / costs[many][1]:.2f} times its time", "close to linear",
    )  # fmt: skip


if __name__ == "__main__":
    main()
