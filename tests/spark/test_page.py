"""The page about Spark: its Python is run, in order, and what it works out is what TraceStore reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pages
import pytest
import synthetic

pytest.importorskip("pyspark", reason="Spark has an environment of its own: make spark")

import warehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LENGTHS = [3, 7, 5]


def test_what_the_page_shows_runs(session: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    layers = {layer: rng.normal(size=(sum(LENGTHS), 4)).astype(np.float16) for layer in (0, 1)}
    runs = {
        name: synthetic.add_vectors(tmp_path / "runs", name, layers, LENGTHS, losses=rng.random(sum(LENGTHS)))
        for name in ("one", "two")
    }
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}  # functions of __main__ are sent to executors whole
    for block in pages.blocks(pages.TOP / "docs" / "spark.md"):
        if block.language == "python":
            exec(block.code, names)
    assert names["vectors"].count() == 2 * sum(LENGTHS)
    means = session.sql("SELECT run_id, layer, sum(norm) / sum(n) FROM norms GROUP BY run_id, layer").collect()
    stored = {
        (name, layer): [
            np.linalg.norm(row.astype(np.float32))
            for i in range(len(LENGTHS))
            for row in run.resid(f"e{i:04d}", layer=layer)
        ]
        for name, run in runs.items()
        for layer in layers
    }
    assert {(run, layer): mean for run, layer, mean in means} == pytest.approx(
        {key: np.mean(norms, dtype=np.float64) for key, norms in stored.items()}, rel=1e-6
    )
    with warehouse.Warehouse("runs") as wh:
        asked = "SELECT run_id, count(*), avg(loss) FROM next_token GROUP BY run_id"
        expected = {run: (n, pytest.approx(loss)) for run, n, loss in wh.sql(asked).fetchall()}
    assert {run: (n, loss) for run, n, loss in session.sql(asked).collect()} == expected
