"""The endpoints of a dictionary's features, on rows written down: counts add up, contexts have the tokens around, and a token its features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic
import synthetic_features
from console_client import ask, console_client
from starlette.testclient import TestClient

from warehouse import Warehouse

WORDS = ["The", " lamp", " is", " lit", "."]
ACTIVE = {
    ("a", 0, 1): {3: 2.0, 5: 1.0},
    ("a", 0, 3): {3: 4.0},
    ("b", 0, 0): {3: 7.0},
    ("b", 0, 4): {3: 1.0},
    ("c", 0, 2): {5: 0.5},
}
TESTED = {"n_tokens": 4, "n_active": 3, "n_other_tokens": 10, "n_other_active": 1, "z": 2.5, "p_value": 0.01}


def add_texts(root: Path, run: str, minute: int = 0) -> None:
    """Adds a run with five tokens in each of three examples, and an encoder's beside them."""
    tokens = [
        {"example_id": e, "pos": p, "side": side, "token": word if side == "dec" else "?"}
        for e in "abc"
        for p, word in enumerate(WORDS)
        for side in ("dec", "enc")
    ]
    examples = [{"example_id": e} for e in "abc"]
    synthetic.add_run(root, run, "next-token", {"examples": examples, "tokens": tokens}, minute=minute)


def add_tests(root: Path, run: str, of: str, minute: int, q_values: dict[tuple[str, str], float]) -> None:
    about = TESTED | {"source_run_id": "texts", "features_run_id": of, "sae": "made", "layer": 1, "feature": 3}
    found = [about | {"property": p, "value": v, "q_value": q} for (p, v), q in q_values.items()]
    synthetic.add_run(root, run, "features-associations", {"feature_associations": found}, minute=minute, parents=[of])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("features")
    add_texts(root, "texts")
    add_texts(root, "bare")
    losses = {"example_id": "a", "n_predictions": 4, "loss": 1.0, "reconstructed_loss": 2.0, "zeroed_loss": 5.0}
    synthetic_features.add_features(root, "texts", ACTIVE, losses=[losses], minute=1)
    synthetic_features.add_features(root, "texts", {("a", 0, 2): {0: 1.0}}, run="again", minute=2)
    add_tests(root, "tests", "encoded", 3, {("upos", "NOUN"): 0.5, ("role", "user"): 0.2})
    add_tests(root, "tests-again", "encoded", 4, {("upos", "NOUN"): 0.01, ("upos", "VERB"): 0.9})
    with Warehouse(root) as wh:
        yield console_client(wh)


def test_the_dictionaries_are_listed_with_the_runs_they_are_of_the_newest_first(client: TestClient) -> None:
    rows, _ = ask(client, "features/runs")
    assert [(r["run_id"], r["source_run_id"], r["sae"]) for r in rows] == [
        ("again", "texts", "made"),
        ("encoded", "texts", "made"),
    ]
    assert {(r["n_features"], r["width"], r["architecture"], r["site"]) for r in rows} == {
        (8, 4, "topk", "resid.post_mlp")
    }


def test_a_dictionary_has_its_fit(client: TestClient) -> None:
    [row], _ = ask(client, "features/dictionary", run="encoded")
    assert row["n_tokens"] == 4  # the first of b is left out
    assert (row["explained_variance"], row["loss_recovered"]) == (0.75, 0.75)
    [again], _ = ask(client, "features/dictionary", run="texts")
    assert again["run_id"] == "again"


def test_features_are_counted_ordered_and_say_how_many_there_are(client: TestClient) -> None:
    rows, notes = ask(client, "features", run="encoded")
    assert [(r["feature"], r["n_tokens"], r["n_examples"], r["density"], r["max_activation"]) for r in rows] == [
        (3, 4, 2, 0.8, 7.0),
        (5, 2, 2, 0.4, 1.0),
    ]
    assert (notes["total"], notes["n_features"]) == (2, 8)
    [rarest], notes = ask(client, "features", run="encoded", order="rare", limit=1)
    assert (rarest["feature"], notes["total"]) == (5, 2)
    assert [r["feature"] for r in ask(client, "features", run="encoded", order="tokens", after=1)[0]] == [5]


def test_a_feature_has_the_sequences_in_which_it_is_most_active(client: TestClient) -> None:
    rows, notes = ask(client, "features/contexts", run="encoded", feature=3)
    assert [(r["run_id"], r["example_id"], r["pos"], r["activation"]) for r in rows] == [
        ("texts", "b", 0, 7.0),
        ("texts", "a", 3, 4.0),
    ]
    assert rows[1]["tokens"] == WORDS
    assert rows[1]["activations"] == [None, 2.0, None, 4.0, None]
    assert notes["summary"] == {"n_tokens": 4, "n_sequences": 2, "mean_activation": 3.5, "max_activation": 7.0}
    assert (notes["total"], sum(notes["distribution"]["counts"])) == (2, 4)
    [one], notes = ask(client, "features/contexts", run="encoded", feature=3, limit=1, before=0, after=1)
    assert (one["first_pos"], one["tokens"], notes["total"]) == (0, ["The", " lamp"], 2)


def test_the_sql_of_contexts_that_the_log_shows_tells_the_same_tokens(client: TestClient) -> None:
    _, notes = ask(client, "features/contexts", run="encoded", feature=3)
    found = client.app.state.warehouse.sql(notes["sql"][-1]).df()
    assert found["activation"].tolist() == [7.0, 4.0, 2.0, 1.0]
    _, notes = ask(client, "features/token", run="encoded", example="a", pos=1)
    assert client.app.state.warehouse.sql(notes["sql"][-1]).fetchall() == [(3, 2.0), (5, 1.0)]


def test_a_dead_feature_has_no_context(client: TestClient) -> None:
    rows, notes = ask(client, "features/contexts", run="encoded", feature=7)
    assert (rows, notes["total"], notes["distribution"]["counts"]) == ([], 0, [])


def test_a_feature_has_those_that_are_active_at_its_tokens(client: TestClient) -> None:
    rows, notes = ask(client, "features/together", run="encoded", feature=3)
    assert [(r["other_feature"], r["n_both"], r["jaccard"]) for r in rows] == [(5, 1, pytest.approx(1 / 5))]
    assert notes["total"] == 1
    assert ask(client, "features/together", run="encoded", feature=7)[0] == []


def test_what_a_feature_goes_with_is_of_the_newest_tests_of_each_property(client: TestClient) -> None:
    rows, notes = ask(client, "features/associations", run="encoded", feature=3)
    assert [(r["tests_run_id"], r["value"], r["q_value"]) for r in rows] == [
        ("tests-again", "NOUN", 0.01),
        ("tests", "user", 0.2),
        ("tests-again", "VERB", 0.9),
    ]
    assert (rows[0]["share"], rows[0]["elsewhere"]) == (0.75, 0.1)
    assert notes["properties"] == ["role", "upos"]
    assert ask(client, "features/associations", run="encoded", feature=5)[0] == []


def test_a_token_has_its_features_the_strongest_first(client: TestClient) -> None:
    rows, notes = ask(client, "features/token", run="encoded", example="a", pos=1)
    assert rows == [{"feature": 3, "activation": 2.0}, {"feature": 5, "activation": 1.0}]
    assert (notes["token"], notes["total"]) == (" lamp", 2)
    one, notes = ask(client, "features/token", run="encoded", example="a", pos=1, limit=1)
    assert (len(one), notes["total"]) == (1, 2)
    assert ask(client, "features/token", run="encoded", example="c", pos=0)[0] == []


@pytest.mark.parametrize(
    ("path", "params", "status", "said"),
    [
        ("features", {"run": "bare"}, 200, "traces features encode bare --sae FOLDER"),
        ("features/contexts", {"run": "bare", "feature": 1}, 200, "traces features encode bare --sae FOLDER"),
        ("features/associations", {"run": "again", "feature": 0}, 200, "traces features associate again --by upos"),
        ("features", {"run": "gone"}, 404, "No run 'gone'"),
        ("features", {"run": "encoded", "sae": "none"}, 404, "No dictionary 'none'"),
        ("features", {"run": "encoded", "order": "1; DROP"}, 404, "No order"),
        ("features", {"run": "encoded", "limit": 5000}, 422, "limit"),
        ("features/contexts", {"run": "encoded", "feature": 8}, 404, "No feature '8'"),
        ("features/together", {"run": "encoded", "feature": -1}, 404, "No feature '-1'"),
        ("features/associations", {"run": "encoded", "feature": 8}, 404, "No feature '8'"),
        ("features/token", {"run": "encoded", "example": "z", "pos": 0}, 404, "No example 'z'"),
        ("features/token", {"run": "encoded", "example": "a", "pos": 5}, 404, "No position '5'"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    client: TestClient, path: str, params: dict, status: int, said: str
) -> None:
    response = client.get(f"/api/{path}", params=params)
    assert response.status_code == status
    assert said in response.text
