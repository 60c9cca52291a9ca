"""Every ready question runs, answers, and keeps to the house style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFound, UsageError
from warehouse.layout import data_dir, run_dir
from warehouse.questions import all_questions, ask, find_question


@pytest.mark.parametrize("name", list(all_questions()))
def test_it_answers(tiny_root: Path, real_root: Path, tmp_path: Path, name: str) -> None:
    question = find_question(name)
    assert question.title.endswith((".", "?")) or "?" in question.title
    with Warehouse(tiny_root) as wh:
        assert ask(wh.connection, question, {}).fetchall(), "no rows"
    if "other_run" not in question.variables:
        with Warehouse(real_root) as wh:
            assert ask(wh.connection, question, {}).fetchall(), "no rows on the real model"


def test_there_are_at_least_ten() -> None:
    assert len(all_questions()) >= 10


def test_calibration_is_what_numpy_says(real_root: Path) -> None:
    store = TraceStore(run_dir(real_root, "real"))
    p, correct = map(np.array, zip(*store.query("SELECT pred_prob, correct FROM next_token").fetchall(), strict=True))
    with Warehouse(real_root) as wh:
        for start, n, mean, accuracy, _ in ask(wh.connection, find_question("calibration"), {"run": "real"}).fetchall():
            inside = np.minimum(np.floor(p * 10), 9) == round(start * 10)
            assert n == inside.sum()
            assert accuracy == pytest.approx(correct[inside].mean(), abs=6e-4)
            assert mean == pytest.approx(p[inside].mean(), abs=6e-4)


def test_two_runs_are_compared_on_the_same_examples(tiny_root: Path) -> None:
    with Warehouse(tiny_root) as wh:
        rows = ask(wh.connection, find_question("compare_runs"), {"run": "llama", "other_run": "gpt2"}).fetchall()
        for example_id, ours, theirs, difference, *_ in rows:
            means = dict(
                wh.sql(
                    f"SELECT run_id, avg(loss) FROM next_token WHERE example_id = '{example_id}' GROUP BY 1"
                ).fetchall()
            )
            assert ours == pytest.approx(means["llama"], abs=1e-3) and theirs == pytest.approx(means["gpt2"], abs=1e-3)
            assert difference == pytest.approx(means["llama"] - means["gpt2"], abs=1e-3)


def test_the_real_model_foresees_the_rest_of_a_word_better_than_its_start(real_root: Path) -> None:
    with Warehouse(real_root) as wh:
        loss = {row[0]: row[2] for row in ask(wh.connection, find_question("word_starts"), {}).fetchall()}
    assert loss["goes on with one"] < loss["starts a word"]


def test_variables_are_checked(tiny_root: Path, real_root: Path) -> None:
    question = find_question("compare_runs")
    with Warehouse(tiny_root) as wh, pytest.raises(NotFound, match="No run 'gpt'. Did you mean gpt2"):
        ask(wh.connection, question, {"run": "gpt"})
    with Warehouse(real_root) as wh, pytest.raises(UsageError, match="needs another run"):
        ask(wh.connection, question, {})


def test_sql_files_open_with_a_comment_and_have_keywords_in_capitals() -> None:
    for path in sorted(data_dir("sql").rglob("*.sql")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("-- "), path
        code = "\n".join(line.split("--")[0] for line in text.splitlines())
        for word in ("select", "from", "where", "group by", "order by", "join"):
            assert f"\n{word} " not in code, f"{path}: {word}"
        assert "SELECT *" not in code, path
