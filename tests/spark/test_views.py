"""Every table and view of the warehouse, asked of Spark and of DuckDB: the same rows."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pyspark", reason="Spark has an environment of its own: make spark")

import warehouse
from warehouse import Warehouse
from warehouse.catalog.build import all_view_texts
from warehouse.errors import LeftOutWarning

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


FLOAT, DOUBLE = 1e-5, 1e-9
"""How far two numbers may be apart, of the larger one. DuckDB divides FLOATs as FLOATs and Spark as DOUBLEs; sums are in another order."""


def test_every_table_and_view_has_duckdbs_rows(session: SparkSession, root: Path) -> None:
    with pytest.warns(LeftOutWarning, match="ablated"):
        warehouse.spark(session, root)
    different, empty = {}, []
    with Warehouse(root) as wh:
        for name in all_view_texts(root):
            relation = wh.sql(f"FROM {name}")
            expected = [tuple(map(plain, row)) for row in relation.fetchall()]
            frame = session.table(name)
            told = [tuple(map(plain, row)) for row in frame.collect()]
            assert frame.columns == relation.columns, name
            tolerances = [FLOAT if "FLOAT" in str(kind) else DOUBLE for kind in relation.types]
            if wrong := difference(told, expected, tolerances):
                different[name] = wrong
            if not expected:
                empty.append(name)
    assert not different
    assert empty == ["tensors", "vector_tables"], "the rows of all other views are compared"
    assert {"null%20 'b'", "plain", "random-task"} <= {
        run for (run,) in session.sql("SELECT run_id FROM tokens").collect()
    }


def plain(value: Any) -> Any:
    """A value of either engine: lists, structs and maps as tuples, decimals as the integers that they stand for."""
    if isinstance(value, dict):
        return tuple(sorted((plain(k), plain(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return int(value) if isinstance(value, Decimal) else value


def difference(told: list[Any], expected: list[Any], tolerances: list[float]) -> str:
    """The first row that differs; empty where none does. Rows have no order: they are paired by what is no float, then by floats."""
    if len(told) != len(expected):
        return f"{len(told)} rows in place of {len(expected)}"
    for a, b in zip(sorted(told, key=place), sorted(expected, key=place), strict=True):
        columns = [i for i, tolerance in enumerate(tolerances) if not same(a[i], b[i], tolerance)]
        if columns:
            return f"columns {columns}: {[a[i] for i in columns]} in place of {[b[i] for i in columns]} in {b}"
    return ""


def place(row: Any) -> tuple[str, ...]:
    exact = [repr(value) for value in row if not isinstance(value, float)]
    return (*exact, *(f"{value:.4e}" for value in row if isinstance(value, float)))


def same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return type(a) is type(b) and a == b
