"""What docs/architecture.md and CONTRIBUTING.md say of the code is so: files are there, and every folder has its line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
BUILT = ["warehouse/console/static/"]
"""What `make console` builds: not there where there is no Node."""


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_are_named_are_there(page: str) -> None:
    text = (TOP / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:capture|warehouse|sql|tests|migrations|benchmarks|docs)/[\w./]*)`", text)
    assert len(paths) > 5
    assert [p for p in paths if not (TOP / p).exists() and p not in BUILT] == []
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [p for p in links if not (TOP / page).parent.joinpath(p).exists()] == []


def test_every_folder_has_a_line() -> None:
    text = (TOP / "docs" / "architecture.md").read_text(encoding="utf-8")
    contracts = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    named = set(re.findall(r"`([\w.]+)`", text.split("## The rule")[1].split("## Where")[0]))
    for contract in contracts:
        layers = {name for line in contract.get("layers", ()) for name in line.split(" | ")}
        assert layers <= {name.removesuffix(".py") for name in named}


def test_tests_mirror_the_packages() -> None:
    for package in ("warehouse", "capture"):
        folders = {p.parent.relative_to(TOP / "tests") for p in (TOP / "tests" / package).rglob("test_*.py")}
        assert [str(f) for f in folders if not (TOP / f).is_dir()] == []
