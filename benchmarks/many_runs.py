"""A group-by over 10 million next_token rows in 100 runs, through the view, against the same over one compacted file;
and the view filtered to one run.

    python benchmarks/many_runs.py [--runs 100] [--rows 100000] [--times 7]
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import median_ms, parsed, record

from warehouse import Warehouse
from warehouse.schema.quoting import sql_path
from warehouse.storage import paths
from warehouse.storage.files import file_checksum
from warehouse.storage.manifest import Counts, DataInfo, FileInfo, Manifest
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.parquet import ROW_GROUP, to_table, write_table_file

EXAMPLE_TOKENS = 128


def table(run: int, rows: int) -> pa.Table:
    """A run's rows, of random numbers with the shapes of real ones."""
    rng = np.random.default_rng(run)
    n = rows // EXAMPLE_TOKENS + 1
    ids = np.sort(np.array([f"{i * 2654435761 % 2**64:016x}" for i in range(n)]))
    words = np.array([f" w{i}" for i in range(5000)], dtype=object)
    true, pred = rng.zipf(1.3, rows) % 5000, rng.zipf(1.3, rows) % 5000
    loss = rng.gamma(1.5, 2.0, rows).astype(np.float32)
    top = (rng.zipf(1.3, rows * 5) % 5000).astype(np.int32)
    offsets = pa.array(np.arange(0, rows * 5 + 1, 5, dtype=np.int32))

    def lists(values: Any) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    return to_table(
        "next_token",
        {
            "example_id": pa.array(np.repeat(ids, EXAMPLE_TOKENS)[:rows]),
            "seq": pa.array(np.zeros(rows, np.int32)),
            "pos": pa.array(np.tile(np.arange(EXAMPLE_TOKENS, dtype=np.int32), n)[:rows]),
            "true_id": pa.array(true.astype(np.int32)),
            "true_token": pa.array(words[true], pa.string()),
            "pred_id": pa.array(pred.astype(np.int32)),
            "pred_token": pa.array(words[pred], pa.string()),
            "correct": pa.array(true == pred),
            "true_prob": pa.array(np.exp(-loss)),
            "pred_prob": pa.array(rng.random(rows, np.float32)),
            "true_rank": pa.array(rng.zipf(1.5, rows).clip(max=49152).astype(np.int32)),
            "entropy": pa.array(rng.gamma(2, 1, rows).astype(np.float32)),
            "loss": pa.array(loss),
            "topk_ids": lists(top),
            "topk_tokens": lists(words[top]),
            "topk_probs": lists(rng.random(rows * 5, np.float32)),
        },
    )


def _publish(root: Path, name: str, rows: pa.Table) -> None:
    """A run of nothing but these rows."""
    folder, file = paths.run_dir(root, name), paths.table_file("next_token")
    write_table_file(folder / file, rows)
    size = (folder / file).stat().st_size
    sizes = dict.fromkeys(("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_value", "vocab_size"), 1)
    names = dict.fromkeys(
        ("name", "architecture", "dtype", "device", "attn_implementation", "weights_hash", "tokenizer_hash"), ""
    )
    Manifest(
        run_id=name,
        kind="next-token",
        created_at=datetime.now(UTC),
        seconds=0,
        model=ModelInfo(**sizes, **names),
        data=DataInfo(dataset="made", source="made", hash=""),
        options={},
        store_dtype="F16",
        counts=Counts(
            examples=0, sequences=0, tokens=0, predictions=len(rows), truncated=0, rows={"next_token": len(rows)}
        ),
        bytes=size,
        files=[FileInfo(path=file, bytes=size, checksum=file_checksum(folder / file))],
        versions={},
    ).write(folder)


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
            rows, name = table(run, args.rows), f"run-{run:03d}"
            _publish(root, name, rows)
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
