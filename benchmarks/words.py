"""What annotated data costs: reading a treebank into the warehouse, and matching its words with tokens during a capture.

First `traces data prepare ud_ewt`, as a command of its own, against the same command's `--help`. Then next-token captures of 500
of its sentences with their words (offsets to words, the table `words`) and of the same texts without. SmolLM2.

    python benchmarks/words.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from common import in_turns, parsed, record
from inputs import opened, origin

from capture.data.example import Source
from capture.jobs import next_token
from capture.model import loading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=500)
    args = parsed(parser, rounds=1, sentences=4)
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), args.rounds)
        _capture(Path(folder), args.rounds, args.sentences)


def _prepare(folder: Path, rounds: int) -> None:
    command = [sys.executable, "-m", "capture.cli.main", "data", "prepare"]

    def run(*more: str) -> None:
        subprocess.run([*command, *more], check=True, capture_output=True, timeout=120)

    path, sentences = origin("ud_ewt"), sum(1 for _ in opened("ud_ewt").read())
    ask = ["ud_ewt", "--split", "validation", *(("--from", path) if path else ()), "-w", str(folder / "prepared")]
    mine, other = in_turns(lambda: run(*ask), lambda: run("--help"), rounds)
    record(
        "words#prepare",
        f"`traces data prepare ud_ewt`, {sentences:,} sentences",
        "the same command with `--help`",
        f"{statistics.median(mine):.2f} s",
        f"{statistics.median(other):.2f} s",
        f"{statistics.median(mine):.1f} s",
        "under 5 s",
    )


def _capture(folder: Path, rounds: int, sentences: int) -> None:
    loaded = loading.load("smollm2", device="cpu")
    annotated = opened("ud_ewt")
    plain = Source("plain", None, None, "plain", lambda: (replace(r, words=()) for r in annotated.rows()))
    options, runs = next_token.Options(limit=sentences), list[str]()

    def capture(source: Source) -> None:
        runs.append(f"run-{len(runs)}")
        next_token.run(loaded, source, options, root=folder / "runs", run_id=runs[-1])

    mine, other = in_turns(lambda: capture(annotated), lambda: capture(plain), rounds)
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    record(
        "words#capture",
        f"next-token capture of {sentences} sentences with their words",
        "the same texts without words",
        f"{statistics.median(mine):.1f} s",
        f"{statistics.median(other):.1f} s",
        f"{statistics.median(ratios):.3f} times its time ({min(ratios):.3f} to {max(ratios):.3f} in {rounds} rounds)",
        "at most 1.05",
    )


if __name__ == "__main__":
    main()
