"""What a run's losses come to, nats: their mean, and the perplexity that follows from it."""

from __future__ import annotations

import math
from pathlib import Path

import duckdb

from warehouse import layout, strict_json
from warehouse.quoting import sql_parquet

_LARGEST = 709.0
"""Of the numbers whose exponential a float64 can hold."""


def mean_loss(folder: Path) -> float | None:
    """Averages over all predictions of a run that is about to be published; None where it is infinite."""
    with duckdb.connect() as con:
        file = sql_parquet([folder / layout.table_name("next_token")])
        row = con.sql(f"SELECT avg(loss::DOUBLE) FROM {file}").fetchone()
    assert row is not None
    found: float | None = strict_json.finite(row[0])
    return found


def perplexity(loss: float | None) -> float | None:
    """exp(loss); None where there is no loss, or where it is so large that no number holds its exponential."""
    return None if loss is None or loss > _LARGEST else math.exp(loss)
