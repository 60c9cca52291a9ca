"""The views of sparse dictionaries, on rows whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import synthetic
import synthetic_features

from warehouse import Warehouse

TOKENS = {"a": ["The", " lamp", " is"], "b": [" lit", ".", " So"]}
ACTIVE = {
    ("a", 0, 0): {},
    ("a", 0, 1): {3: 2.0, 5: 1.0},
    ("a", 0, 2): {3: 4.0},
    ("b", 0, 0): {3: 7.0},
    ("b", 0, 1): {3: 1.0, 5: 3.0},
    ("b", 0, 2): {},
}


@pytest.fixture
def wh(tmp_path: Path):
    start = {"a": [0, 3, 8], "b": [0, 4, 5]}
    tokens = [
        {"example_id": e, "pos": p, "side": "dec", "token": token, "word_idx": p, "is_special": (e, p) == ("b", 2)}
        | {"char_start": start[e][p], "char_end": start[e][p] + len(token)}
        for e, texts in TOKENS.items()
        for p, token in enumerate(texts)
    ]
    predictions = [{"example_id": e, "pos": p, "loss": 10.0 * p + 1, "correct": p == 1} for e in "ab" for p in (0, 1)]
    rows = {
        "examples": [{"example_id": e, "text": "".join(texts)} for e, texts in TOKENS.items()],
        "tokens": tokens,
        "next_token": predictions,
        "words": [{"example_id": "a", "word_idx": p, "upos": upos} for p, upos in enumerate(("DET", "NOUN", "AUX"))],
    }
    synthetic.add_run(tmp_path, "texts", "next-token", rows)
    losses = [
        {
            "example_id": "a",
            "n_predictions": 3,
            "loss": 1.0,
            "reconstructed_loss": 2.0,
            "zeroed_loss": 5.0,
            "mean_kl": 0.5,
        },
        {
            "example_id": "b",
            "n_predictions": 1,
            "loss": 3.0,
            "reconstructed_loss": 4.0,
            "zeroed_loss": 9.0,
            "mean_kl": 1.5,
        },
    ]
    synthetic_features.add_features(tmp_path, "texts", ACTIVE, losses=losses)
    with Warehouse(tmp_path) as opened:
        yield opened


def test_contexts_have_the_token_and_what_is_around_it(wh: Warehouse) -> None:
    columns = "example_id, pos, activation, token, text_before, text_after, upos, own_loss, loss, correct"
    found = wh.sql(
        f"SELECT {columns} FROM feature_contexts WHERE run_id = 'texts' AND feature = 3 ORDER BY activation DESC"
    ).fetchall()
    assert found == [
        ("b", 0, 7.0, " lit", "", ". So", None, None, 1.0, False),
        ("a", 2, 4.0, " is", "The lamp", "", "AUX", 11.0, None, None),
        ("a", 1, 2.0, " lamp", "The", " is", "NOUN", 1.0, 11.0, True),
        ("b", 1, 1.0, ".", " lit", " So", None, 1.0, 11.0, True),
    ]


def test_fit_leaves_first_and_special_tokens_out(wh: Warehouse) -> None:
    [row] = wh.sql("FROM dictionary_fit").df().to_dict("records")
    assert (row["n_tokens"], row["mean_active"]) == (3, pytest.approx(5 / 3))  # a 1, a 2 and b 1
    assert row["explained_variance"] == 0.75 and row["relative_error"] == pytest.approx(math.sqrt(1 / 5))
    assert (row["loss"], row["reconstructed_loss"], row["zeroed_loss"]) == (1.5, 2.5, 6.0)
    assert row["loss_recovered"] == pytest.approx(3.5 / 4.5) and row["mean_kl"] == 0.75
    assert (row["n_predictions"], row["losses_run_id"]) == (4, "encoded-losses")


def test_counts(wh: Warehouse) -> None:
    found = wh.sql(
        "SELECT feature, n_tokens, n_examples, density, mean_activation, max_activation FROM feature_counts ORDER BY 1"
    ).fetchall()
    assert found == [(3, 4, 2, pytest.approx(4 / 6), 3.5, 7.0), (5, 2, 2, pytest.approx(2 / 6), 2.0, 3.0)]


def test_pairs_that_are_active_together(wh: Warehouse) -> None:
    found = wh.sql(
        "SELECT feature, other_feature, n_both, n_tokens, other_n_tokens, jaccard, pmi FROM feature_cooccurrences ORDER BY 1"
    ).fetchall()
    both = (2, pytest.approx(0.5), pytest.approx(math.log(2 * 6 / (4 * 2))))
    assert found == [(3, 5, both[0], 4, 2, *both[1:]), (5, 3, both[0], 2, 4, *both[1:])]


def test_losses_of_another_dictionary_of_that_name_are_not_taken(tmp_path: Path) -> None:
    tokens = [{"example_id": "a", "pos": p, "side": "dec"} for p in (0, 1)]
    synthetic.add_run(tmp_path, "texts", "next-token", {"examples": [{"example_id": "a"}], "tokens": tokens})
    lost = {"example_id": "a", "n_predictions": 3, "loss": 1.0, "weights_hash": "1" * 32}
    synthetic_features.add_features(tmp_path, "texts", {("a", 0, 1): {3: 2.0}}, losses=[lost])
    with Warehouse(tmp_path) as wh:
        assert wh.sql("SELECT n_tokens, loss, losses_run_id FROM dictionary_fit").fetchall() == [(1, None, None)]
