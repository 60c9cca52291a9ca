"""`traces model check` on the packaged model, as a command of its own: every site tried and verified, start-up and all.

The other is the same command's `--help`, which starts, prints and looks at no model.

    python benchmarks/model_check.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from common import in_turns, parsed, record
from inputs import model_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parsed(parser, rounds=1)
    command = [sys.executable, "-m", "capture.cli.main", "model", "check", model_name()]

    def run(*more: str) -> None:
        subprocess.run([*command, *more], check=True, capture_output=True, timeout=120)

    mine, other = in_turns(run, lambda: run("--help"), args.rounds)
    record(
        "model_check",
        "`traces model check smollm2`",
        "the same command with `--help`",
        f"{statistics.median(mine):.1f} s",
        f"{statistics.median(other):.2f} s",
        f"{statistics.median(mine):.1f} s",
        "under 20 s",
    )


if __name__ == "__main__":
    main()
