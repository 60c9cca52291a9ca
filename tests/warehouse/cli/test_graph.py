"""`traces graph` as it is typed: edges as a table, files for other programs, and what is left out is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic_causes as made

nx = pytest.importorskip("networkx")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("graph") / "runs"
    made.add_task(root)
    made.add_influence(root)
    return root


def test_edges_are_printed_the_strongest_first(traces: Callable, root: Path) -> None:
    done = traces("graph", "task", "--example", "a", "--format", "tsv", "-w", root)
    header, *lines = done.out.splitlines()
    assert header.split("\t") == ["layer", "head", "source_pos", "source", "pos", "token", "flow", "share"]
    assert [line.split("\t")[:2] for line in lines] == [["1", "0"], ["0", "1"]], "without the residual stream"
    assert done.err == "run explained, explained position 2: example a, seq 0, target ' on'\n"


def test_what_recurs_says_over_what(traces: Callable, root: Path) -> None:
    done = traces("graph", "explained", "--format", "json", "-w", root)
    assert done.err == (
        "run explained, explained position 2: 2 clean prompts; 1 other predictions are left out: at another position, or of the "
        "other prompts of the pairs\n"
    )
    edges = json.loads(done.out)
    assert [e["flow"] for e in edges] == sorted((e["flow"] for e in edges), reverse=True)
    assert {e["n_prompts"] for e in edges} == {2}


def test_a_file_is_written_and_a_wrong_call_is_one_line(traces: Callable, root: Path, tmp_path: Path) -> None:
    done = traces("graph", "explained", "-o", tmp_path / "g.graphml", "-w", root)
    assert done.code == 0 and done.out == f"{tmp_path / 'g.graphml'}\n"
    assert len(nx.read_graphml(tmp_path / "g.graphml").edges) == 4
    for words, says in (
        (("-o", "g.png"), "End it in .graphml or .dot"),
        (("-o", root / "g.dot"), "is in the warehouse"),
        (("--example", "x"), "No example 'x'"),
    ):
        done = traces("graph", "explained", *words, "-w", root)
        assert done.code and says in done.err and done.err.count("\n") == 1, done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.graphml"]
