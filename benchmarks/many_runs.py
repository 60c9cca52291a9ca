"""A group-by over 10 million next_token rows in 100 runs, through the view, against the same over one compacted file;
the view filtered to one run; and what one run costs among a thousand small ones, against among ten.

    python benchmarks/many_runs.py [--runs 100] [--rows 100000] [--times 7] [--many 1000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import cpu_ms, median_ms, parsed, record
from made_up import EXAMPLE_TOKENS, example_ids, next_token, publish, small_run

from warehouse import Warehouse
from warehouse.catalog.build import refresh
from warehouse.schema.quoting import sql_path
from warehouse.storage.parquet import ROW_GROUP

FEW = 10
"""Small runs that many are held against."""


def _one_among(many: int, times: int) -> None:
    """Records what publishing one more run, and asking about one, costs among many small runs."""
    small = small_run()
    questions = {
        "one": ("a count of one run through its view", "SELECT count(*) FROM next_token WHERE run_id = 'run-3'", 3),
        "diagnostics": (
            "`token_diagnostics` of one run",
            "SELECT avg(loss) FROM token_diagnostics WHERE run_id = 'run-3'",
            2,
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        roots = {size: Path(folder) / str(size) for size in (FEW, many)}
        for size, root in roots.items():
            for run in range(size):
                publish(root, f"run-{run}", small)
            refresh(root)

        def add(root: Path, number: int) -> None:
            publish(root, f"more-{number}", small)
            refresh(root)

        _record_ratio(
            "publish", "publishing one more small run", many, 2,
            [[cpu_ms(lambda root=root, n=n: add(root, n)) for root in roots.values()] for n in range(times)],
        )  # fmt: skip
        with Warehouse(roots[FEW]) as few, Warehouse(roots[many]) as other:
            for name, (claim, query, target) in questions.items():
                assert few.sql(query).fetchall() == other.sql(query).fetchall()
                rounds = [
                    [cpu_ms(lambda wh=wh, query=query: wh.sql(query).fetchall()) for wh in (few, other)]
                    for _ in range(times * 3)
                ]
                _record_ratio(name, claim, many, target, rounds)


def _record_ratio(name: str, claim: str, many: int, target: int, rounds: list[list[float]]) -> None:
    few, other = (statistics.median(found) for found in zip(*rounds, strict=True))
    record(
        f"many_runs#{name}-among", f"{claim}, among {many:,} runs", f"among {FEW}",
        f"{other:.1f} ms of CPU", f"{few:.1f} ms of CPU", f"{other / few:.2f} times", f"at most {target} times",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--many", type=int, default=1_000)
    args = parsed(parser, runs=43, rows=200, times=1, many=20)
    _one_among(args.many, args.times)
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
