"""Peak memory of a capture of 500 examples against one of 50, everything captured: it must not grow.

python benchmarks/memory.py [--few 50] [--many 500]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import parsed, record
from inputs import model_name, texts


def peak_mb(limit: int, path: Path, root: str) -> float:
    """Peak resident memory of one capture process, MB, as the system counts it."""
    command = [sys.executable, "-m", "capture.cli.main", "capture", "next-token", "--model", model_name(), "--text", str(path), "--limit", str(limit), "--max-len", "128",
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
    args = parsed(parser, few=1, many=2)
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "texts.txt"
        path.write_text("\n".join(texts()), encoding="utf-8")
        few, many = peak_mb(args.few, path, root), peak_mb(args.many, path, root)
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
