"""The endpoints of a text: rows as the library has them, and one line for what is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from console_client import console_client
from starlette.testclient import TestClient
from synthetic import add_run

from warehouse import Warehouse
from warehouse.analysis.lens_matrix import lens_matrix
from warehouse.analysis.token_strip import token_strip
from warehouse.catalog.ask import asker
from warehouse.storage.paths import run_dir


def rows_of(response: Any) -> pa.Table:
    assert response.status_code == 200, response.text
    return pa.ipc.open_stream(response.content).read_all()


def notes_of(response: Any) -> dict[str, Any]:
    return json.loads(rows_of(response).schema.metadata[b"console"])


def example_of(root: Path, run: str, place: int = 0) -> str:
    with Warehouse(root) as wh:
        return wh.sql(f"SELECT example_id FROM examples WHERE run_id = '{run}' AND idx = {place}").fetchone()[0]


@pytest.fixture(scope="module")
def root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `llama`, with a lens of its first example and a projection of its second."""
    tmp_path = tmp_path_factory.mktemp("texts")
    shutil.copytree(run_dir(tiny_root, "llama"), run_dir(tmp_path, "llama"))
    first, second = (example_of(tmp_path, "llama", i) for i in (0, 1))
    rows = [
        {
            "source_run_id": "llama",
            "example_id": first,
            "pos": pos,
            "layer": layer,
            "topk_tokens": ["x"],
            "topk_probs": [0.5],
        }
        for layer in (None, 0)
        for pos in range(3)
    ]
    add_run(tmp_path, "lens", "lens", {"logit_lens": rows}, parents=["llama"])
    key = {
        "source_run_id": "llama",
        "example_id": second,
        "trait": "loud",
        "method": "probe",
        "component": "residual",
        "layer": 1,
    }
    projected = {
        "trait_projections": [key | {"pos": pos, "projection": float(pos)} for pos in range(3)],
        "trait_dynamics": [key | {"n_tokens": 3, "peak_point": 2, "commitment_point": 1}],
    }
    add_run(tmp_path, "loud", "trait-projection", projected, parents=["llama"])
    return tmp_path


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with Warehouse(root) as wh:
        yield console_client(wh)


def test_a_strip_is_the_librarys_with_its_text_and_sql_that_can_be_asked(root: Path, client: TestClient) -> None:
    example = example_of(root, "llama")
    response = client.get("/api/strip", params={"run": "llama", "example": example})
    notes = notes_of(response)
    with Warehouse(root) as wh:
        expected = token_strip(asker(wh), wh.run("llama"), example)
        asked = wh.sql(notes["sql"][0]).to_arrow_table()
    assert rows_of(response).to_pylist() == expected.to_pylist() == asked.to_pylist()
    assert (notes["n_tokens"], notes["side"]) == (len(expected), "dec")
    assert all(notes["text"][r["char_start"] : r["char_end"]] == r["token"] for r in expected.to_pylist())
    again = client.get(
        "/api/strip", params={"run": "llama", "example": example}, headers={"If-None-Match": response.headers["etag"]}
    )
    assert again.status_code == 304


def test_sequences_lens_and_traits(root: Path, client: TestClient) -> None:
    first, second = (example_of(root, "llama", i) for i in (0, 1))
    (row,) = rows_of(client.get("/api/sequences", params={"run": "llama", "example": first})).to_pylist()
    assert (row["seq"], row["side"], row["text"]) == (0, "dec", None) and row["loss"] > 0
    response = client.get("/api/lens", params={"run": "llama", "example": first})
    with Warehouse(root) as wh:
        assert rows_of(response) == lens_matrix(asker(wh), "llama", first).rows
    assert (notes_of(response)["lens_run"], notes_of(response)["layers"]) == ("lens", [None, 0])
    response = client.get("/api/traits", params={"run": "llama", "example": second})
    assert rows_of(response)["projection"].to_pylist() == [0, 1, 2]
    (dynamics,) = notes_of(response)["dynamics"]
    assert (dynamics["trait"], dynamics["peak_point"], dynamics["commitment_point"]) == ("loud", 2, 1)


def test_what_there_is_none_of_comes_with_the_command_that_makes_it(root: Path, client: TestClient) -> None:
    asked = {"run": "llama", "example": example_of(root, "llama", 2)}
    found = [client.get(f"/api/{name}", params=asked) for name in ("lens", "traits")]
    assert [(r.status_code, r.json()["kind"], r.json()["hint"]) for r in found] == [
        (200, "empty", "traces lens llama"),
        (200, "empty", "traces trait project llama --traits NAME"),
    ]


@pytest.mark.parametrize("name", ["sequences", "strip", "scores", "lens", "traits", "nearest", "attn/layer"])
def test_what_is_not_there_is_said_in_one_line(root: Path, client: TestClient, name: str) -> None:
    example = example_of(root, "llama")
    more = {"nearest": {"pos": 0}, "attn/layer": {"layer": 0}}.get(name, {})
    for asked in ({"run": "lama", "example": example}, {"run": "llama", "example": "nobody"}):
        response = client.get(f"/api/{name}", params=asked | more)
        if name == "nearest" and asked["run"] == "llama":
            assert response.json()["kind"] == "empty", "no table to search comes first"
            continue
        assert (response.status_code, response.json()["kind"]) == (404, "not_found")
        assert "\n" not in response.json()["error"]
    assert client.get(f"/api/{name}", params={"run": "llama", **more}).status_code == 422


def test_scores_of_a_text_and_which_texts_are_right(tmp_path: Path) -> None:
    """A score of all choices together is one of each; of a text whose scores don't say it, nothing is said."""
    told = {"scorer": "match", "metric": "score", "score": "I", "is_correct": False, "target": "2"}
    scores = [
        {"example_id": "a", "seq": None, **told},
        {"example_id": "b", "seq": 0, **told, "is_correct": True, "score": "C"},
        {"example_id": "b", "seq": 0, **told, "is_correct": None, "metric": "wit"},
    ]
    tokens = [{"example_id": e, "seq": q, "side": "dec"} for e, q in (("a", 0), ("a", 1), ("b", 0), ("c", 0))]
    examples = [
        {"example_id": e, "idx": i, "text": e, "n_seqs": n} for i, (e, n) in enumerate({"a": 2, "b": 1, "c": 1}.items())
    ]
    add_run(tmp_path, "r", "next-token", {"examples": examples, "tokens": tokens, "evaluations": scores})
    with Warehouse(tmp_path) as wh:
        client = console_client(wh)
        listed = rows_of(client.get("/api/examples", params={"run": "r"}))
        assert dict(zip(*(listed[name].to_pylist() for name in ("example_id", "is_correct")), strict=True)) == {
            "a": False,
            "b": True,
            "c": None,
        }
        for seq in (0, 1):
            (row,) = rows_of(client.get("/api/scores", params={"run": "r", "example": "a", "seq": seq})).to_pylist()
            assert (row["scorer"], row["score"], row["is_correct"], row["target"]) == ("match", "I", False, "2")
        assert len(rows_of(client.get("/api/scores", params={"run": "r", "example": "b"}))) == 2
        assert len(rows_of(client.get("/api/scores", params={"run": "r", "example": "c"}))) == 0


def test_a_run_that_is_deleted_while_the_page_is_open(root: Path, tmp_path: Path) -> None:
    asked = {"run": "llama", "example": example_of(root, "llama")}
    home = shutil.copytree(root, tmp_path / "runs")
    with Warehouse(home) as wh:
        client = console_client(wh)
        assert client.get("/api/strip", params=asked).status_code == 200
        shutil.rmtree(run_dir(home, "llama"))
        for name in ("strip", "lens", "sequences"):
            response = client.get(f"/api/{name}", params=asked)
            assert response.status_code == 404 and response.json()["error"].startswith("No run 'llama'.")
