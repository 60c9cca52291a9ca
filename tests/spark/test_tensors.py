"""Stored tensors, read by Spark's executors: what TraceStore reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import synthetic

pytest.importorskip("pyspark", reason="Spark has an environment of its own: make spark")

import warehouse
from warehouse.on_spark.spark_warehouse import TensorSlice
from warehouse.schema.sites import Key

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LENGTHS = [3, 0, 7, 5]


def test_executors_read_what_a_trace_store_reads(session: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = {layer: rng.normal(size=(sum(LENGTHS), 4)).astype(np.float16) for layer in (0, 3)}
    heads = {1: rng.normal(size=(sum(LENGTHS), 2, 3)).astype(np.float32)}
    synthetic.add_vectors(tmp_path, "one", layers, LENGTHS)
    synthetic.add_vectors(tmp_path, "two", {0: layers[3]}, LENGTHS)
    synthetic.add_vectors(tmp_path, "heads", heads, LENGTHS, site="q")
    wh = warehouse.spark(session, tmp_path)

    def norms(of: TensorSlice, x: np.ndarray) -> pd.DataFrame:
        length = np.linalg.norm(x.astype(np.float64), axis=1)
        return pd.DataFrame({"run_id": [of.run_id], "layer": [of.layer], "n": [len(x)], "total": [length.sum()]})

    where = "site = 'resid.post_mlp'"
    summed = wh.map_tensors(norms, "run_id STRING, layer INT, n BIGINT, total DOUBLE", where)
    summed.createOrReplaceTempView("summed")
    mean = session.sql("SELECT run_id, layer, sum(total) / sum(n) FROM summed GROUP BY run_id, layer").collect()
    expected = {("one", 0): layers[0], ("one", 3): layers[3], ("two", 0): layers[3]}
    assert {(run, layer): value for run, layer, value in mean} == pytest.approx(
        {k: np.linalg.norm(x.astype(np.float64), axis=1).mean() for k, x in expected.items()}, rel=1e-9
    )

    for run, site, layer, width in (("one", "resid.post_mlp", 3, 4), ("heads", "q", 1, 6)):
        store = warehouse.TraceStore(tmp_path / f"run_id={run}")
        found = wh.tensors(site, f"run_id = '{run}' AND layer = {layer}").orderBy("example_id", "seq", "pos").collect()
        assert [(r.example_id, r.pos) for r in found] == [
            (f"e{i:04d}", p) for i, n in enumerate(LENGTHS) for p in range(n)
        ]
        rows = [store.rows(Key("dec", site, layer), f"e{i:04d}").reshape(-1, width) for i, n in enumerate(LENGTHS) if n]
        assert np.array_equal(np.array([r.vector for r in found], np.float32), np.concatenate(rows).astype(np.float32))
