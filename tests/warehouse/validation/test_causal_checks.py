"""Tasks, effects and influence that cannot be are found, one wrong value at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_causes as made
from synthetic import set_right

from warehouse import TraceStore
from warehouse.schema.arrow import arrow_schema
from warehouse.storage import paths
from warehouse.validation.causal_checks import check_effects, check_influence, check_task
from warehouse.validation.check import ValidationFailure

ADD = {
    "task": (lambda root: made.add_task(root), check_task),
    "effects": (lambda root: made.add_ablation(root, "zero", "zero", made.ZERO), check_effects),
    "patching": (made.add_patching, check_effects),
    "influence": (made.add_influence, check_influence),
}


@pytest.mark.parametrize("what", list(ADD))
def test_sound_runs_pass(tmp_path: Path, what: str) -> None:
    add, check = ADD[what]
    assert re.search("[1-9]", check(TraceStore(add(tmp_path))) or "")


def test_other_runs_have_nothing_to_check(tmp_path: Path) -> None:
    store = TraceStore(made.add_task(tmp_path))
    assert check_effects(store) is None and check_influence(store) is None


@pytest.mark.parametrize(
    ("what", "table", "column", "value", "finding"),
    [
        ("task", "task_pairs", "role", "corrupted", "not that of its seq"),
        ("task", "task_pairs", "seq", 3, "not that of its seq"),
        ("task", "task_pairs", "example_id", "c", "without both prompts|is no pair"),
        ("task", "task_pairs", "n_tokens", 4, "not equally long"),
        ("task", "task_pairs", "n_changed", 2, "differ elsewhere"),
        ("task", "task_pairs", "first_changed", 0, "differ elsewhere"),
        ("task", "task_targets", "sign", -1, "without a right answer"),
        ("task", "task_targets", "sign", 0, "without a right answer|neither 1 nor -1"),
        ("task", "task_scores", "is_default", False, "without one metric"),
        ("task", "task_scores", "clean", -1.0, "right where it is not above 0"),
        ("task", "task_scores", "corrupted", float("nan"), "NaN"),
        ("effects", "effects", "effect", 0.5, "not value - baseline"),
        ("effects", "effects", "intervention_id", 9, "an intervention that is not there"),
        ("effects", "effects", "source_run_id", "other", "not the parent"),
        ("effects", "effects", "seq", 2, "not the one that its direction says"),
        ("patching", "effects", "seq", 0, "not the one that its direction says"),
        ("effects", "effects", "effect_normalised", 3.0, "not normalised by one number"),
        ("effects", "interventions", "layer", 2, "that the model has not"),
        ("effects", "interventions", "head", 2, "that the model has not"),
        ("effects", "interventions", "kind", "mean", "a mean over nothing"),
        ("influence", "influence_targets", "source_run_id", "other", "not the parent"),
        ("influence", "influence_targets", "pos", 1, "of a prediction that is not there"),
        ("influence", "influence_targets", "parts_sum", 2.5, "do not add up"),
        ("influence", "influence_targets", "logit", 2.5, "further from the sum"),
        ("influence", "influence", "value", 0.6, "do not sum to 1"),
        ("influence", "influence", "value", -0.1, "do not sum to 1|outside 0 to 1"),
        ("influence", "influence", "source_pos", 3, "came later"),
        ("influence", "logit_parts", "source_pos", 3, "came later"),
        ("influence", "token_edges", "source_pos", 3, "came later"),
        ("influence", "token_edges", "target_pos", 1, "of a prediction that is not there"),
        ("influence", "token_edges", "flow", 0.9, "flow or share"),
        ("influence", "token_edges", "share", 1.5, "flow or share"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_found(
    tmp_path: Path, what: str, table: str, column: str, value: object, finding: str
) -> None:
    add, check = ADD[what]
    folder = add(tmp_path)
    rows = {"effect_normalised": 3}  # a row whose value matters
    _change(folder, table, lambda c: c[column].__setitem__(rows.get(column, 0), value))
    with pytest.raises(ValidationFailure, match=finding):
        check(TraceStore(folder))


def test_flows_that_exceed_the_prediction_and_edges_of_the_stream_between_tokens_are_found(tmp_path: Path) -> None:
    folder = made.add_influence(tmp_path)

    def shift(columns: dict[str, list[Any]]) -> None:
        stream = columns["head"].index(None)
        columns["source_pos"][stream] = 1

    _change(folder, "token_edges", shift)
    with pytest.raises(ValidationFailure, match="of the stream between two tokens"):
        check_influence(TraceStore(folder))

    def double(columns: dict[str, list[Any]]) -> None:
        columns["source_pos"] = list(columns["pos"])
        columns["share"] = columns["flow"] = [1.0] * len(columns["flow"])

    _change(folder, "token_edges", double)
    with pytest.raises(ValidationFailure, match="exceed the prediction"):
        check_influence(TraceStore(folder))


def _change(folder: Path, table: str, change: Callable[[dict[str, list[Any]]], None]) -> None:
    path = folder / paths.table_file(table)
    columns = pq.read_table(path, partitioning=None).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, schema=arrow_schema(table)), path)
    set_right(folder, path)
