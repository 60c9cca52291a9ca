"""What a run's losses come to: their mean, nats, the perplexity that follows from it, and the bytes of text that they are of."""

from __future__ import annotations

import math
from pathlib import Path

import duckdb

from warehouse.schema.quoting import sql_no_rows, sql_parquet, sql_text
from warehouse.schema.tables import STORED
from warehouse.storage import paths, strict_json

_LARGEST_EXPONENT = 709.0
"""Of the numbers whose exponential a float64 can hold."""


def mean_loss(folder: Path) -> float | None:
    """Averages over all predictions of a run that is about to be published; None where it is infinite."""
    with duckdb.connect() as con:
        file = sql_parquet([folder / paths.table_file("next_token")])
        row = con.sql(f"SELECT avg(loss::DOUBLE) FROM {file}").fetchone()
    assert row is not None
    found: float | None = strict_json.finite(row[0])
    return found


def predicted_bytes(folder: Path, target_column: str | None) -> int | None:
    """Bytes of the text that all predictions of a run are of, as `sequence_losses` counts them, from its folder; None where the
    tokenizer tells no offsets. `target_column`: the run's option.
    """
    text = (paths.data_dir("sql") / "views" / "sequence_losses.sql").read_text(encoding="utf-8")
    with duckdb.connect() as con:
        for name in ("examples", "prompts", "tokens", "next_token"):
            file = folder / paths.table_file(name)
            rows = sql_parquet([file]) if file.is_file() else f"({sql_no_rows(STORED[name].file_columns)})"
            con.execute(f"CREATE VIEW {name} AS SELECT '' AS run_id, * FROM {rows}")
        target = "NULL::VARCHAR" if target_column is None else sql_text(target_column)
        con.execute(f"CREATE VIEW runs AS SELECT '' AS run_id, {target} AS target_column")
        row = con.sql(f"SELECT count(*) = count(text_bytes), sum(text_bytes)::BIGINT FROM ({text})").fetchone()
    assert row is not None
    known, found = row
    return found if known else None


def bits_per_byte(loss: float | None, predictions: int, text_bytes: int | None) -> float | None:
    """What `predictions` of a mean loss (nats) cost, bits per byte of the text that they are of; None where either is not known."""
    return None if loss is None or not text_bytes else loss * predictions / math.log(2) / text_bytes


def perplexity(loss: float | None) -> float | None:
    """exp(loss); None where there is no loss, or where it is so large that no number holds its exponential."""
    return None if loss is None or loss > _LARGEST_EXPONENT else math.exp(loss)
