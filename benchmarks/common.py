"""What the benchmarks share: its command line, timing in turns, and the table of results.

Every benchmark prints ours, the alternative and their ratio from one run, both timed in turns so that a machine whose speed
drifts slows both; it then writes its row of `benchmarks/README.md`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
README = HERE / "README.md"

LEFT_OUT = 3
"""Exit code of a benchmark that lacks something here, which is no failure of it."""

_kept = True
_remarks: list[str] = []


def parsed(parser: ArgumentParser, **smallest: Any) -> Namespace:
    """Parses the command line. With `--small` options have these values, with which a benchmark runs in seconds: that shows that it
    does run, and its figures are printed and not kept."""
    global _kept
    parser.add_argument("--small", action="store_true", help="the smallest size, to see that it runs; keeps no figures")
    args = parser.parse_args()
    if args.small:
        _kept = False
        vars(args).update(smallest)
    else:
        _commit()  # of the code that is measured: what is checked out later is not
    return args


def is_small() -> bool:
    """Whether this is a run at the smallest size."""
    return not _kept


def remark(said: str) -> None:
    """Says what is other than usual here: now, and in all rows that come."""
    print(f"reads {said}", flush=True)
    _remarks.append(said)


def left_out(lacking: str) -> NoReturn:
    """Ends a benchmark that cannot run here."""
    print(f"left out: this benchmark needs {lacking}", file=sys.stderr)
    sys.exit(LEFT_OUT)


def in_turns(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each, first in turn, as what comes second may be slower; after a warm-up of both, unless at the smallest size."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for n in range(0 if _kept else 1, rounds + 1):
        both = ((1, other), (0, ours))
        for side, work in both if n % 2 else reversed(both):
            start = time.perf_counter()
            work()
            if n:
                seconds[side].append(time.perf_counter() - start)
    return seconds


def cpu_ms(work: Callable[[], Any]) -> float:
    """CPU milliseconds of one call."""
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1e3


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
    claim += "".join(f" ({said})" for said in _remarks)
    row = {
        "claim": claim,
        "other": other,
        "ours": ours_value,
        "theirs": other_value,
        "result": result,
        "target": target,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "version": version("trace-warehouse"),
        "machine": _cores(),
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
        "it at its smallest size and keeps no figures: the test suite does so, so that none outlives its command. They need the packaged model, which",
        "`make demo` installs, and read text of `../shared/data`, else of the hub, else the tests' samples: a row says which. `make bench`",
        "runs all, and leaves out what lacks something. A commit with `+` had changes that were not committed.",
        "",
        f"The last was run with {_versions(packages)}.",
        "",
        "| claim | the other | ours | the other's | result | to reach | when, on which code | machine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows.values():
        cells = [
            f"{r['claim']}<br>`{r['command']}`",
            r["other"],
            r["ours"],
            r["theirs"],
            r["result"],
            r["target"],
            f"{r['date']}, {r['commit']}",
            r["machine"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def machine(packages: Sequence[str]) -> str:
    """Says in words what a measurement ran on."""
    return f"{_cores()}, {_versions(packages)}"


def _versions(packages: Sequence[str]) -> str:
    return f"Python {platform.python_version()}; {', '.join(f'{p} {version(p)}' for p in packages)}"


def _cores() -> str:
    return f"{os.cpu_count()} cores ({_processor()})"


@cache
def _commit() -> str:
    """The commit that is checked out, with `+` where files differ from it, figures left aside; empty outside of a repository."""
    figures = [f":(exclude){path.relative_to(HERE.parent)}" for path in (RESULTS, README)]
    head, changes = (
        subprocess.run(["git", *command], cwd=HERE.parent, capture_output=True, text=True)
        for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno", "--", ".", *figures))
    )
    return head.stdout.strip() + "+" * bool(changes.stdout)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
