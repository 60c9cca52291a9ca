"""What the README shows is true: its commands run, its query gives the output shown, its Python runs, its figures are measured."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, smollm2) -> Path:
    """A folder with what a checkout has beside the commands, and the run that `make demo` leaves."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "tests").symlink_to(TOP / "tests")
    demo = re.search(r"traces (capture next-token .*--run demo)$", (TOP / "Makefile").read_text(), re.MULTILINE)
    assert demo is not None
    shell(f"traces {demo[1]}", folder)
    return folder


def shell(line: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {k: v for k, v in os.environ.items() if k != "TRACES_HOME"} | {"PATH": path}
    done = subprocess.run(line, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_the_question_has_the_answer_shown(place: Path) -> None:
    found = re.findall(r"<!-- shown -->\n```sh\n(.*?)\n```\n```\n(.*?)```", README, re.DOTALL)
    assert len(found) == 2
    for command, answer in found:
        assert shell(command, place).strip().split() == answer.strip().split()


@pytest.mark.slow
def test_every_command_runs(place: Path, traces: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell, where the fixture cannot take the line: it takes `traces` with its arguments alone."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("TRACES_HOME", raising=False)
    data = TOP.parent / "shared" / "data" / "wikitext2" / "validation.txt"
    if data.is_file():
        (place / "validation.txt").symlink_to(data)
    lines = [line for block in blocks("sh") for line in block.splitlines() if not line.startswith("make ")]
    assert len(lines) > 12
    for line in lines:
        if "validation.txt" in line and not data.is_file():
            continue
        words = shlex.split(line)
        if words[0] != "traces" or {"|", ">", "&&"} & {*words} or "$" in line:
            shell(line, place)
            continue
        done = traces(*words[1:], timeout=300)
        assert done.code == 0, f"{line}\n{done.err}"
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_make_targets_are_there() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=TOP, check=True, capture_output=True, timeout=60)


def test_every_figure_was_measured() -> None:
    results = json.loads((TOP / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    table = (TOP / "benchmarks" / "README.md").read_text(encoding="utf-8")
    shown = [line for line in README.split("## Figures")[1].split("##")[0].splitlines() if line.startswith("| ")][2:]
    assert len(shown) >= len(results)
    for line in shown:
        assert any(r["claim"] in line and r["result"] in line for r in results.values()), line
    for r in results.values():
        assert r["result"] in table
        assert (TOP / r["command"].split()[1]).is_file()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (TOP / target).exists(), target


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
