"""Accuracy with a bootstrap interval over questions: the view `mcq_accuracy` against scipy's `bootstrap`.

Ten made runs of 1,221 questions, the size of CommonsenseQA's validation part; 1,000 resamples and the 95 % percentile interval for
both. Both read the runs' files; ours resamples in SQL, which any DuckDB shell can, the other fetches the answers and resamples in
numpy. A second would be long to wait for a view.

    python benchmarks/resamples.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import HERE, in_turns, record
from scipy import stats

sys.path.insert(0, str(HERE.parent / "tests"))

from synthetic import add_run

from warehouse import Warehouse

RUNS, QUESTIONS, RESAMPLES = 10, 1221, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    right = np.random.default_rng(0).random((RUNS, QUESTIONS)) < 0.4
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for n, answers in enumerate(right):
            rows = [
                {"example_id": f"{i:016x}", "score": "letter", "is_correct": bool(a)} for i, a in enumerate(answers)
            ]
            add_run(root, f"r{n}", "mcq-prompt", {"mcq_predictions": rows})
        with Warehouse(root) as wh:

            def fetched() -> None:
                answers = wh.sql("SELECT run_id, is_correct FROM mcq_predictions").df()
                for _, of_run in answers.groupby("run_id"):
                    drawn = (of_run.is_correct.to_numpy(dtype=bool),)
                    stats.bootstrap(drawn, np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)

            view = "SELECT run_id, accuracy, low, high FROM mcq_accuracy"
            mine, other = in_turns(lambda: wh.sql(view).fetchall(), fetched, args.rounds)
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    record(
        "resamples",
        f"accuracy of {RUNS} runs of {QUESTIONS:,} questions with intervals from {RESAMPLES:,} resamples, in a view",
        "answers fetched, and scipy.stats.bootstrap",
        f"{statistics.median(mine) * 1e3:.0f} ms",
        f"{statistics.median(other) * 1e3:.0f} ms",
        f"{statistics.median(ratios):.1f} times its time ({min(ratios):.1f} to {max(ratios):.1f} in {args.rounds} rounds)",
        "less than a second",
    )


if __name__ == "__main__":
    main()
