"""The endpoints of circuits: the edges of a size are those that evaluations keep, and what is cut is a circuit too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import synthetic_circuits as made
from console_client import ask, console_client
from starlette.testclient import TestClient

from warehouse import Warehouse
from warehouse.analysis.circuit_graph import circuit_graph


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("circuits")
    made.add_pairs(root)
    parts = {"eap 1/2": made.edge_scores(3), "eap 2/2": made.edge_scores(4), "gim": made.edge_scores(5)}
    made.add_circuits(root)
    made.add_circuits(root, "several", parts, minute=7)
    made.add_evaluation(root)
    with Warehouse(root) as wh:
        yield wh


@pytest.fixture(scope="module")
def client(warehouse: Warehouse) -> TestClient:
    return console_client(warehouse)


def leads(rows: list[dict]) -> set[tuple[str, str, str | None]]:
    return {(r["source"], end, r["port"]) for r in rows for end in r["into"]}


def test_every_circuit_that_an_evaluation_can_name_is_listed(client: TestClient) -> None:
    rows, _ = ask(client, "circuits")
    assert [(r["run_id"], r["circuit"]) for r in rows] == [
        *(("several", name) for name in ("eap", "eap 1/2", "eap 2/2", "ensemble", "gim")),
        ("circuit", "eap-ig"),
        ("circuit", "random"),
    ]
    assert {r["n_edges"] for r in rows} == {36}
    assert [r["n_evaluations"] for r in rows] == [0, 0, 0, 0, 0, 1, 1]
    for row in rows:
        assert len(ask(client, "circuit", run=row["run_id"], circuit=row["circuit"], size=1)[0]) > 0


@pytest.mark.parametrize("selection", ["abs", "signed", "greedy"])
@pytest.mark.parametrize("size", [0.2, 0.5, 1.0, 20])
def test_the_edges_of_a_size_are_those_of_the_graph(
    client: TestClient, warehouse: Warehouse, selection: str, size: float
) -> None:
    graph = circuit_graph(warehouse, "circuit/eap-ig", size=size, selection=selection)
    rows, notes = ask(client, "circuit", run="circuit", circuit="eap-ig", size=size, selection=selection)
    assert leads(rows) == {(source, sink, port or None) for source, sink, port in graph.edges(keys=True)}
    assert (notes["total"], notes["of_edges"], notes["rule"]) == (len(rows), 36, None)
    assert {n["name"] for n in notes["nodes"]} | {"logits"} == set(
        graph.nodes
    )  # a graph has its logits even without an edge
    assert all(
        n["n_out"] == len({r["source"] + r["sink"] for r in rows if r["source"] == n["name"]}) for n in notes["nodes"]
    )


def test_what_is_cut_is_the_largest_circuit_that_fits_and_says_so(client: TestClient) -> None:
    whole, _ = ask(client, "circuit", run="circuit", circuit="eap-ig", size=1)
    for most in (12, 20, 30):
        rows, notes = ask(client, "circuit", run="circuit", circuit="eap-ig", size=1, most=most)
        assert 0 < len(rows) <= most < notes["total"] == 36
        assert f"at most {most} edges" in notes["rule"]
        taken = int(notes["rule"].split()[2])
        assert rows == ask(client, "circuit", run="circuit", circuit="eap-ig", size=taken)[0] if taken > 1 else True
        assert leads(rows) <= leads(whole)
        assert len(ask(client, "circuit", run="circuit", circuit="eap-ig", size=taken + 1)[0]) > most


def test_the_edges_of_a_node_are_those_of_the_circuit_that_touch_it(client: TestClient) -> None:
    of = {"run": "circuit", "circuit": "eap-ig", "size": 0.7}
    edges, notes = ask(client, "circuit", **of)
    for node in notes["nodes"]:
        rows, told = ask(client, "circuit/node", **of, name=node["name"])
        out = {(r["source"], r["sink"]) for r in edges if r["source"] == node["name"]}
        into = {(r["source"], r["sink"]) for r in edges if node["name"] in r["into"]}
        assert {(r["source"], r["sink"]) for r in rows if r["way"] == "out"} == out
        assert {(r["source"], r["sink"]) for r in rows if r["way"] == "in"} == into
        assert (told["n_in"], told["n_out"], told["total"]) == (node["n_in"], node["n_out"], len(rows))
        assert [abs(r["score"]) for r in rows] == sorted((abs(r["score"]) for r in rows), reverse=True)
    cut, told = ask(client, "circuit/node", **of, name="embed", limit=1)
    assert (len(cut), told["rule"]) == (1, "the largest scores first")


def check_same(some: list[dict], others: list[dict]) -> None:
    """The same rows, but for the last digits of means: DuckDB's threads add in whatever order they come."""
    for row, other in zip(some, others, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            assert row[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


def test_the_curve_is_the_view_and_the_verdict_the_saved_query(client: TestClient, warehouse: Warehouse) -> None:
    rows, _ = ask(client, "circuit/curve", run="circuit")
    assert [r["size"] for r in rows] == list(made.SIZES)
    columns = ("faithfulness", "low", "random_high", "complement")
    view = warehouse.sql(f"SELECT {', '.join(columns)} FROM circuit_curve WHERE part = 'all' ORDER BY size")
    check_same([{c: r[c] for c in columns} for r in rows], view.to_arrow_table().to_pylist())
    check_same(ask(client, "circuit/curve", run="evaluation")[0], rows)
    assert len(ask(client, "circuit/curve", run="circuit", parts=True)[0]) > len(rows)
    for setting in ({}, {"size": 0.5}, {"least": 0.5}):
        told, notes = ask(client, "circuit/holds", run="circuit", **setting)
        saved = (
            warehouse.ask("circuit_holds", run="circuit", **{k: str(v) for k, v in setting.items()})
            .to_arrow_table()
            .to_pylist()
        )
        check_same(told, saved)
        as_logged = warehouse.sql(notes["sql"][-1])
        check_same(as_logged.to_arrow_table().to_pylist(), saved)


@pytest.mark.parametrize(
    ("path", "params", "status", "said"),
    [
        ("circuit", {"run": "pairs"}, 422, "has no circuits"),
        ("circuit", {"run": "circuit", "circuit": "luck"}, 404, "No circuit 'luck'"),
        ("circuit", {"run": "circuit", "circuit": "eap-ig", "size": -1}, 422, "a share of all edges"),
        ("circuit", {"run": "circuit", "circuit": "eap-ig", "size": "nan"}, 422, "a share of all edges"),
        ("circuit", {"run": "circuit", "circuit": "eap-ig", "selection": "luck"}, 404, "No selection 'luck'"),
        ("circuit/node", {"run": "circuit", "circuit": "eap-ig", "name": "L9"}, 404, "No node 'L9'"),
        ("circuit/curve", {"run": "several"}, 200, "traces circuit evaluate several"),
        ("circuit/curve", {"run": "gone"}, 404, "No run 'gone'"),
        ("circuit/holds", {"run": "x'; DROP TABLE runs; --"}, 404, "No run"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    client: TestClient, path: str, params: dict, status: int, said: str
) -> None:
    response = client.get(f"/api/{path}", params=params)
    assert response.status_code == status, response.text
    assert said in response.text
