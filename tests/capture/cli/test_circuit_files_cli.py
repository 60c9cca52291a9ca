"""`traces circuit export` and `import` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic_circuits as made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files") / "runs"
    made.add_pairs(root)
    made.add_circuits(root)
    return root


def test_a_wrong_call_is_one_line(
    traces: Callable, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("networkx")
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{}")
    for words, says in (
        (
            "export circuit -o c.svg",
            "c.svg: its ending names no format of circuits. End it in .json, .graphml or .dot.",
        ),
        (
            "export circuit -o c.dot --size 1.5",
            "--size 1.5: a share of all edges, above 0 and up to 1, or their number.",
        ),
        ("export pairs -o c.dot", "Run 'pairs' is of kind task, and has no circuits."),
        (
            "import bad.json --run new",
            'bad.json is no circuit as EAP-IG and MIB write them: it has no "cfg" in braces.',
        ),
        ("import none.json --run new", "none.json: No such file"),
        ("import bad.json --run circuit", "Run 'circuit' already exists"),
    ):
        done = traces("circuit", *words.split(), "-w", root)
        assert (done.code, done.out) == (2, "") and says in done.err and done.err.count("\n") == 1, done.err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.json"]


def test_a_circuit_goes_out_and_comes_back(traces: Callable, root: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "c.json", tmp_path / "again.json"
    done = traces("circuit", "export", "circuit", "-o", out, "--size", "0.2", "-w", root)
    assert (done.code, done.out) == (0, f"{out}\n") and "circuit circuit/eap-ig: " in done.err, done.err
    value = json.loads(out.read_text())
    assert value["cfg"]["n_heads"] == 2 and len(value["edges"]) == 46
    done = traces("circuit", "import", out, "--run", "back", "-w", root)
    assert done.code == 0 and done.out == "back: a circuit of 46 edges, 7 nodes\nnext: traces plot circuit back\n", (
        done.err
    )
    assert traces("circuit", "export", "back", "-o", again, "-w", root).code == 0
    assert again.read_text() == out.read_text()
