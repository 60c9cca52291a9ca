"""The view and the saved queries of comparisons, on rows whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_comparisons
from synthetic import add_run

from warehouse import Warehouse

WORDS = ("The ", "lamp ", "burns")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """A chat of three words as two models read it: what comes after `lamp` is what they differ about."""
    root = tmp_path_factory.mktemp("compared")
    places = [(0, 4), (4, 9), (9, 14)]
    rows = {
        "examples": [{"example_id": "e", "text": "".join(WORDS)}],
        "tokens": [
            {"example_id": "e", "side": "dec", "pos": i, "token": word, "word_idx": i, "role": role, "turn": i}
            | {"char_start": places[i][0], "char_end": places[i][1]}
            for i, (word, role) in enumerate(zip(WORDS, ("user", "user", "assistant"), strict=True))
        ],
        "words": [
            {"example_id": "e", "word_idx": i, "upos": upos, "char_start": places[i][0], "char_end": places[i][1]}
            for i, upos in enumerate(("DET", "NOUN", "VERB"))
        ],
    }
    add_run(root, "one", "next-token", rows)
    add_run(root, "two", "next-token", rows)
    synthetic_comparisons.add_comparison(root)
    with Warehouse(root) as wh:
        yield wh


def test_a_token_of_a_comparison_knows_the_next_one(warehouse: Warehouse) -> None:
    rows = warehouse.sql("FROM comparison_tokens ORDER BY pos").df()
    assert rows.token.tolist() == list(WORDS)
    assert rows.true_token.tolist()[:2] == list(WORDS[1:]) and rows.true_token.isna()[2]
    assert rows.true_upos.tolist()[:2] == ["NOUN", "VERB"] and rows.true_role.tolist()[:2] == ["user", "assistant"]
    assert rows.top1_changed.tolist() == [False, True, False]
    assert rows.loss_difference.tolist()[:2] == [0.25, -1.5] and rows.loss_difference.isna()[2]


def test_two_infinite_losses_have_no_difference(tmp_path: Path) -> None:
    rows = [
        synthetic_comparisons.TOKENS[0] | {"loss": float("inf"), "other_loss": other} for other in (float("inf"), 1.0)
    ]
    synthetic_comparisons.add_comparison(
        tmp_path, comparisons=[r | {"pos": i, "other_pos": i} for i, r in enumerate(rows)]
    )
    tokens = [{"example_id": "e", "side": "dec", "pos": i} for i in (0, 1)]
    add_run(tmp_path, "one", "next-token", {"tokens": tokens})
    with Warehouse(tmp_path) as wh:
        found = wh.sql("SELECT loss_difference FROM comparison_tokens ORDER BY pos").fetchall()
    assert found == [(None,), (float("-inf"),)]


def test_tokens_come_by_their_divergence(warehouse: Warehouse) -> None:
    rows = warehouse.ask("compared_tokens").fetchall()
    assert [row[-1] for row in rows] == [1, 0, 2]
    assert rows[0][:-3] == ("The lamp ", "burns", 1.5, "a", 0.875, "b", 0.625, 2.0, 0.5)


def test_parts_of_speech_and_roles_are_those_of_the_next_token(warehouse: Warehouse) -> None:
    assert warehouse.ask("compared_by_part_of_speech").fetchall() == [
        ("VERB", 1, 1.5, 1.5, 1.0, -1.5),
        ("NOUN", 1, 0.0625, 0.0625, 0.0, 0.25),
    ]
    assert warehouse.ask("compared_by_role").fetchall() == [
        ("assistant", 1, 1.5, 1.5, 1.0, -1.5),
        ("user", 1, 0.0625, 0.0625, 0.0, 0.25),
    ]


def test_a_layer_has_its_own_similarity_and_its_most_similar_layer(warehouse: Warehouse) -> None:
    assert warehouse.ask("similar_layers").fetchall() == [
        (0, 0.75, 0.5, 0.875, 0.875, 0.75, 1.0, 0.25, 0, 0.75),
        (1, 0.625, 0.5, 0.875, 0.875, 0.75, 1.0, 0.25, 0, 0.9375),
    ]


def test_heads_come_by_their_change(warehouse: Warehouse) -> None:
    rows = warehouse.ask("changed_heads").fetchall()
    assert [row[:2] for row in rows] == [(0, 1), (1, 0), (0, 0)]
    assert rows[0][2:] == (0.25, 0.125, 0.5, 0.5, 0.25, 9)


def test_a_layer_says_how_far_it_moved(warehouse: Warehouse) -> None:
    assert warehouse.ask("moved_layers").fetchall() == [(0, 0.25, 0.625, 0.875, 2, 1.5, 0.5)]
