"""What grows with a run: its publication, its validation and the first look-up of a tensor, to a million examples of eight tokens.

The runs are made up (`made_capture.py`): no model runs. Publication is that of the table `tokens`, against DuckDB's sort of the same
parts, in turns, in CPU seconds of all threads; how validation and look-ups grow is said as ratios. Peaks of memory are those of processes of
their own.

    python benchmarks/scale_sizes.py [--examples 10000 100000 1000000]
    python benchmarks/scale_sizes.py --step capture --root FOLDER --examples 10000000
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import made_capture
import pyarrow as pa
import pyarrow.parquet as pq
from common import parsed, record
from tensor_index import timed

from warehouse.schema.arrow import arrow_schema
from warehouse.schema.quoting import sql_parquet
from warehouse.schema.tables import STORED
from warehouse.storage.parquet import ROW_GROUP, merge_table_parts, write_part
from warehouse.storage.parts import read_part
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.validate import validate

RUN = "made"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--step", choices=("capture", "validate"), help="only that, of the first size, and print its peak of memory, MB"
    )
    parser.add_argument("--root", type=Path, help="with --step: the warehouse")
    if "--step" in sys.argv:
        args = parser.parse_args()
        steps[args.step](args.root, args.examples[0])
        print(peak())
        return
    args = parsed(parser, examples=[300, 600])
    costs = {}
    for n in args.examples:
        with tempfile.TemporaryDirectory() as folder:
            costs[n] = measure(Path(folder), n)
    few, many = min(costs), max(costs)
    for step in steps:
        (less, low), (more, high) = costs[few][step], costs[many][step]
        record(f"scale_sizes#{step}", f"{step} of {many:,} examples of {made_capture.TOKENS} tokens (made-up rows)", f"of {few:,} examples",
               f"{more / many * 1e6:.1f} µs of CPU an example, {high:.0f} MB", f"{less / few * 1e6:.1f} µs, {low:.0f} MB",
               f"{high / low:.2f} times the memory", "at most 1.05 times")  # fmt: skip


def measure(root: Path, n: int) -> dict[str, tuple[float, float]]:
    """CPU seconds and peak memory, MB, of each step; records what is compared within one size."""
    compare_merges(root, n)
    costs = {step: in_process(step, root, n) for step in steps}
    example = (
        TraceStore(root / f"run_id={RUN}").query("SELECT example_id FROM examples LIMIT 1 OFFSET 7").fetchall()[0][0]
    )
    seconds, found = min(
        timed(lambda: TraceStore(root / f"run_id={RUN}").resid(example, "post_mlp", 1)) for _ in range(5)
    )
    assert found.shape == (made_capture.TOKENS, made_capture.WIDTH)
    record(f"scale_sizes#tensor{n}", f"first tensor of a run with {n:,} examples (made-up rows)", "-", f"{seconds * 1e3:.1f} ms", "-",
           f"{seconds * 1e3:.1f} ms", "under 50 ms")  # fmt: skip
    return costs


def compare_merges(root: Path, n: int) -> None:
    """Merges the parts of the table `tokens`, and has DuckDB sort the same rows, from as many Parquet files."""
    parts, files, rows, digest = [], [], list[pa.Table](), made_capture.xxhash.xxh3_128()
    for first in range(0, n, made_capture.BATCH):
        rows.append(made_capture.batch(first, min(first + made_capture.BATCH, n), digest).tables["tokens"])
        if first + made_capture.BATCH >= n or len(rows) * made_capture.BATCH >= made_capture.SHARD:
            parts.append(root / f"part-{len(parts)}.arrow")
            write_part("tokens", parts[-1], pa.concat_tables(rows))
            files.append(parts[-1].with_suffix(".parquet"))
            pq.write_table(read_part(parts[-1]), files[-1], compression="lz4", use_dictionary=False)
            rows.clear()
    ours, plain = [], []
    for _ in range(3):
        ours.append(cpu(lambda: merge_table_parts("tokens", parts, root / "ours.parquet")))
        plain.append(cpu(lambda: sort_all(files, root / "plain.parquet")))
    a, b = (pq.ParquetFile(root / f"{name}.parquet") for name in ("ours", "plain"))
    assert all(x.equals(y) for x, y in zip(a.iter_batches(ROW_GROUP), b.iter_batches(ROW_GROUP), strict=True))
    count = n * made_capture.TOKENS
    record(f"scale_sizes#publish{n}", f"the table tokens at publication, {count:,} rows in {len(parts)} parts (made-up rows)", "DuckDB sorts as many Parquet files",
           f"{min(ours) / count * 1e6:.2f} µs of CPU a row", f"{min(plain) / count * 1e6:.2f} µs", f"{min(ours) / min(plain):.2f} times its CPU",
           "less than a sort")  # fmt: skip
    for file in (*parts, *files):
        file.unlink()


def sort_all(files: list[Path], target: Path) -> None:
    """Sorts files of the table `tokens` as DuckDB does, in 1 GB of memory, and writes them as a run's table is."""
    schema, order = arrow_schema("tokens"), ", ".join(STORED["tokens"].sort_key)
    options = {"memory_limit": "1GB", "threads": 2, "temp_directory": str(target.parent / "sort")}
    with (
        duckdb.connect(config=options) as con,
        pq.ParquetWriter(target, schema, compression="zstd", compression_level=3) as writer,
    ):
        for batch in con.sql(f"SELECT * FROM {sql_parquet(files)} ORDER BY {order}").to_arrow_reader(ROW_GROUP):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=ROW_GROUP)


def check(root: Path, n: int) -> None:
    """Validates the run."""
    failed = [c for c in validate(root / f"run_id={RUN}") if c.passed is False]
    if failed:
        raise SystemExit(str(failed[0]))


steps: dict[str, Callable[[Path, int], object]] = {
    "capture": lambda root, n: made_capture.publish(root, RUN, n),
    "validate": check,
}
"""What is measured in a process of its own."""


def in_process(step: str, root: Path, n: int) -> tuple[float, float]:
    """CPU seconds and peak resident memory, MB, of a step in a process of its own."""
    before = os.times()
    words = [sys.executable, __file__, "--step", step, "--root", str(root), "--examples", str(n)]
    said = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4]), float(said.split()[-1])


def peak() -> float:
    """Peak resident memory of this process, MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    # The other number has what the process was that started this one.
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1e3


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
