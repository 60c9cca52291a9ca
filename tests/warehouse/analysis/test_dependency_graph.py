"""Dependency graphs have the edges of their tables, and say the same in the files that other programs read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_causes as made

from warehouse import Warehouse
from warehouse.analysis.dependency_graph import dependency_graph
from warehouse.analysis.graph_files import to_dot, write_graph
from warehouse.errors import NotFoundError, UsageError

nx = pytest.importorskip("networkx")


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("graphs") / "runs"
    made.add_task(root)
    made.add_influence(root)
    made.add_ablation(root, "zero", "zero", made.ZERO)
    with Warehouse(root) as wh:
        yield wh


def test_a_prompt_s_graph_has_its_edges_and_tokens(wh: Warehouse) -> None:
    graph = dependency_graph(wh, "task", "a")
    assert graph.graph == {
        "run": "explained", "source_run": "task", "target_pos": 2, "example_id": "a", "seq": 0, "target": " on"
    }  # fmt: skip
    assert dict(graph.nodes(data="token")) == {
        "embed:2": " sat", "0:2": " sat", "1:2": " sat", "0:1": " cat", "embed:0": "The"
    }  # fmt: skip
    assert graph.nodes["embed:0"]["layer"] == -1 and graph.nodes["0:1"]["pos"] == 1
    edges = {(a, b, facts.get("head")): facts for a, b, facts in graph.edges(data=True)}
    assert {key: facts["flow"] for key, facts in edges.items()} == {
        ("0:1", "1:2", 0): 0.2, ("0:2", "1:2", None): 0.8, ("embed:2", "0:2", None): 0.8, ("embed:0", "0:1", 1): 0.05
    }  # fmt: skip
    assert edges["embed:0", "0:1", 1]["share"] == 0.25
    assert {facts["kind"] for facts in edges.values() if "head" not in facts} == {"stream"}
    assert len(dependency_graph(wh, "explained", "a", least_flow=0.5).edges) == 2
    assert dependency_graph(wh, "explained", "a", seq=1).nodes["0:1"]["token"] == " dog"


def test_the_graph_of_all_has_what_recurs_over_the_clean_prompts(wh: Warehouse) -> None:
    graph = dependency_graph(wh, "explained")
    assert (graph.graph["n_prompts"], graph.graph["left_out"], graph.graph["role"]) == (2, 1, "clean")
    (head,) = [facts for a, _, facts in graph.edges(data=True) if facts.get("head") == 0]
    assert (head["flow"], head["n"], head["n_prompts"], head["frequency"]) == (pytest.approx(0.3), 2, 2, 1.0)
    assert head["flow_low"] < 0.3 < head["flow_high"] and head["frequency_low"] < 1 == head["frequency_high"]
    (rare,) = [facts for _, _, facts in graph.edges(data=True) if facts.get("head") == 1]
    assert (rare["n"], rare["flow"]) == (1, 0.025)


def test_graphml_is_read_back_as_it_was(wh: Warehouse, tmp_path: Path) -> None:
    for graph in (dependency_graph(wh, "task", "a"), dependency_graph(wh, "task")):
        write_graph(graph, tmp_path / "a.graphml")
        again = nx.read_graphml(tmp_path / "a.graphml")
        assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
        edges = [(a, b, {k: v for k, v in facts.items() if k != "id"}) for a, b, facts in again.edges(data=True)]
        assert sorted(map(str, edges)) == sorted(map(str, graph.edges(data=True)))
        assert again.graph["target_pos"] == 2 and again.is_directed()


_STRING = r'"(?:[^"\\\n]|\\.)*"'
_VALUE = rf"(?:{_STRING}|[\w.]+)"
_ATTRIBUTES = rf"\[{_VALUE}={_VALUE}(?:, {_VALUE}={_VALUE})*\]"
_LINES = (
    rf"  (?:node|edge|{_STRING}) {_ATTRIBUTES};",
    r"  rankdir=BT;",
    rf"  \{{ rank=same; {_STRING}(?:; {_STRING})*; \}}",
    rf"  {_STRING} -> {_STRING} {_ATTRIBUTES};",
)
"""What a line between the braces of a file in dot may be."""


def test_dot_is_well_formed_whatever_tokens_hold(wh: Warehouse, tmp_path: Path) -> None:
    graph = dependency_graph(wh, "task", "a")
    odd = ['"', "\\", '\\"];', "\n", "\x00"]
    for node, token in zip(graph.nodes, odd, strict=True):
        graph.nodes[node]["token"] = token
    first, *lines, last = to_dot(graph).removesuffix("\n").split("\n")
    assert (first, last) == ("digraph dependencies {", "}")
    assert [line for line in lines if not any(re.fullmatch(form, line) for form in _LINES)] == []
    assert len([line for line in lines if " -> " in line]) == len(graph.edges) == 4
    assert '"0:1" -> "1:2" [label="L1H0 0.200"' in to_dot(graph)
    write_graph(graph, tmp_path / "a.dot")
    assert (tmp_path / "a.dot").read_text() == to_dot(graph)
    write_graph(graph, tmp_path / "a.graphml")
    assert nx.read_graphml(tmp_path / "a.graphml").nodes["embed:2"]["token"] in ("�", *odd)


def test_what_is_not_there_is_named(wh: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'zero' has no dependency graphs. Make them: traces influence zero"):
        dependency_graph(wh, "zero")
    with pytest.raises(NotFoundError, match="No example 'c'"):
        dependency_graph(wh, "explained", "c")
    with pytest.raises(NotFoundError, match="No seq '1'"):
        dependency_graph(wh, "explained", "b", seq=1)
    for example in ("a", None):
        with pytest.raises(NotFoundError, match="No explained position '1'"):
            dependency_graph(wh, "explained", example, pos=1)
    with pytest.raises(UsageError, match="a.svg: its ending names no format of graphs"):
        write_graph(nx.MultiDiGraph(), tmp_path / "a.svg")


def test_without_networkx_it_says_what_to_install(wh: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warehouse.analysis.graph_files.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs networkx: pip install 'trace-warehouse\[plot\]'"):
        dependency_graph(wh, "explained")
