"""Two runs on the same texts: identical ones differ by 0, and what segments cost is what their tokens cost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic_readings import add_readings, reading

from warehouse import Warehouse
from warehouse.analysis.run_diff import compared_examples, compared_sequence
from warehouse.catalog.ask import asker

TEXT = "Le café brûle 👩\u200d👧 ici"
ONE = [2, 5, 6, 2, 1, 1, 4]
OTHER = [1, 1, 3, 2, 3, 3, 4, 4]


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    root = tmp_path_factory.mktemp("readings")
    losses = [0.25, 1.5, 4.0, 0.125, 2.0, 3.0]
    shifted = [*losses[:-1], losses[-1] + 0.75]
    add_readings(root, "one", {"e": reading(TEXT, ONE, losses), "f": reading("ab", [1, 1], [1.0])}, minute=1)
    add_readings(root, "twin", {"e": reading(TEXT, ONE, losses), "f": reading("ab", [1, 1], [1.0])}, minute=2)
    add_readings(root, "later", {"f": reading("ab", [1, 1], [3.0]), "e": reading(TEXT, ONE, shifted)}, minute=3)
    other = reading(TEXT, OTHER, [0.5] * (len(OTHER) - 1), first_id=50)
    add_readings(root, "other", {"e": other}, minute=4)
    ruled_out = reading("ab", [1, 1], [math.inf])
    add_readings(root, "never", {"f": ruled_out}, minute=5)
    add_readings(root, "elsewhere", {"x": reading("xy", [1, 1], [1.0])}, minute=6)
    return Warehouse(root)


def rows_of(wh: Warehouse, a: str, b: str, example: str = "e") -> list[dict]:
    return compared_sequence(asker(wh), wh.run(a), wh.run(b), example).rows.to_pylist()


def test_a_run_differs_from_itself_and_from_its_twin_by_0(wh: Warehouse) -> None:
    for twin in ("one", "twin"):
        examples = compared_examples(asker(wh), "one", twin)
        assert (examples.total, examples.all_same) == (2, True)
        assert set(examples.rows["difference"].to_pylist()) == set(examples.rows["largest"].to_pylist()) == {0.0}
        differences = [row["loss_difference"] for row in rows_of(wh, "one", twin)]
        assert differences == [None, *[0.0] * 6]


def test_the_largest_difference_comes_first_and_is_the_first_run_less_the_second(wh: Warehouse) -> None:
    found = compared_examples(asker(wh), "one", "later").rows.to_pylist()
    assert [(row["example_id"], row["difference"]) for row in found] == [("f", -2.0), ("e", pytest.approx(-0.125))]
    assert [(row["largest"], row["at_token"]) for row in found] == [(2.0, "b"), (0.75, TEXT[-4:])]
    assert [row["loss_difference"] for row in rows_of(wh, "one", "later")] == [None, *[0.0] * 5, -0.75]
    assert [row["loss_difference"] for row in rows_of(wh, "later", "one")] == [None, *[0.0] * 5, 0.75]
    assert compared_examples(asker(wh), "one", "later", order="place", limit=1).rows["example_id"].to_pylist() == ["e"]


def test_segments_cost_what_their_tokens_cost(wh: Warehouse) -> None:
    compared = compared_sequence(asker(wh), wh.run("one"), wh.run("other"), "e")
    rows = compared.rows.to_pylist()
    assert compared.alignment.by == "spans"
    assert [row["text"] for row in rows] == ["Le", " café", " brûle", " 👩\u200d👧", " ici"]
    for side, run in (("a", "one"), ("b", "other")):
        (expected,) = wh.sql(f"SELECT sum(loss) FROM next_token WHERE run_id = '{run}' AND example_id = 'e'").fetchone()
        outside = compared.outside[side]["loss"] or 0
        assert sum(row[f"{side}_loss"] or 0 for row in rows) + outside == expected
        assert [pos for row in rows for pos in row[f"{side}_pos"]] == list(range(len(ONE if side == "a" else OTHER)))
    assert rows[0]["loss_difference"] is None, "nothing predicts the first token"
    assert rows[3]["loss_difference"] == (4.0 + 0.125 + 2.0) - 0.5
    assert rows[3]["a_prob"] == pytest.approx(math.exp(-rows[3]["a_loss"]))


def test_bits_a_byte_compare_other_tokens(wh: Warehouse) -> None:
    examples = compared_examples(asker(wh), "one", "other")
    (row,) = examples.rows.to_pylist()
    assert not examples.all_same
    assert row["largest"] is None
    assert row["difference"] == row["a_bits"] - row["b_bits"]
    told = "SELECT bits_per_byte FROM sequence_losses WHERE example_id = 'e' AND run_id = "
    assert [row["a_bits"], row["b_bits"]] == [wh.sql(f"{told}'{run}'").fetchone()[0] for run in ("one", "other")]


def test_two_infinite_losses_have_no_difference(wh: Warehouse) -> None:
    assert compared_examples(asker(wh), "never", "never").rows["difference"].to_pylist() == [None]
    assert [row["loss_difference"] for row in rows_of(wh, "never", "never", "f")] == [None, None]
    assert [row["loss_difference"] for row in rows_of(wh, "never", "one", "f")] == [None, math.inf]


def test_runs_of_other_texts_have_nothing_in_common(wh: Warehouse) -> None:
    examples = compared_examples(asker(wh), "one", "elsewhere")
    assert (examples.total, examples.all_same, len(examples.rows)) == (0, False, 0)


def test_models_of_other_classes_over_one_tokenizer(tiny_root: Path) -> None:
    """Real runs: every difference is that of the tables."""
    with Warehouse(tiny_root) as wh:
        (example,) = wh.sql("SELECT example_id FROM examples WHERE run_id = 'llama' ORDER BY idx LIMIT 1").fetchone()
        rows = rows_of(wh, "llama", "gpt2", example)
        expected = wh.sql(
            "SELECT a.loss::DOUBLE - b.loss::DOUBLE FROM next_token AS a JOIN next_token AS b USING (example_id, seq, pos) "
            f"WHERE a.run_id = 'llama' AND b.run_id = 'gpt2' AND example_id = '{example}' ORDER BY pos"
        ).fetchall()  # fmt: skip
        assert [row["loss_difference"] for row in rows[1:]] == [difference for (difference,) in expected]
        assert len(rows) > 10
