"""The endpoint of nearest tokens: what `traces nearest` finds, in its texts, under a condition that the door lets through."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from console_client import console_client
from starlette.testclient import TestClient

from warehouse import Warehouse
from warehouse.console.routes.nearest import warm_up
from warehouse.storage.paths import run_dir
from warehouse.vectors import index_spec, ingest, token_query


@pytest.fixture(scope="module")
def wh(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """The runs of two models, one of which has vector tables."""
    root = tmp_path_factory.mktemp("near") / "runs"
    for run in ("llama", "gpt2"):
        shutil.copytree(run_dir(tiny_root, run), run_dir(root, run))
    for site in ("resid.post_mlp@1", "q@1"):
        ingest.add(root, "llama", index_spec.parse(site))
    with Warehouse(root) as warehouse:
        warm_up(warehouse)
        yield warehouse


@pytest.fixture(scope="module")
def client(wh: Warehouse) -> TestClient:
    return console_client(wh)


@pytest.fixture(scope="module")
def asked(wh: Warehouse) -> dict[str, object]:
    (example,) = wh.sql("SELECT example_id FROM examples WHERE run_id = 'llama' AND idx = 3").fetchone()
    return {"run": "llama", "example": example, "pos": 7, "layer": 1}


@pytest.mark.parametrize(("site", "head"), [("resid.post_mlp", None), ("q", 2)])
def test_it_is_what_the_command_finds(
    wh: Warehouse, client: TestClient, asked: dict[str, object], site: str, head: int | None
) -> None:
    more = {"site": site, "k": 50} | ({} if head is None else {"head": head})
    response = client.get("/api/nearest", params=asked | more)
    assert response.status_code == 200, response.text
    table = pa.ipc.open_stream(response.content).read_all()
    query = token_query.for_token(wh, wh.vectors, "llama", str(asked["example"]), 0, 7, site, [1], head)
    expected = token_query.nearest(wh, query, 50, None, "cosine", False)
    names = ("distance", "run_id", "example_id", "seq", "side", "pos", "layer", "head")
    assert table.select(names).to_pylist() == expected.select(names).to_pylist()
    assert table.column_names[-5:] == ["before", "token", "after", "pred_token", "search"]
    notes = json.loads(table.schema.metadata[b"console"])
    assert notes["table"] == [query.vectors[0][0].info.sql_name] and notes["search"] == ["exact"]
    assert {(t["site"], t["layer"], t["heads"]) for t in notes["tables"]} == {("resid.post_mlp", 1, None), ("q", 1, 4)}
    assert len(notes["sql"]) == 1 and wh.sql(notes["sql"][0]).fetchall()


def test_a_condition_goes_through_the_door(client: TestClient, asked: dict[str, object]) -> None:
    table = pa.ipc.open_stream(
        client.get("/api/nearest", params=asked | {"where": "pos < 5 AND loss > 1"}).content
    ).read_all()
    assert 0 < len(table) <= 20 and all(pos < 5 for pos in table["pos"].to_pylist())
    none = client.get("/api/nearest", params=asked | {"where": "pos < 0"})
    assert none.status_code == 200 and not len(pa.ipc.open_stream(none.content).read_all())
    for refused in (
        "pos < 5) UNION SELECT (1", "(SELECT count(*) FROM read_text('/etc/passwd')) > 0", "1; DROP VIEW runs",
        "pos IN (SELECT 1 FROM glob('/*'))", "getenv('HOME') = ''", "pos <",
    ):  # fmt: skip
        response = client.get("/api/nearest", params=asked | {"where": refused})
        assert response.status_code in (400, 422) and "\n" not in response.json()["error"].strip(), refused


def test_layers_and_models_without_a_table_come_with_the_command_that_makes_one(
    wh: Warehouse, client: TestClient, asked: dict[str, object]
) -> None:
    response = client.get("/api/nearest", params=asked | {"layer": 2})
    assert (response.status_code, response.json()["kind"]) == (200, "empty")
    assert response.json()["hint"] == "traces index add llama --site resid.post_mlp --layers 2"
    (example,) = wh.sql("SELECT example_id FROM examples WHERE run_id = 'gpt2' LIMIT 1").fetchone()
    response = client.get("/api/nearest", params={"run": "gpt2", "example": example, "pos": 0})
    assert response.json()["hint"] == "traces index add gpt2 --site resid.post_mlp --layers mid"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pos": 5000}, "has positions 0 to"),
        ({"pos": -1}, "counted from 0"),
        ({"site": "q"}, "say which"),
        ({"head": 1}, "has no heads"),
        ({"k": 201}, "less than or equal to 200"),
    ],
)
def test_bad_questions_are_one_line(
    client: TestClient, asked: dict[str, object], wrong: dict[str, object], words: str
) -> None:
    response = client.get("/api/nearest", params=asked | wrong)
    assert response.status_code == 422 and words in response.json()["error"]
