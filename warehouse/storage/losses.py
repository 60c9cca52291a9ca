"""What a run's losses add up to: their mean in nats, its perplexity, the bytes of text behind them, and bits per byte."""

from __future__ import annotations

import math

from warehouse.schema.quoting import sql_no_rows, sql_parquet, sql_text
from warehouse.schema.tables import STORED
from warehouse.storage import paths, strict_json
from warehouse.storage.duckdb_session import connect
from warehouse.storage.objects import AnyPath
from warehouse.storage.sorted_table import example_ranges

_LARGEST_EXPONENT = 709.0
"""The largest whole number whose exponential a float64 can hold."""


def mean_loss(folder: AnyPath) -> float | None:
    """Return the mean loss, nats, over all predictions of a run that is about to be published; None where it is infinite."""
    with connect(folder) as con:
        file = sql_parquet([folder / paths.table_file("next_token")])
        row = con.sql(f"SELECT avg(loss::DOUBLE) FROM {file}").fetchone()
    assert row is not None
    mean: float | None = strict_json.finite(row[0])
    return mean


def predicted_bytes(folder: AnyPath, target_column: str | None) -> int | None:
    """Count the bytes of text that a run predicted, as the view `sequence_losses` does.

    Args:
        folder: The run's folder.
        target_column: The run's option of that name.

    Returns:
        Bytes in UTF-8; None where the tokenizer gives no offsets.
    """
    text = (paths.data_dir("sql") / "views" / "sequence_losses.sql").read_text(encoding="utf-8")
    with connect(folder) as con:
        target = "NULL::VARCHAR" if target_column is None else sql_text(target_column)
        con.execute(f"CREATE VIEW runs AS SELECT '' AS run_id, {target} AS target_column")
        total = None
        for condition in example_ranges([folder / paths.table_file("tokens")]):
            for name in ("examples", "prompts", "tokens", "next_token"):
                file = folder / paths.table_file(name)
                rows = sql_parquet([file]) if file.is_file() else f"({sql_no_rows(STORED[name].file_columns)})"
                con.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT '' AS run_id, * FROM {rows} WHERE {condition}")
            row = con.sql(f"SELECT count(*) = count(text_bytes), sum(text_bytes)::BIGINT FROM ({text})").fetchone()
            assert row is not None
            known, text_bytes = row
            if not known:
                return None
            total = text_bytes if total is None or text_bytes is None else total + text_bytes
    return total


def bits_per_byte(loss: float | None, predictions: int, text_bytes: int | None) -> float | None:
    """Return the cost of a run's predictions in bits per byte of text.

    Args:
        loss: The mean loss, nats.
        predictions: The number of predictions.
        text_bytes: Bytes of the text that they predict.

    Returns:
        Bits per byte; None where the loss or the bytes are not known.
    """
    return None if loss is None or not text_bytes else loss * predictions / math.log(2) / text_bytes


def perplexity(loss: float | None) -> float | None:
    """Return exp(loss); None where there is no loss, or its exponential is too large for a float64."""
    return None if loss is None or loss > _LARGEST_EXPONENT else math.exp(loss)
