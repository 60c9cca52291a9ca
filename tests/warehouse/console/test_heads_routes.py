"""The endpoints of heads over a run: means are what the rows add up to, and every sequence is in one bin."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import synthetic_causes as made
from console_client import ask, console_client
from starlette.testclient import TestClient
from synthetic import add_run

from warehouse import Warehouse
from warehouse.console.routes.heads import distribution


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("heads")
    made.add_task(root)
    made.add_task(root, "bare", minute=1, heads=False)
    row = {"source_run_id": "bare", "seq": 0, "side": "dec", "layer": 0, "head": 0}
    values = [
        row | {"example_id": f"e{i}", "entropy": float(i), "induction_mass": None if i else 0.5} for i in range(6)
    ]
    add_run(root, "bare-heads", "heads", {"heads": values}, parents=["bare"], minute=2)
    add_run(root, "silent", "encode", {"examples": [{"example_id": "e0", "text": "abc"}]}, minute=3)
    with Warehouse(root) as wh:
        yield console_client(wh)


def test_a_head_has_the_mean_of_its_sequences(client: TestClient) -> None:
    rows, notes = ask(client, "heads", run="task")
    assert notes["heads_run"] == "task"
    assert [(r["layer"], r["head"]) for r in rows] == made.HEADS
    assert {r["n"] for r in rows} == {4}
    assert [r["induction_mass"] for r in rows] == pytest.approx(
        [1.5 * mass for mass in made.INDUCTION]
    )  # clean and twice it
    one, _ = ask(client, "heads", run="task", example="a", seq=1)
    assert [r["induction_mass"] for r in one] == pytest.approx([2 * mass for mass in made.INDUCTION])


def test_heads_that_were_derived_are_those_of_the_run_they_tell_of(client: TestClient) -> None:
    rows, notes = ask(client, "heads", run="bare")
    assert notes["heads_run"] == "bare-heads"
    assert [(r["run_id"], r["entropy"], r["induction_mass"]) for r in rows] == [("bare", 2.5, 0.5)]
    assert ask(client, "heads", run="bare-heads")[0] == rows
    assert [r["run_id"] for r in ask(client, "heads/runs")[0]] == ["bare-heads", "task"]


def test_the_examples_of_a_head_come_by_value_and_say_how_many_there_are(client: TestClient) -> None:
    head = {"run": "bare", "layer": 0, "head": 0}
    rows, notes = ask(client, "heads/examples", **head, limit=4)
    assert [r["value"] for r in rows] == [5, 4, 3, 2]
    assert {r["run_id"] for r in rows} == {"bare"}  # whose tokens they select
    assert notes["total"] == 6
    assert notes["distribution"]["counts"] == [1] * 6
    rows, notes = ask(client, "heads/examples", **head, order="low", low=1, high=3)
    assert [r["value"] for r in rows] == [1, 2]
    assert (notes["total"], notes["distribution"]["n"]) == (2, 6)
    _, notes = ask(client, "heads/examples", **head, metric="induction_mass")
    assert (notes["total"], notes["distribution"]["missing"]) == (1, 5)


def test_the_bins_hold_every_finite_value_once() -> None:
    values = [*np.random.default_rng(0).normal(size=500), np.nan, np.inf]
    told = distribution(pa.chunked_array([pa.array([*values, None])]))
    assert (told["n"], told["missing"], sum(told["counts"]), len(told["counts"])) == (500, 3, 500, 40)
    inside = [sum(low <= v < high for v in values) for low, high in zip(told["edges"], told["edges"][1:], strict=False)]
    assert inside[:-1] == told["counts"][:-1]
    assert told["mean"] == pytest.approx(np.mean(values[:500]))
    assert distribution(pa.chunked_array([pa.array([], pa.float32())]))["counts"] == []


@pytest.mark.parametrize(
    ("path", "params", "status", "said"),
    [
        ("heads", {"run": "silent"}, 200, "traces derive heads silent"),
        ("heads", {"run": "gone"}, 404, "No run 'gone'"),
        ("heads", {"run": "task", "example": "none"}, 404, "No example 'none'"),
        ("heads/examples", {"run": "task", "layer": 0, "head": 0, "metric": "sum(1)"}, 404, "No metric"),
        ("heads/examples", {"run": "task", "layer": 0, "head": 0, "order": "text; DROP"}, 404, "No order"),
        ("heads/examples", {"run": "task", "layer": "x", "head": 0}, 422, "layer"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    client: TestClient, path: str, params: dict, status: int, said: str
) -> None:
    response = client.get(f"/api/{path}", params=params)
    assert response.status_code == status
    assert said in response.text
