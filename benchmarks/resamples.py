"""Intervals in SQL, which any DuckDB shell can ask for, against the answers fetched and scipy's functions.

`mcq_accuracy`: ten made runs of 1,221 questions, the size of CommonsenseQA's validation part, each accuracy with Wilson's 95 %
interval, in closed form on both sides. A second would be long to wait for a view.

`correct_against_wrong`: one such run, the difference of means and Cohen's d of four measures between right and wrong answers, with
95 % percentile intervals from 10,000 resamples on both sides; ours also gives Cliff's delta with its interval.

    python benchmarks/resamples.py [--rounds 5] [--questions 1221]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import HERE, in_turns, parsed, record
from scipy import stats

sys.path.insert(0, str(HERE.parent / "tests"))

from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog.saved_queries import find_query, run_query

RUNS = 10
MEASURES = ["margin", "entropy", "top_two_gap", "pred_prob"]


def cohens_d(right: np.ndarray, wrong: np.ndarray, axis: int = -1) -> np.ndarray:
    n, m = right.shape[axis], wrong.shape[axis]
    pooled = ((n - 1) * right.var(axis, ddof=1) + (m - 1) * wrong.var(axis, ddof=1)) / (n + m - 2)
    return (right.mean(axis) - wrong.mean(axis)) / np.sqrt(pooled)


def difference(right: np.ndarray, wrong: np.ndarray, axis: int = -1) -> np.ndarray:
    return right.mean(axis) - wrong.mean(axis)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=1221)
    args = parsed(parser, rounds=1, questions=60)
    rng = np.random.default_rng(0)
    right = rng.random((RUNS, args.questions)) < 0.4
    values = rng.random((RUNS, args.questions, len(MEASURES)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for n, answers in enumerate(right):
            rows = [
                {"example_id": f"{i:016x}", "score": "letter", "is_correct": bool(a)}
                | dict(zip(MEASURES, values[n, i].tolist(), strict=True))
                for i, a in enumerate(answers)
            ]
            add_run(root, f"r{n}", "mcq-prompt", {"mcq_predictions": rows})
        with Warehouse(root) as wh:

            def view() -> None:
                wh.sql("SELECT run_id, accuracy, low, high FROM mcq_accuracy").fetchall()

            def fetched() -> None:
                answers = wh.sql("SELECT run_id, is_correct FROM mcq_predictions").df()
                for _, of_run in answers.groupby("run_id"):
                    found = of_run.is_correct.to_numpy(dtype=bool)
                    stats.binomtest(int(found.sum()), len(found)).proportion_ci(method="wilson")

            def question() -> None:
                run_query(wh.connection, find_query("correct_against_wrong"), {"run": "r0"}).fetchall()

            def drawn() -> None:
                columns = ", ".join(MEASURES)
                answers = wh.sql(f"SELECT is_correct, {columns} FROM mcq_predictions WHERE run_id = 'r0'").df()
                known = answers.is_correct.astype(bool)
                for measure in MEASURES:
                    samples = tuple(answers.loc[side, measure].to_numpy(np.float64) for side in (known, ~known))
                    for statistic in (difference, cohens_d):
                        stats.bootstrap(samples, statistic, n_resamples=10_000, batch=1000, method="percentile", rng=0)

            timed = [in_turns(view, fetched, args.rounds), in_turns(question, drawn, args.rounds)]
    for (mine, other), name, claim, alternative, target in (
        (
            timed[0],
            "resamples",
            f"accuracy of {RUNS} runs of {args.questions:,} questions with Wilson's intervals, in a view",
            "answers fetched, and scipy.stats.binomtest",
            "less than a second",
        ),
        (
            timed[1],
            "resamples#effects",
            f"right against wrong of {args.questions:,} questions: effect sizes of 4 measures, intervals from 10,000 resamples, in SQL",
            "answers fetched, and scipy.stats.bootstrap",
            "less than 3 seconds",
        ),
    ):
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        record(
            name,
            claim,
            alternative,
            f"{statistics.median(mine) * 1e3:,.0f} ms",
            f"{statistics.median(other) * 1e3:,.0f} ms",
            f"{statistics.median(ratios):.1f} times its time ({min(ratios):.1f} to {max(ratios):.1f} in {args.rounds} rounds)",
            target,
        )


if __name__ == "__main__":
    main()
