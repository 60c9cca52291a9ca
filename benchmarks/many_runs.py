"""A group-by over 10 million next_token rows in 100 runs, through the view, against the same over one compacted file;
and the view filtered to one run.

    python benchmarks/many_runs.py [--runs 100] [--rows 100000] [--times 7]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import median_ms, parsed, record
from made_up import EXAMPLE_TOKENS, example_ids, next_token, publish

from warehouse import Warehouse
from warehouse.schema.quoting import sql_path
from warehouse.storage.parquet import ROW_GROUP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=7)
    args = parsed(parser, runs=43, rows=200, times=1)
    with tempfile.TemporaryDirectory() as folder:
        root, compacted = Path(folder) / "runs", Path(folder) / "one.parquet"
        writer: pq.ParquetWriter | None = None
        for run in range(args.runs):
            ids = example_ids(args.rows // EXAMPLE_TOKENS + 1)
            rows, name = next_token(run, ids).slice(length=args.rows), f"run-{run:03d}"
            publish(root, name, {"next_token": [rows]})
            with_run = rows.append_column("run_id", pa.array([name] * len(rows)))
            writer = writer or pq.ParquetWriter(compacted, with_run.schema, compression="zstd")
            writer.write_table(with_run, row_group_size=ROW_GROUP)
        assert writer is not None
        writer.close()
        query = "SELECT run_id, count(*), avg(loss), avg(correct::INT), avg(entropy) FROM {} GROUP BY run_id ORDER BY run_id"
        one = "SELECT count(*), avg(loss), avg(correct::INT), avg(entropy) FROM {} WHERE run_id = 'run-042'"
        file = f"read_parquet({sql_path(compacted)})"
        with Warehouse(root) as wh, duckdb.connect() as con:
            view, other = wh.sql(query.format("next_token")).fetchall(), con.sql(query.format(file)).fetchall()
            assert [r[:2] for r in view] == [r[:2] for r in other] and np.allclose(
                [r[2:] for r in view], [r[2:] for r in other]
            )
            ours = median_ms(lambda: wh.sql(query.format("next_token")).fetchall(), args.times)
            theirs = median_ms(lambda: con.sql(query.format(file)).fetchall(), args.times)
            ours_one = median_ms(lambda: wh.sql(one.format("next_token")).fetchall(), args.times * 3)
            theirs_one = median_ms(lambda: con.sql(one.format(file)).fetchall(), args.times * 3)
    rows_total = f"{args.runs * args.rows / 1e6:.0f} million next_token rows in {args.runs} runs"
    record(
        "many_runs#group", f"a group-by over {rows_total}, through the view", "the same over one compacted Parquet file",
        f"{ours:.0f} ms", f"{theirs:.0f} ms", f"{ours / theirs:.2f} times its time", "at most 1.5 times",
    )  # fmt: skip
    record(
        "many_runs#one", f"a one-run filter over {rows_total}", "the same over one compacted Parquet file",
        f"{ours_one:.1f} ms", f"{theirs_one:.1f} ms", f"{ours_one:.1f} ms", "under 30 ms",
    )  # fmt: skip


if __name__ == "__main__":
    main()
