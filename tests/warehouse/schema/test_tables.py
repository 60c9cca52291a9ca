"""One home for every table: the files, the DDL, the reference and the views follow from `warehouse/schema/`."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import synthetic

from warehouse import Warehouse
from warehouse.schema import arrow, ddl, tables
from warehouse.storage import paths
from warehouse.storage.files import file_checksum

TOP = Path(__file__).parents[3]


def test_the_migrations_add_up_to_what_the_schema_says() -> None:
    columns = "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() WHERE NOT internal"
    found = []
    files = sorted((TOP / "migrations").glob("*.sql"))
    assert [int(p.name[:4]) for p in files] == list(range(1, tables.SCHEMA_VERSION + 1))
    for statements in ("\n".join(p.read_text(encoding="utf-8") for p in files), ddl.ddl()):
        with duckdb.connect() as con:
            con.execute(statements)
            made = con.sql("SELECT table_name, comment FROM duckdb_tables() ORDER BY ALL").fetchall()
            found.append((sorted(con.sql(columns).fetchall()), made))
    assert found[0] == found[1]


def test_the_ddl_makes_the_tables_that_the_views_show(tmp_path: Path) -> None:
    columns = "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    with duckdb.connect() as con:
        con.execute(ddl.ddl())
        made = [r for r in con.sql(columns).fetchall()]
    tmp_path.joinpath("runs").mkdir()
    with Warehouse(tmp_path / "runs") as wh:
        shown = [r for r in wh.sql(columns).fetchall() if r[0] in tables.TABLES]
    assert shown == made


@pytest.mark.parametrize("table", list(tables.STORED))
def test_files_have_the_schemas_columns_types_comments_and_order(every_table: Path, table: str) -> None:
    files = list(every_table.glob(f"{paths.RUN_PREFIX}*/{paths.table_file(table)}"))
    assert files
    for path in files:
        _as_the_schema_says(path, table)


def _as_the_schema_says(path: Path, table: str) -> None:
    assert pq.read_schema(path).equals(arrow.arrow_schema(table), check_metadata=True)
    found = pq.ParquetFile(path)
    columns = [found.metadata.row_group(0).column(i) for i in range(found.metadata.num_columns)]
    for column in columns:
        assert column.compression == ("SNAPPY" if column.physical_type in ("FLOAT", "DOUBLE") else "ZSTD")
    keys = ", ".join(tables.STORED[table].sort_key)
    with duckdb.connect() as con:
        con.sql("SET preserve_insertion_order = true")
        rows = con.sql(f"SELECT {keys} FROM read_parquet('{path}')").fetchall()
    assert rows == sorted(rows, key=lambda r: [(v is None, v) for v in r])


@pytest.mark.parametrize("table", list(tables.TABLES))
def test_views_have_the_schemas_types_with_and_without_rows(every_table: Path, tmp_path: Path, table: str) -> None:
    (tmp_path / "empty").mkdir()
    for root, empty in ((every_table, False), (tmp_path / "empty", True)):
        with Warehouse(root) as wh:
            answer = wh.sql(f"SELECT * FROM {table}")
            assert dict(zip(answer.columns, map(str, answer.types), strict=True)) == {
                c.name: c.sql for c in tables.TABLES[table].columns
            }
            assert (len(answer.fetchall()) == 0) == empty


def test_no_column_that_must_be_there_is_null(every_table: Path) -> None:
    with Warehouse(every_table) as wh:
        for table in tables.TABLES.values():
            for column in table.columns:
                if not column.nullable:
                    assert wh.sql(f"SELECT count(*) FROM {table.name} WHERE {column.name} IS NULL").fetchone() == (
                        0,
                    ), column


def test_columns_that_older_runs_lack_are_null(tmp_path: Path) -> None:
    key = {"example_id": "0" * 16, "side": "dec", "token": "x"}
    folder = synthetic.add_run(tmp_path / "runs", "old", "encode", {"tokens": [key]})
    path = folder / paths.table_file("tokens")
    pq.write_table(pq.read_table(path).drop_columns(["is_context"]), path)

    def older(manifest: dict) -> None:
        manifest["schema_version"] = 6
        manifest["files"][0] |= {"bytes": path.stat().st_size, "checksum": file_checksum(path)}
        manifest["bytes"] = path.stat().st_size

    synthetic.alter(folder / paths.MANIFEST, older)
    with Warehouse(tmp_path / "runs") as wh:
        assert wh.sql("SELECT token, is_context FROM tokens").fetchall() == [("x", None)]
        assert wh.run("old").query("SELECT run_id, token, is_context FROM tokens").fetchall() == [("old", "x", None)]
