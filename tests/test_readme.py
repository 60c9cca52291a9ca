"""The README is short, its targets of make are there and its figures measured; the wheel holds what it needs.

tests/test_pages.py runs what the README and the guides show.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from pages import TOP, blocks

README = TOP / "README.md"


def test_it_is_read_in_five_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_make_targets_are_there() -> None:
    targets = re.findall(r"^make (\w+)", "".join(block.code for block in blocks(README)), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=TOP, check=True, capture_output=True, timeout=60)


def test_every_figure_was_measured() -> None:
    results = json.loads((TOP / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    table = (TOP / "benchmarks" / "README.md").read_text(encoding="utf-8")
    costs = README.read_text(encoding="utf-8").split("## What it costs")[1].split("##")[0]
    shown = [line for line in costs.splitlines() if line.startswith("| ")][2:]
    assert shown
    for line in shown:
        assert any(r["claim"] in line and r["result"] in line for r in results.values()), line
    for r in results.values():
        assert r["result"] in table
        assert (TOP / r["command"].split()[1]).is_file()


def test_the_wheel_carries_sql_and_migrations(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=TOP, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    assert all((tmp_path / "installed" / package / "py.typed").is_file() for package in ("warehouse", "capture"))
    code = (
        "import warehouse; from warehouse.storage.paths import data_dir; from warehouse.catalog.saved_queries import all_queries\n"
        "assert data_dir('sql').parent.name == 'warehouse', data_dir('sql')\n"
        "assert len(all_queries()) >= 10 and list(data_dir('migrations').glob('0001*'))"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
