"""What `pip install` gives: wheel and sdist hold the console's page, and a machine without Node serves it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from warehouse.console import page

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[1]
SOURCES = ("warehouse", "capture", "sql", "migrations", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
PLACE = "warehouse/console/static/"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of a checkout in which the page is built."""
    if not page.is_built():
        pytest.skip("the page is not built (make console)")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        source = TOP / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    (tree / "console" / "node_modules").mkdir(parents=True)
    for name in ("package.json", "node_modules/other.js"):
        (tree / "console" / name).touch()
    without_node = os.environ | {"PATH": str(Path(sys.executable).parent)}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=tree, env=without_node, check=True)
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, in which the dependencies of this one are seen, but not this checkout."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check", str(wheel)], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return home


@pytest.fixture
def console(installed: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    started = start(installed, tmp_path)
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


def start(installed: Path, folder: Path) -> subprocess.Popen[str]:
    (folder / "runs").mkdir()
    return subprocess.Popen(
        [str(installed / "bin" / "traces"), "console", "--no-browser", "--warehouse", "runs"],
        cwd=folder,
        env={"PATH": str(installed / "bin"), "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_both_hold_the_page(built: Path) -> None:
    page_files = {p.relative_to(page.STATIC).as_posix() for p in page.STATIC.rglob("*") if p.is_file()}
    assert "index.html" in page_files
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        assert {n.removeprefix(PLACE) for n in z.namelist() if n.startswith(PLACE)} == page_files
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as t:
        names = {n.partition("/")[2] for n in t.getnames()}
        assert {n.removeprefix(PLACE) for n in names if n.startswith(PLACE)} == page_files
        # the page's source, but not the packages that it is built with
        assert {n for n in names if n.startswith("console/")} == {"console/package.json"}


def test_an_install_without_node_serves_the_page(console: subprocess.Popen[str], installed: Path) -> None:
    """The address that is printed gives the page, the page's files are there, and Ctrl-C ends it in order."""
    assert console.stdout is not None
    line = console.stdout.readline()
    found = re.search(r"(http://127\.0\.0\.1:\d+)/#token=\S+", line)
    assert found, line + console.stdout.read()
    index = get(found[1] + "/")
    assets = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', index)
    assert assets
    for asset in assets:
        assert get(f"{found[1]}/{asset}")
    console.send_signal(signal.SIGINT)
    assert console.wait(30) == 0


def get(url: str) -> str:
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.status == 200
                return str(answer.read().decode())
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError(url)


def test_without_the_page_it_says_what_makes_it(installed: Path, tmp_path: Path) -> None:
    (static,) = installed.glob(f"lib/python*/site-packages/{PLACE}")
    static.rename(tmp_path / "away")
    try:
        started = start(installed, tmp_path)
        out, _ = started.communicate(timeout=120)
    finally:
        (tmp_path / "away").rename(static)
    assert started.returncode == 2
    assert "make console" in out
    assert "Traceback" not in out
