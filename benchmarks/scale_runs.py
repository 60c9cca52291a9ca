"""Ten thousand runs: what publishing one more, asking one, and listing them costs against among ten; and a group-by over 10^8 rows in
them, through the view, against the same over one compacted file. The rows are made up, and all runs hold the same.

    python benchmarks/scale_runs.py [--runs 10000] [--rows 10000] [--times 5]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
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


def make_runs(root: Path, count: int, tables: dict[str, list[pa.Table]]) -> None:
    """Publishes a run, and links it under other names."""
    publish(root, "run-0", tables)
    files = [p for p in (root / "run_id=run-0").rglob("*") if p.is_file()]
    for i in range(1, count):
        for file in files:
            link = root / f"run_id=run-{i}" / file.relative_to(root / "run_id=run-0")
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, link)
    refresh(root)


def _one_among(folder: Path, many: int, times: int) -> None:
    """Records what one run costs among many."""
    small = small_run()
    roots = [folder / "few", folder / "many"]
    for root, count in zip(roots, (FEW, many), strict=True):
        make_runs(root, count, small)

    def add(root: Path) -> None:
        publish(root, f"more-{time.time_ns()}", small)
        refresh(root)

    rounds = {"publish": [[cpu_ms(lambda root=root: add(root)) for root in roots] for _ in range(times + 1)][1:]}
    with Warehouse(roots[0]) as few, Warehouse(roots[1]) as other:
        for name, query in {
            "one": "SELECT avg(loss) FROM token_diagnostics WHERE run_id = 'run-3'",
            "runs": "SELECT * FROM runs ORDER BY created_at DESC, run_id LIMIT 20",
        }.items():
            rounds[name] = [
                [cpu_ms(lambda wh=wh, query=query: wh.sql(query).fetchall()) for wh in (few, other)]
                for _ in range(times * 3 + 1)
            ][1:]
    claims = {
        "publish": "publishing one more small run",
        "one": "`token_diagnostics` of one run",
        "runs": "the newest twenty of `runs`",
    }
    for name, claim in claims.items():
        a, b = (statistics.median(found) for found in zip(*rounds[name], strict=True))
        record(
            f"scale_runs#{name}", f"{claim}, among {many:,} runs", f"among {FEW}", f"{b:.1f} ms of CPU", f"{a:.1f} ms of CPU",
            f"{b / a:.2f} times", "at most 3 times",
        )  # fmt: skip
    for root in roots:
        shutil.rmtree(root)


def _group_by(folder: Path, runs: int, rows: int, times: int) -> None:
    """Records a question over the rows of all runs."""
    root, one = folder / "runs", folder / "one.parquet"
    table = next_token(0, example_ids(rows // EXAMPLE_TOKENS + 1)).slice(length=rows)
    make_runs(root, runs, {"next_token": [table]})
    refresh(root, compact_all=True)
    with pq.ParquetWriter(
        one, table.append_column("run_id", pa.array([""] * rows)).schema, compression="zstd"
    ) as writer:
        step = max(1, 2**20 // rows)
        for first in range(0, runs, step):
            names = [f"run-{i}" for i in range(first, min(runs, first + step))]
            several = pa.concat_tables([table] * len(names))
            writer.write_table(
                several.append_column("run_id", pa.array(np.repeat(names, rows))), row_group_size=ROW_GROUP
            )
    query = "SELECT count(*), avg(loss), avg(entropy), count(DISTINCT run_id) FROM {} GROUP BY pos % 8 ORDER BY ALL"
    with Warehouse(root) as wh, duckdb.connect() as con:
        file = f"read_parquet({sql_path(one)})"
        view, other = wh.sql(query.format("next_token")).fetchall(), con.sql(query.format(file)).fetchall()
        assert np.allclose(view, other)
        ours = median_ms(lambda: wh.sql(query.format("next_token")).fetchall(), times)
        theirs = median_ms(lambda: con.sql(query.format(file)).fetchall(), times)
    record(
        "scale_runs#group", f"a group-by over {runs * rows:,} next-token rows in {runs:,} runs, through the view after compaction",
        "the same over one compacted Parquet file", f"{ours:.0f} ms", f"{theirs:.0f} ms", f"{ours / theirs:.2f} times its time",
        "at most 1.5 times",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    args = parsed(parser, runs=30, rows=200, times=1)
    with tempfile.TemporaryDirectory() as folder:
        _one_among(Path(folder), args.runs, args.times)
        _group_by(Path(folder), args.runs, args.rows, args.times)


if __name__ == "__main__":
    main()
