"""Every measurement of scale, one after another: workers, an object store, many runs, large runs, and int8.

python benchmarks/scale.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from common import HERE, LEFT_OUT, is_small, parsed

PARTS = ("scale_workers", "scale_store", "scale_runs", "scale_sizes", "scale_index", "scale_int8")


def main() -> None:
    parsed(argparse.ArgumentParser(description=__doc__))
    failed = []
    for part in PARTS:
        print(f"== {part}", flush=True)
        command = [sys.executable, str(HERE / f"{part}.py"), *(["--small"] if is_small() else [])]
        if subprocess.run(command).returncode not in (0, LEFT_OUT):
            failed.append(part)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
