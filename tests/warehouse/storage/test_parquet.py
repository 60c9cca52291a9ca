"""Files of a table that become one: rows that tell of a whole run, and that each of its parts has, are one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic import columns

from warehouse.schema.arrow import arrow_schema
from warehouse.storage.parquet import merge_table_files, sorter, to_table, write_table_file


def merged(folder: Path, table: str, *parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    files = [folder / f"{table}-{i}.parquet" for i in range(len(parts))]
    for file, rows in zip(files, parts, strict=True):
        write_table_file(file, to_table(table, columns(table, rows)))
    with sorter(folder / "sort") as con:
        n = merge_table_files(table, files, folder / "one.parquet", con)
    found = pq.read_table(folder / "one.parquet")
    assert len(found) == n and found.schema.equals(arrow_schema(table), check_metadata=True)
    return found.to_pylist()


def test_the_errors_of_an_identity_in_parts_are_those_of_the_whole(tmp_path: Path) -> None:
    key = {"source_run_id": "r", "identity": "logit = sum of parts"}
    one = [key | {"n": 3, "max_error": 1e-6, "scale": 2.0}, key | {"layer": 1, "n": 1, "max_error": 0.5, "scale": 1.0}]
    other = [key | {"n": 4, "max_error": 1e-7, "scale": 5.0}]
    assert merged(tmp_path, "identity_errors", one, other) == [
        key | {"layer": 1, "n": 1, "max_error": 0.5, "scale": 1.0},
        key | {"layer": None, "n": 7, "max_error": 1e-6, "scale": 5.0},
    ]


def test_interventions_of_parts_are_there_once_and_those_that_differ_are_not_hidden(tmp_path: Path) -> None:
    same, differs = ({"intervention_id": 0, "spec": "L0H0=zero", "kind": kind} for kind in ("zero", "mean"))
    assert len(merged(tmp_path, "interventions", [same], [same])) == 1
    assert len(merged(tmp_path, "interventions", [same], [differs])) == 2


def test_effects_are_kept_as_they_are(tmp_path: Path) -> None:
    row = {"example_id": "e", "metric": "kl", "effect": 0.1}
    found = merged(tmp_path, "effects", [row], [row | {"example_id": "d"}])
    assert [r["example_id"] for r in found] == ["d", "e"] and found[0]["effect"] == 0.1
