"""Circuits and their evaluations that cannot be are found, one wrong value at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_circuits as made
from synthetic import set_right

from warehouse import TraceStore
from warehouse.schema.arrow import arrow_schema
from warehouse.storage import paths
from warehouse.validation.check import ValidationFailure
from warehouse.validation.circuit_checks import check_circuit_values, check_circuits

ADD: dict[str, tuple[Callable[[Path], Path], Callable[[TraceStore], str | None]]] = {
    "found": (made.add_circuits, check_circuits),
    "tried": (made.add_evaluation, check_circuit_values),
}


@pytest.mark.parametrize("what", list(ADD))
def test_sound_runs_pass(tmp_path: Path, what: str) -> None:
    add, check = ADD[what]
    assert re.search("[1-9]", check(TraceStore(add(tmp_path))) or "")


def test_other_runs_have_nothing_to_check(tmp_path: Path) -> None:
    store = TraceStore(made.add_pairs(tmp_path))
    assert check_circuits(store) is None and check_circuit_values(store) is None


@pytest.mark.parametrize(
    ("what", "table", "column", "row", "value", "finding"),
    [
        ("found", "circuits", "source_run_id", 0, "other", "not the parent"),
        ("found", "circuits", "level", 0, "node", "another number of edges"),
        ("found", "circuits", "n_edges", 0, 35, "another number of edges"),
        ("found", "circuits", "n_nodes", 0, 8, "another number of nodes"),
        ("found", "circuits", "n_examples", 0, 5, "not the mean of its pairs'"),
        ("found", "circuits", "circuit", 0, "gim", "not there|another number"),
        ("found", "circuit_edges", "source_head", -1, 7, "of a node that is not there"),
        ("found", "circuit_edges", "port", 0, "o", "to what the model has not"),
        ("found", "circuit_edges", "sink_layer", 11, 0, "leads backwards"),
        ("found", "circuit_edges", "rank", 0, 36, "ranks are not 1, 2, 3"),
        ("found", "circuit_edges", "score", 0, 90.0, "sum of those of the edges|ranks are not"),
        ("found", "circuit_edges", "low", 0, 90.0, "interval that is none"),
        ("found", "circuit_edges", "selection_frequency", 0, 1.5, "more often than resampled"),
        ("found", "circuit_edges", "exact_effect", 0, float("nan"), "effect that is NaN"),
        ("found", "circuit_nodes", "kind", 0, "logits", "not there|of what the model has not"),
        ("found", "circuit_nodes", "score", 0, 0.5, "not the mean of its pairs'"),
        ("found", "circuit_node_scores", "head", 1, 2, "not the mean|of what the model has not"),
        ("tried", "circuit_values", "circuit_run_id", 0, "other", "not the first parent"),
        ("tried", "circuit_values", "source_run_id", 0, "other", "not a parent"),
        ("tried", "circuit_values", "size", 0, 0.0, "outside 0 to 1"),
        ("tried", "circuit_values", "variant", 0, "half", "none of the table's"),
        ("tried", "circuit_values", "draw", 0, 1, "what is not drawn"),
        ("tried", "circuit_values", "n_edges", 0, 37, "more edges than were asked for"),
        ("tried", "circuit_values", "size", 0, 0.02, "that have other pairs"),
        ("tried", "circuit_values", "full_value", 0, 9.0, "several metrics"),
        ("tried", "circuit_values", "value", 0, float("nan"), "NaN"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_found(
    tmp_path: Path, what: str, table: str, column: str, row: int, value: Any, finding: str
) -> None:
    add, check = ADD[what]
    folder = add(tmp_path)
    path = folder / paths.table_file(table)
    columns = pq.read_table(path, partitioning=None).to_pydict()
    columns[column][row] = value
    pq.write_table(pa.table(columns, schema=arrow_schema(table)), path)
    set_right(folder, path)
    with pytest.raises(ValidationFailure, match=finding):
        check(TraceStore(folder))
