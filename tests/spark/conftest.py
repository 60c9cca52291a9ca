"""A Spark session, and a warehouse in which every view has rows: no model, since Spark's environment has no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import synthetic
import synthetic_causes
import synthetic_circuits
import synthetic_degenerate
import synthetic_rows
import synthetic_words

from warehouse import Warehouse
from warehouse.catalog import compaction
from warehouse.errors import LeftOutWarning
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import paths

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def session() -> Iterator[SparkSession]:
    """Two threads of this machine, seen by nobody else."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").appName("tests")
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",  # nothing here runs long enough to be compiled well
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",  # to compile a query takes longer than to answer it from so few rows
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)  # executors would start the first python3 of PATH
        started = builder.getOrCreate()
        started.sparkContext.setLogLevel("ERROR")
        yield started
        started.stop()


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind, some of them compacted; one of an older version, one renamed by hand, and one that is damaged."""
    home = tmp_path_factory.mktemp("spark") / "a [root] of {runs}"
    synthetic_rows.add_random_runs(home, rows=30)
    synthetic_words.add_words(home, synthetic_words.sentences(25))
    synthetic_causes.add_task(home)
    synthetic_causes.add_ablation(home, "ablated", "zero", synthetic_causes.ZERO)
    synthetic_causes.add_influence(home)
    synthetic_circuits.add_pairs(home)
    synthetic_circuits.add_circuits(home)
    synthetic_circuits.add_evaluation(home, rows=synthetic_circuits.value_rows()[::2])
    synthetic_degenerate.add_degenerate(home, "every token ruled out")
    _make_older(paths.run_dir(home, "plain"))
    paths.run_dir(home, "encoded").rename(home / "run_id=null%20 'b'")
    (paths.run_dir(home, "ablated") / paths.table_file("effects")).write_bytes(b"PAR1")
    with pytest.MonkeyPatch.context() as patch, pytest.warns(LeftOutWarning):
        patch.setattr(compaction, "RUNS", 10)
        Warehouse(home).close()
    return home


def _make_older(folder: Path) -> None:
    """Makes a run one of the version before, whose tokens lack a column."""
    file = folder / paths.table_file("tokens")
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["is_context"]), file)
    synthetic.set_right(folder, file)
    synthetic.alter(folder / paths.MANIFEST, lambda manifest: manifest.update(schema_version=SCHEMA_VERSION - 1))
