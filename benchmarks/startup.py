"""`traces sql "SELECT 1"` against `python -c "import duckdb"`: whole processes.

python benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import in_turns, parsed, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    args = parsed(parser, rounds=1)
    traces = Path(sys.executable).with_name("traces")
    with tempfile.TemporaryDirectory() as root:
        ask = [str(traces), "sql", "SELECT 1", "--warehouse", root]
        bare = [sys.executable, "-c", "import duckdb"]
        mine, other = in_turns(
            lambda: subprocess.run(ask, check=True, capture_output=True),
            lambda: subprocess.run(bare, check=True, capture_output=True),
            args.rounds,
        )
    ours, theirs = statistics.median(mine), statistics.median(other)
    record(
        "startup", '`traces sql "SELECT 1"`', '`python -c "import duckdb"`', f"{ours:.2f} s", f"{theirs:.2f} s",
        f"{ours - theirs:.2f} s more ({ours / theirs:.1f} times)", "under 0.4 s more",
    )  # fmt: skip


if __name__ == "__main__":
    main()
