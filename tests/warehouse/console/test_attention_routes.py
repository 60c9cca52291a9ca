"""The endpoints of attention: pictures decode to the matrix, rows are exact, and what is not there is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from console_client import console_client
from starlette.testclient import TestClient
from synthetic import add_run
from synthetic_attention import HEADS, add_attention

from warehouse import TraceStore, Warehouse
from warehouse.storage.model_info import LayerAttention
from warehouse.storage.paths import run_dir

CAUSAL, FULL = LayerAttention(scale=0.35), LayerAttention(scale=0.35, causal=False)
N, S = 90, 17


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("attention")
    for run in ("derived", "stored"):
        add_attention(
            root,
            run,
            [CAUSAL, CAUSAL],
            [N, 0],
            encoder=[FULL],
            cross=[FULL] * 2,
            sources=[S, 3],
            stored=run == "stored",
        )
    rows = {"examples": [{"example_id": "e0", "n_seqs": 1}], "tokens": [{"example_id": "e0", "side": "dec"}]}
    add_run(root, "bare", "next-token", rows)
    with Warehouse(root) as wh:
        yield console_client(wh)


def store_of(client: TestClient, run: str) -> TraceStore:
    return TraceStore(run_dir(client.app.state.warehouse.root, run))


def tile_of(response: Any) -> tuple[np.ndarray, dict[str, Any]]:
    assert response.status_code == 200, response.text
    about = json.loads(response.headers["X-Tile"])
    return np.frombuffer(response.content, about["dtype"]).reshape(about["shape"]), about


@pytest.mark.parametrize("run", ["derived", "stored"])
def test_a_picture_decodes_to_the_largest_of_each_cell(client: TestClient, run: str) -> None:
    asked = {
        "run": run,
        "example": "e0",
        "layer": 1,
        "head": 2,
        "row0": 10,
        "row1": 80,
        "col0": 3,
        "col1": 59,
        "size": 20,
    }
    values, about = tile_of(client.get("/api/attn", params=asked))
    assert about | {"rows": [10, 80], "cols": [3, 59], "transform": "sqrt", "n_tokens": N, "pooled": [4, 3]} == about
    whole = store_of(client, run).attn("e0", 1, 2)[10:80, 3:59]
    padded = np.pad(whole, ((0, 2), (0, 1))).reshape(18, 4, 19, 3).max((1, 3))
    decoded = (values / 255) ** 2 * about["scale"]
    bound = (np.sqrt(padded / about["scale"]) + 1 / 510) * about["scale"] / 255 * (1 + 1e-4)
    assert (abs(decoded - padded) <= bound).all()
    whole_values, about = tile_of(client.get("/api/attn", params={"run": run, "example": "e0", "layer": 1, "head": 2}))
    assert whole_values.shape == (N, N) and about["pooled"] == [1, 1]


@pytest.mark.parametrize(
    ("side", "kind", "shape"), [("", "self", (N, N)), ("enc", "self", (S, S)), ("", "cross", (N, S))]
)
def test_rows_and_columns_are_exact(client: TestClient, side: str, kind: str, shape: tuple[int, int]) -> None:
    whole = store_of(client, "stored").attn("e0", 0, side=side or None, kind=kind)
    assert whole.shape == (HEADS, *shape)
    asked = {"run": "stored", "example": "e0", "layer": 0, "pos": 11, "side": side, "kind": kind}
    for head, part in ((None, slice(None)), (3, 3)):
        more = {} if head is None else {"head": head}
        found, _ = tile_of(client.get("/api/attn/row", params=asked | more))
        assert np.array_equal(found, whole[part, 11] if head is None else whole[head, 11])
        found, _ = tile_of(client.get("/api/attn/row", params=asked | more | {"direction": "to"}))
        assert np.array_equal(found, whole[part, :, 11] if head is None else whole[head, :, 11])


def test_a_layers_heads_have_a_scale_each(client: TestClient) -> None:
    values, about = tile_of(
        client.get("/api/attn/layer", params={"run": "derived", "example": "e0", "layer": 0, "size": 8})
    )
    assert values.shape == (HEADS, 8, 8) and (values.max((1, 2)) == 255).all()
    whole = store_of(client, "derived").attn("e0", 0)
    np.testing.assert_allclose(about["scale"], whole.max((1, 2)), rtol=1e-5)


def test_a_sequence_without_tokens_is_an_empty_picture(client: TestClient) -> None:
    values, about = tile_of(client.get("/api/attn/layer", params={"run": "derived", "example": "e1", "layer": 0}))
    assert values.shape == (HEADS, 0, 0) and about["scale"] == [0] * HEADS


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        ("attn", {"layer": 2}, "layer 2: made has layers 0 to 1."),
        ("attn", {"head": 4}, "head 4: made has heads 0 to 3."),
        ("attn", {"head": -1}, "head -1: made has heads 0 to 3."),
        ("attn", {"seq": 1}, "No seq '1'. There is: 0. (example e0)"),
        ("attn", {"side": "left"}, "No side 'left'. There is: dec, enc."),
        ("attn", {"size": 0}, "size: Input should be greater than or equal to 1"),
        ("attn", {"layer": "x"}, "layer: Input should be a valid integer, unable to parse string as an integer"),
        ("attn/row", {"pos": N}, f"pos {N}: the sequence has positions 0 to {N - 1} there."),
        ("attn/row", {"pos": -1}, "pos: Input should be greater than or equal to 0"),
        ("attn", {"run": "bare"}, "Run 'bare' has no attention: it stored neither q and k nor attn."),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_in_one_line(
    client: TestClient, path: str, wrong: dict[str, Any], message: str
) -> None:
    asked = {"run": "derived", "example": "e0", "layer": 0, "head": 0, "pos": 0} | wrong
    response = client.get(f"/api/{path}", params=asked)
    nothing = "bare" in wrong.values()
    assert response.status_code in ((200,) if nothing else (404, 422)) and response.json()["error"] == message
    if nothing:
        assert response.json()["hint"].startswith("traces capture next-token ")
