"""Peak memory of a capture of 500 examples against one of 50, everything captured: it must not grow.

python benchmarks/memory.py [--few 50] [--many 500]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from common import DATA, record


def peak_mb(limit: int, root: str) -> float:
    """Peak resident memory of one capture process, MB, as the system counts it."""
    command = [sys.executable, "-m", "capture.cli", "capture", "next-token", "--model", "smollm2", "--data", "wikitext2",
               "--from", str(DATA / "wikitext2" / "validation.txt"), "--limit", str(limit), "--max-len", "128",
               "--capture", "hidden,resid,qkv,attn", "--run", f"n{limit}", "--warehouse", root]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the capture of {limit} examples ended with {process.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--many", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        few, many = peak_mb(args.few, root), peak_mb(args.many, root)
    record(
        "memory",
        f"memory: peak of capturing {args.many} examples",
        f"{args.few} examples",
        f"{many:.0f} MB",
        f"{few:.0f} MB",
        f"{many / few - 1:+.1%}",
        "within 5 %",
    )


if __name__ == "__main__":
    main()
