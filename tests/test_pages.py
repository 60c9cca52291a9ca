"""What the README and the guides show is true: every block of code runs, in order, and gives the answer that is shown."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED
from pages import PAGES, TOP, WRITTEN, anchors, blocks, prose
from s3_server import s3_server

NUMBER = re.compile(r"(?<![.\d])-?\d+\.\d+(?!\.?\d)")
"""A number, not part of a version, whose last digit may differ by one: another kind of processor sums in another order."""
NOT_RUN = ("make ", "pip ", "traces console")
"""Lines that install something, are the tests themselves, or need the built page and end with Ctrl-C."""
REAL_DATA = "wikitext2/validation.txt"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, smollm2: object, traces: Callable) -> Path:
    """A warehouse with the run that `make demo` leaves."""
    line = re.search(r"traces (capture next-token .*--run demo)$", (TOP / "Makefile").read_text(), re.MULTILINE)
    assert line is not None
    root = tmp_path_factory.mktemp("demo") / "runs"
    words = [str(TOP / word) if word.startswith("tests/") else word for word in shlex.split(line[1])]
    done = traces(*words, "--warehouse", root, timeout=300)
    assert done.code == 0, done.err
    return root


@pytest.fixture
def place(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: what a checkout has beside the commands, and a warehouse as `make demo` leaves it."""
    (tmp_path / "tests").symlink_to(TOP / "tests")
    shutil.copytree(demo, tmp_path / "runs")
    if (SHARED / REAL_DATA).is_file():
        (tmp_path / Path(REAL_DATA).name).symlink_to(SHARED / REAL_DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRACES_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_shown_is_true(page: Path, place: Path, traces: Callable) -> None:
    with s3_server() if page.stem == "object_stores" else contextlib.nullcontext() as server:
        check(page, traces if server is None else lambda *words, timeout: traces(*words, env={}, timeout=timeout))


def check(page: Path, traces: Callable) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            out = python(block.code, names)
        else:
            out = "".join(shell(line, traces) for line in block.code.splitlines() if can_run(line))
        if block.answer is not None:
            assert agree(block.answer, out), f"{page.name}\n{block.code}\nshows\n{block.answer}\nand gives\n{out}"


def agree(shown: str, given: str) -> bool:
    """Whether a block's answer is what was given: `...` stands for anything, white space is all one, see NUMBER."""
    pieces, given, at = " ".join(shown.split()).split("..."), " ".join(given.split()), 0
    for i, piece in enumerate(pieces):
        first, last = i == 0, i == len(pieces) - 1
        numbers = [m for m in NUMBER.finditer(piece) if (first or m.start()) and (last or m.end() < len(piece))]
        ends = [0, *(end for m in numbers for end in m.span()), len(piece)]
        between = (re.escape(piece[a:b]) for a, b in zip(ends[::2], ends[1::2], strict=True))
        pattern = re.compile(f"({NUMBER.pattern})".join(between) + (r"\Z" if last else ""))
        places = pattern.finditer(given, at) if i else filter(None, [pattern.match(given)])
        found = (m.end() for m in places if all(near(a[0], b) for a, b in zip(numbers, m.groups(), strict=True)))
        if (at := next(found, -1)) < 0:
            return False
    return True


def near(a: str, b: str) -> bool:
    """Whether two decimals differ by at most one of the last digit of the longer: DuckDB shows 17.550 as 17.55."""
    digits = max(len(number.partition(".")[2]) for number in (a, b))
    return abs(round(float(a) * 10**digits) - round(float(b) * 10**digits)) <= 1


@pytest.mark.parametrize(
    ("shown", "given", "same"),
    [
        ("kl 17.556", "kl  17.555\n", True),
        ("kl 17.556", "kl 17.554", False),
        ("kl 0.000", "kl -0.001", True),
        ("kl 0.0", "kl 0.012", False),
        ("kl 17.55", "kl 17.549", True),
        ("L20H0 -4.6... (-42%)\nend", "L20H0 -4.63 (-42%)\nend", True),
        ("L20H0 -4.6... (-42%)\nend", "L20H0 -4.73 (-42%)\nend", False),
        ("...\nend", "begin\nend\nend", True),
        ("...\nend", "begin\nend\nfin", False),
        ("a ... 0.50 ...\nend", "a 0.70 0.51 0.30\nend", True),
        ("a 9.99 ... c", "a 10.00 b\nc", True),
        ("14 tokens", "15 tokens", False),
        ("SmolLM2 1.5", "SmolLM3 1.5", False),
        ("DuckDB 1.4.5", "DuckDB 1.5.5", False),
        ("DuckDB 1.5.4", "DuckDB 1.5.5", False),
    ],
)
def test_figures_are_held_to_their_last_digit(shown: str, given: str, same: bool) -> None:
    assert agree(shown, given) == same


def can_run(line: str) -> bool:
    return not line.startswith(NOT_RUN) and (Path(REAL_DATA).name not in line or Path(Path(REAL_DATA).name).exists())


def shell(line: str, traces: Callable) -> str:
    """What a line of a shell prints; the fixture takes it where it is `traces` with its arguments alone, which is faster."""
    words = shlex.split(line, comments=True)
    if words[0] == "traces" and not {"|", ">", "&&"} & {*words} and "$" not in line:
        done = traces(*words[1:], timeout=300)
        assert done.code == 0, f"{line}\n{done.err}"
        return done.out
    ended = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"{line}\n{ended.stderr}"
    return ended.stdout


def python(code: str, names: dict[str, Any]) -> str:
    """What a block of Python prints, and the value of its last line."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "<page>", "exec"), names)
        if (
            isinstance(last, ast.Expr)
            and (value := eval(compile(ast.Expression(last.value), "<page>", "eval"), names)) is not None
        ):
            print(value)
    return out.getvalue()


def test_pages_show_code_and_answers() -> None:
    found = {page.stem: list(blocks(page)) for page in PAGES}
    assert all(found.values())
    assert sum(block.answer is not None for page in found.values() for block in page) > 10


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", prose(page)):
        if "://" in target:
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"
