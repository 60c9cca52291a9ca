"""Runs with nothing to average over, or with numbers at their ends: no question and no view answers with NaN, or fails."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from synthetic_degenerate import CASES, add_degenerate

from warehouse import Warehouse
from warehouse.catalog.saved_queries import all_queries, run_query
from warehouse.storage.paths import data_dir


def not_numbers(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, list | tuple) and any(map(not_numbers, value))


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_no_answer_is_nan(tmp_path: Path, case: str) -> None:
    add_degenerate(tmp_path, case)
    with Warehouse(tmp_path) as wh:
        for name, question in all_queries().items():
            if "tensors" not in question.needs:
                answer = run_query(wh.connection, question, {})
                found = answer.fetchall()
                assert not [row for row in found if not_numbers(row)], (name, answer.columns, found)
        for name in (path.stem for path in (data_dir("sql") / "views").glob("*.sql")):
            assert not [row for row in wh.sql(f"SELECT * FROM {name}").fetchall() if not_numbers(row)], name
