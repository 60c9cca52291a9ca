"""Two workers on two cores against one process with two threads, and whether a run survives a worker that is killed.

Both sides are the whole command, from its start to the merged run: next-token capture of SmolLM2 with the middle of its residual stream, over texts of
128 tokens; once on an idle machine, and once beside other processes that keep every core busy. What a run costs whatever its size, importing and loading twice on our side, is in both; `--sequences` says how much there
is beside it.

The second part kills one of two workers with SIGKILL, at moments that lie evenly over a run, and compares what comes of it with the run that
one process makes: all tables byte for byte, and the checksums of all tensors.

The third is what each of many parts does for the examples of the others, which it reads and hashes, against what the part does that has them.

    python benchmarks/scale_workers.py [--sequences 160] [--rounds 3] [--moments 10] [--beside 0 2]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
import torch
from common import cpu_ms, in_turns, parsed, record
from inputs import long_texts, model_name

from capture.data.registry import open_data
from capture.model import loading
from capture.model.loading import Loaded
from capture.sequences.partition import Partition
from capture.workers.driver import run_in_parts
from capture.workers.local_pool import LocalPool
from warehouse.schema.tables import STORED
from warehouse.storage import paths

LENGTH = 128
PLACES = ["blob", "row_start", "row_end"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument(
        "--beside", type=int, nargs="+", default=[0, os.cpu_count() or 2], help="numbers of other busy processes"
    )
    args = parsed(parser, sequences=4, rounds=1, moments=1, beside=[1])
    model = loading.load(model_name())
    texts = long_texts(model.tokenizer, LENGTH, args.sequences)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "texts.txt"
        text.write_text("\n".join(texts), encoding="utf-8")
        for beside in args.beside:
            speed(text, args.sequences * LENGTH, args.rounds, beside)
        short = Path(folder) / "short.txt"
        short.write_text("\n".join(texts[: max(4, args.sequences // 4)]), encoding="utf-8")
        survival(short, args.moments)
        others_examples(model, text, texts[:8])


def command(text: Path, root: Path, *more: str) -> list[str]:
    return ["capture", "next-token", "--model", model_name(), "--device", "cpu", "--text", str(text), "--max-len", str(LENGTH),
            "--capture", "resid", "--index", "none", "--run", "w", "-w", str(root), *more]  # fmt: skip


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Have so many other processes compute meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def speed(text: Path, tokens: int, rounds: int, beside: int) -> None:
    """Measure a run by two workers, and by one process; beside so many others."""

    def make(threads: int, *more: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "capture.cli.main", *command(text, Path(folder), *more)]
            subprocess.run(words, check=True, capture_output=True, env=environment | {"OMP_NUM_THREADS": str(threads)})

    with busy(beside):
        ours, other = in_turns(lambda: make(1, "--workers", "2"), lambda: make(2), rounds)
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    record(
        "scale_workers#contended" if beside else "scale_workers#speed",
        f"next-token capture of {tokens:,} tokens by two workers with a thread each, start to merged run"
        + (f", beside {beside} other busy processes" if beside else ""),
        "one process with two threads",
        f"{tokens / statistics.median(ours):.0f} tokens/s",
        f"{tokens / statistics.median(other):.0f} tokens/s",
        f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)",
        "at least 1.3 times" if beside else "at least 0.9 times",
    )


def survival(text: Path, moments: int) -> None:
    """Kill a worker at so many moments of a run, and count after how many the run is what one process makes."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        words = command(text, Path(folder) / "whole", "--batch-tokens", "1", "--shard-mb", "1")
        subprocess.run([sys.executable, "-m", "capture.cli.main", *words], check=True, capture_output=True)
        start = time.monotonic()
        known, same, killed = contents(Path(folder) / "whole"), 0, 0
        unharmed, _ = killed_run(text, Path(folder) / "unharmed", None)
        seconds = time.monotonic() - start
        for n in range(moments):
            found, hit = killed_run(text, Path(folder) / str(n), seconds * (n + 1) / (moments + 1))
            same += found == known
            killed += hit
    assert unharmed == known
    record(
        "scale_workers#survival",
        f"a run of two workers, one killed with SIGKILL at one of {moments} moments (it still ran at {killed} of them)",
        "the run of one process",
        f"{same} of {moments} are that run",
        "tables byte for byte, tensors by their checksums",
        f"{same} of {moments}",
        f"{moments} of {moments}",
    )


def killed_run(text: Path, root: Path, after: float | None) -> tuple[dict[str, object], bool]:
    """Return what a run of two workers holds, and whether the first was killed after so many seconds."""
    pool, hit = LocalPool(command(text, root, "--batch-tokens", "1", "--shard-mb", "1"), 2), False

    def kill() -> None:
        nonlocal hit
        if running := pool._running.get("1/2"):
            hit = running[1].poll() is None
            running[1].send_signal(signal.SIGKILL)

    timer = threading.Timer(after or 0, kill)
    if after is not None:
        timer.start()
    run_in_parts(pool, root, "w", 2)
    timer.cancel()
    return contents(root), hit


def others_examples(model: Loaded, text: Path, texts: list[str]) -> None:
    """Measure reading and hashing of data, against tokenizing it and the forward pass."""
    source, times = open_data(text=str(text)), 100
    tokens = sum(len(ids) for ids in model.tokenizer([example.text for example in source.read()]).input_ids)
    read = cpu_ms(lambda: [sum(1 for _ in Partition("1/9999").select(source.read())) for _ in range(times)]) / times
    split = cpu_ms(lambda: model.tokenizer([example.text for example in source.read()]))
    ids = model.tokenizer(texts, truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        model.model(ids)
        run = cpu_ms(lambda: model.model(ids))
    a, b, c = read * 1e3 / tokens, split * 1e3 / tokens, run * 1e3 / ids.numel()
    record(
        "scale_workers#reading", f"examples of other parts, {tokens:,} tokens of text: each part reads and hashes them", "those of its own: tokenizing, and SmolLM2's forward pass",
        f"{a:.2f} µs of CPU a token", f"{b:.1f} and {c:,.0f} µs", f"1/{(b + c) / a:,.0f}", "at most 1/10,000: 1 % of a part's work where there are 100",
    )  # fmt: skip


def contents(root: Path) -> dict[str, object]:
    """Return the bytes of a run's tables; of the tensor index the rows, without the places in blobs."""
    folder = paths.run_dir(root, "w")
    files = {name: folder / paths.table_file(name) for name in STORED}
    found: dict[str, object] = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    index = pq.read_table(files["tensors"], partitioning=None)
    return found | {"tensors": index.drop_columns(PLACES).to_pylist()}


if __name__ == "__main__":
    main()
