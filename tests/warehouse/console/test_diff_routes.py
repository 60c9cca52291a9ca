"""The endpoints of two runs on the same texts, and of multiple choice: what they answer, and how they say what is not there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from console_client import console_client
from starlette.testclient import TestClient
from synthetic import add_run
from synthetic_readings import add_readings, reading

from warehouse import Warehouse


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("pairs")
    texts = {f"e{i}": reading("abc", [1, 1, 1], [1.0, float(i)]) for i in range(5)}
    add_readings(root, "one", texts, minute=1)
    add_readings(root, "two", {e: reading("abc", [1, 1, 1], [1.0, 1.0]) for e in texts}, minute=2)
    add_readings(root, "cut", {"e0": reading("ab", [1, 1], [1.0])}, minute=3)
    add_readings(root, "elsewhere", {"x": reading("xy", [1, 1], [1.0])}, minute=4)
    add_run(root, "silent", "encode", {"examples": [{"example_id": "e0", "text": "abc"}]}, minute=5)
    for minute, (run, kind, score, picks) in enumerate(
        [("asked", "mcq-prompt", "letter", (0, 1)), ("encoded", "mcq-encoder", "head", (0, 0))], start=6
    ):
        add_run(root, run, kind, choices_of(score, picks), minute=minute)
    with Warehouse(root) as wh:
        yield console_client(wh)


def choices_of(score: str, picks: tuple[int, int]) -> dict[str, Any]:
    """Two questions with two choices each, of which the first is right; the second of one has a margin without an end."""
    questions = [{"example_id": e, "idx": i, "text": f"Question {i}?", "n_seqs": 1} for i, e in enumerate(("q0", "q1"))]
    predictions, choices = [], []
    for (example, margin, entropy), pick in zip((("q0", 0.5, 0.25), ("q1", math.inf, 0.0)), picks, strict=True):
        predictions.append(
            {
                "example_id": example, "score": score, "label_idx": 0, "label": "A", "pred_idx": pick, "pred_label": "AB"[pick],
                "is_correct": pick == 0, "pred_prob": 0.75, "label_prob": 0.75 if pick == 0 else 0.25, "margin": margin,
                "top_two_gap": 0.5, "entropy": entropy,
            }
        )  # fmt: skip
        for idx in range(2):
            choices.append(
                {
                    "example_id": example, "choice_idx": idx, "label": "AB"[idx], "text": f"choice {idx}", "logit": float(idx == pick),
                    "prob": 0.75 if idx == pick else 0.25, "is_label": idx == 0, "is_pred": idx == pick,
                }
            )  # fmt: skip
    return {"examples": questions, "choices": choices, "mcq_predictions": predictions}


def ask(client: TestClient, path: str, **params: Any) -> tuple[list[dict], dict[str, Any]]:
    response = client.get(f"/api/{path}", params=params)
    assert response.status_code == 200, response.text
    table = pa.ipc.open_stream(response.content).read_all()
    return table.to_pylist(), json.loads(table.schema.metadata[b"console"])


def refused(client: TestClient, path: str, **params: Any) -> tuple[int, dict[str, Any]]:
    response = client.get(f"/api/{path}", params=params)
    return response.status_code, response.json()


def test_examples_come_by_their_difference_and_say_how_many_there_are(client: TestClient) -> None:
    rows, notes = ask(client, "diff", a="one", b="two")
    assert [row["example_id"] for row in rows] == ["e4", "e3", "e0", "e2", "e1"]
    assert [row["difference"] for row in rows] == [1.5, 1.0, -0.5, 0.5, 0.0]
    assert (notes["total"], notes["all_same"], notes["a"]["run_id"]) == (5, True, "one")
    some, notes = ask(client, "diff", a="one", b="two", limit=2)
    assert (some, notes["total"], notes["rule"]) == (rows[:2], 5, "the first 2 by difference")
    assert "?" not in notes["sql"][-1], "the statement can be asked again as it is"


def test_runs_to_compare_with_are_those_that_share_examples(client: TestClient) -> None:
    rows, _ = ask(client, "diff/partners", run="one")
    assert [(row["run_id"], row["shared"]) for row in rows] == [("two", 5), ("cut", 1)]
    assert ask(client, "diff/partners", run="elsewhere")[0] == []


def test_the_statement_in_the_notes_has_the_same_rows(client: TestClient) -> None:
    rows, notes = ask(client, "diff", a="one", b="two")
    again = client.app.state.warehouse.sql(notes["sql"][-1]).to_arrow_table().to_pylist()
    assert [row["example_id"] for row in again] == [row["example_id"] for row in rows]


def test_a_text_token_by_token_and_one_that_was_cut_short(client: TestClient) -> None:
    rows, notes = ask(client, "diff/strip", a="one", b="two", example="e3")
    assert [row["loss_difference"] for row in rows] == [None, 0.0, 2.0]
    assert (notes["by"], notes["common_chars"]) == ("tokens", None)
    rows, notes = ask(client, "diff/strip", a="one", b="cut", example="e0")
    assert ([row["text"] for row in rows], notes["common_chars"]) == (["a", "b"], 2)
    assert notes["outside"] == {"a": {"tokens": 1, "loss": 0.0}, "b": {"tokens": 0, "loss": None}}


def test_what_cannot_be_compared_says_why(client: TestClient) -> None:
    status, body = refused(client, "diff", a="one", b="elsewhere")
    assert (status, body["kind"]) == (200, "empty")
    assert "no example in common" in body["error"] and "traces capture next-token" in body["hint"]
    status, body = refused(client, "diff", a="one", b="silent")
    assert (status, body["kind"]) == (200, "empty") and "no next-token predictions" in body["error"]
    assert refused(client, "diff", a="one", b="nobody")[1]["kind"] == "not_found"
    assert refused(client, "diff", a="one", b="two", order="colour")[1]["kind"] == "not_found"
    assert refused(client, "diff/strip", a="one", b="two", example="e9")[0] == 404
    assert refused(client, "diff/strip", a="one", b="two", example="e0", seq=7)[0] == 404


def test_questions_can_be_narrowed_and_ordered(client: TestClient) -> None:
    rows, notes = ask(client, "choices", run="asked")
    assert notes["counts"] == {"all": 2, "right": 1, "wrong": 1, "unknown": 0}
    assert (notes["accuracy"]["accuracy"], notes["accuracy"]["chance"]) == (0.5, 0.5)
    wrong, notes = ask(client, "choices", run="asked", show="wrong")
    assert ([row["example_id"] for row in wrong], notes["total"]) == (["q1"], 1)
    by_margin, _ = ask(client, "choices", run="asked", order="margin")
    assert [row["margin"] for row in by_margin] == [0.5, math.inf]
    assert ask(client, "choices", run="asked", after=1)[0] == rows[1:]
    assert refused(client, "choices", run="asked", show="nice")[1]["kind"] == "not_found"


def test_a_question_has_its_choices_and_what_others_answered(client: TestClient) -> None:
    rows, notes = ask(client, "choice", run="asked", example="q1")
    assert [(row["label"], row["is_label"], row["is_pred"]) for row in rows] == [("A", True, False), ("B", False, True)]
    assert notes["question"]["text"] == "Question 1?"
    assert notes["question"]["margin"] is None, "JSON has no infinity"
    assert [(other["run_id"], other["pred_label"]) for other in notes["others"]] == [("encoded", "A")]
    wh = client.app.state.warehouse
    agreed = wh.sql("SELECT agree FROM mcq_agreement WHERE example_id = 'q1'").fetchone()
    assert agreed == (notes["others"][0]["pred_idx"] == notes["question"]["pred_idx"],)


def test_a_run_without_questions_says_what_makes_some(client: TestClient) -> None:
    for path, more in (("choices", {}), ("choice", {"example": "e0"})):
        status, body = refused(client, path, run="one", **more)
        assert (status, body["kind"]) == (200, "empty") and body["hint"].startswith("traces capture mcq-prompt")


def test_a_text_has_the_divergence_of_the_newest_comparison(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whichever run it was made from first; a token's is that of its prediction, made from the token before. Without one: NULL."""
    root = tmp_path_factory.mktemp("compared")
    for run in ("one", "two"):
        add_readings(root, run, {"e": reading("abc", [1, 1, 1], [1.0, 2.0])})
    keys = {"example_id": "e", "top1_id": 1, "other_top1_id": 2, "kl_reverse": 0.125}
    for minute, (run, parents, kl) in enumerate(
        [("old", ("one", "two"), 9.0), ("new", ("one", "two"), 0.5), ("elsewhere", ("one", "cut"), 7.0)], start=1
    ):
        about = {"source_run_id": parents[0], "other_run_id": parents[1]}
        rows = [keys | about | {"pos": pos, "other_pos": pos, "kl": kl} for pos in (0, 1)]
        add_run(root, run, "comparison", {"comparisons": rows}, parents=parents, minute=minute)
    with Warehouse(root) as wh:
        client = console_client(wh)
        rows, notes = ask(client, "diff/strip", a="one", b="two", example="e")
        assert [row["kl"] for row in rows] == [None, 0.5, 0.5] and notes["comparison"] == "new"
        assert [row["top1_changed"] for row in rows] == [None, True, True]
        back, _ = ask(client, "diff/strip", a="two", b="one", example="e")
        assert [row["kl"] for row in back] == [None, 0.125, 0.125]
        _, alone = ask(client, "diff/strip", a="one", b="one", example="e")
        assert alone["comparison"] is None
