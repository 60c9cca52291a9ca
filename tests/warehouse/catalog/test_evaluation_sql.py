"""Scores of evaluations in SQL: which sequences they are of, and what the saved questions say of right and wrong answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog.saved_queries import find_query, run_query

LOSSES = {("a", 0): (9.0, 1.0, 2.0), ("a", 1): (9.0, 4.0, 6.0), ("b", 0): (9.0, 3.0, 3.0), ("c", 0): (2.0, 5.0, 8.0)}
"""Of the prompt's token, and of the response's two; of c nothing is a response."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows: dict[str, list[dict[str, Any]]] = {"examples": [], "tokens": [], "next_token": [], "evaluations": []}
    for (example, seq), losses in LOSSES.items():
        key = {"example_id": example, "seq": seq}
        rows["tokens"] += [key | {"pos": p, "side": "dec", "is_response": p > 1 and example != "c"} for p in range(4)]
        rows["next_token"] += [key | {"pos": p, "loss": loss, "entropy": loss / 2} for p, loss in enumerate(losses)]
    rows["examples"] = [{"example_id": e, "n_seqs": n, "n_tokens": 4 * n} for e, n in (("a", 2), ("b", 1), ("c", 1))]
    score = {"scorer": "match", "metric": "score", "task": "t"}
    rows["evaluations"] = [
        {"example_id": "a", "seq": None, "value": 1.0, "is_correct": True, "score": "C"} | score,
        {"example_id": "b", "seq": 0, "value": 0.0, "is_correct": False, "score": "I", "answer": "5"} | score,
        {"example_id": "c", "seq": 0, "value": 0.25, "is_correct": None, "score": "0.25"} | score,
        {
            "example_id": "c",
            "seq": 0,
            "value": -9.0,
            "is_correct": None,
            "scorer": "loglikelihood",
            "metric": "logprob",
        },
    ]
    add_run(tmp_path, "r", "next-token", rows)
    return tmp_path


def test_a_score_of_several_sequences_stands_beside_each_of_them(root: Path) -> None:
    with Warehouse(root) as wh:
        found = wh.sql("SELECT example_id, seq, metric, value, is_shared FROM scored_sequences ORDER BY ALL").fetchall()
        probe = wh.sql(
            "SELECT example_id, seq, pos FROM scored_sequences JOIN tokens USING (run_id, example_id, seq) "
            "WHERE run_id = 'r' AND is_correct AND is_response ORDER BY ALL"
        ).fetchall()
    assert found == [
        ("a", 0, "score", 1.0, True),
        ("a", 1, "score", 1.0, True),
        ("b", 0, "score", 0.0, False),
        ("c", 0, "logprob", -9.0, False),
        ("c", 0, "score", 0.25, False),
    ]
    assert probe == [("a", 0, 2), ("a", 0, 3), ("a", 1, 2), ("a", 1, 3)]


def test_failures_are_what_is_wrong_or_below_a_half(root: Path) -> None:
    with Warehouse(root) as wh:
        found = run_query(wh.connection, find_query("failures"), {"run": "r"}).df()
    assert found[["example_id", "score", "mean_loss", "mean_entropy"]].to_dict("records") == [
        {"example_id": "b", "score": "I", "mean_loss": 3.0, "mean_entropy": 1.5},
        {"example_id": "c", "score": "0.25", "mean_loss": 5.0, "mean_entropy": 2.5},
    ]


def test_right_and_wrong_answers_are_compared_over_their_responses(root: Path) -> None:
    with Warehouse(root) as wh:
        found = run_query(wh.connection, find_query("right_against_wrong"), {"run": "r"}).fetchall()
    assert found == [("t", "match", "score", False, 1, 3.0, 1.5), ("t", "match", "score", True, 2, 3.25, 1.625)]
