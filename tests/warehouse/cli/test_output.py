"""Answers on the way out."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from pathlib import Path

import duckdb
import pytest

from warehouse.cli.output import Format, format_of, write
from warehouse.errors import UsageError, on_one_line, printable

ROW = """
    SELECT 1 AS a, 2 AS a, 3 AS a_1, [1, NULL] AS list, ['nan'::FLOAT, 1]::FLOAT[2] AS array, {'x': 'inf'::DOUBLE} AS struct,
           MAP {DATE '2026-01-02': 1} AS map, 'a\tb' AS text, NULL AS nothing
"""


def test_no_column_is_lost_and_lists_are_json(tmp_path: Path) -> None:
    write(duckdb.sql(ROW), Format.json, tmp_path / "x.json")
    (found,) = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert found == {
        "a": 1, "a_1": 2, "a_1_1": 3, "list": [1, None], "array": [None, 1.0], "struct": {"x": None}, "map": {"2026-01-02": 1},
        "text": "a\tb", "nothing": None,
    }  # fmt: skip
    write(duckdb.sql(ROW), Format.csv, tmp_path / "x.csv")
    names, values = csv.reader((tmp_path / "x.csv").open())
    assert names == ["a", "a", "a_1", "list", "array", "struct", "map", "text", "nothing"]
    assert [json.loads(v) for v in values[3:7]] == [found[n] for n in ("list", "array", "struct", "map")]


def test_the_ending_decides_or_it_is_refused(tmp_path: Path) -> None:
    assert format_of(Path("x.PARQUET"), None) is Format.parquet and format_of(Path("x.tsv"), None) is Format.tsv
    assert format_of(None, None) is Format.table and format_of(Path("x.txt"), None) is Format.table
    assert format_of(Path("x.csv"), Format.json) is Format.json
    for name in ("x", "x.log", "x.table"):
        with pytest.raises(UsageError, match="its ending names no format") if name != "x.table" else nullcontext():
            format_of(Path(name), None)


@pytest.mark.parametrize("kind", list(Format))
def test_a_question_that_fails_leaves_the_file_as_it_was(tmp_path: Path, kind: Format) -> None:
    target = tmp_path / "kept"
    target.write_text("as it was")
    with pytest.raises(duckdb.Error):
        write(duckdb.sql("SELECT if(range = 5000, error('no'), 'x') FROM range(10000)"), kind, target)
    assert target.read_text() == "as it was" and [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_nothing_steers_a_terminal() -> None:
    assert printable("a\x1b[31m\x00\ud800é\n\t😀") == "a\\x1b[31m\\x00\\ud800é\n\t😀"
    assert on_one_line("a\nb\r\tc") == "a\\nb\\r\\tc"
