"""What a query on the command line may do."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from warehouse.catalog import statements
from warehouse.errors import UsageError

QUESTIONS = [
    "SELECT 1", "FROM t", "FROM t SELECT a", "WITH x AS (SELECT 1) FROM x", "VALUES (1)", "TABLE t", "SUMMARIZE t", "DESCRIBE t",
    "SHOW TABLES", "PIVOT t ON a USING sum(b)", "SELECT 'a; COPY t TO x'",
]  # fmt: skip
ALSO = [
    "EXPLAIN SELECT 1", "EXPLAIN ANALYZE (SELECT 1)", "SET VARIABLE q = 1; SELECT getvariable('q')",
    "CREATE OR REPLACE TEMP MACRO f(a) AS a; SELECT f(1)", "CREATE TEMP VIEW v AS SELECT 1", "COPY t TO 'elsewhere.csv'",
    "COPY (SELECT 'a TO ''b') TO 'elsewhere.csv' (FORMAT csv)", "copy t to 'elsewhere.csv' with (header)",
]  # fmt: skip
REFUSED = [
    "COPY t TO 'root/x'", "COPY t TO '{root}/run_id=a/run.json'", "COPY t /* TO 'x' */ TO 'y/../root/x'",
    "COPY t TO -- 'x'\n 'root/x'", "COPY t TO 'file://{root}/x'", "COPY t TO 'file:{root}/x'",
    "COPY t TO 'file://localhost{root}/x'", "COPY t TO 'linked/x'", "COPY t TO 'é/../root/x'", "COPY \"t\" (a) TO 'root/x'",
    "SELECT 'é'; COPY t TO 'root/x'", "COPY t TO ('/tmp/' || 'x')", "COPY t TO x", "COPY t TO E'root/x'",
    "COPY t TO $$root/x$$", "COPY t TO 'o' (FORMAT csv, PER_THREAD_OUTPUT, FILENAME_PATTERN '../root/f{{i}}')",
    "COPY t FROM 'x.csv'", "EXPLAIN ANALYZE COPY t TO 'root/x'", "EXPORT DATABASE 'root/e'", "ATTACH 'root/x.db'",
    "CREATE TABLE z (a INT)", "CREATE PERSISTENT SECRET s (TYPE s3)", "INSERT INTO t VALUES (1, 2)", "DELETE FROM t",
    "PREPARE x AS COPY t TO 'root/x'", "SET threads = 2", "SET temp_directory = 'root'", "USE memory", "LOAD json", "INSTALL json",
    "CALL pragma_version()", "PRAGMA enable_profiling", "VACUUM", "CHECKPOINT", "BEGIN", "", "-- nothing",
    "FROM enable_logging('QueryLog', storage = 'file', storage_path = 'root')", "FROM query('FROM enable_logging()')",
]  # fmt: skip


@pytest.fixture
def con(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> duckdb.DuckDBPyConnection:
    (tmp_path / "root").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    con = duckdb.connect()
    con.execute("CREATE TABLE t AS SELECT 1 AS a, 2 AS b")
    return con


@pytest.mark.parametrize("text", QUESTIONS)
def test_questions_are_asked_everywhere(con: duckdb.DuckDBPyConnection, tmp_path: Path, text: str) -> None:
    statements.check_readonly(con, text, tmp_path / "root")
    statements.check_one_question(con, text)


@pytest.mark.parametrize("text", ALSO)
def test_some_more_is_for_sql_alone(con: duckdb.DuckDBPyConnection, tmp_path: Path, text: str) -> None:
    statements.check_readonly(con, text, tmp_path / "root")
    with pytest.raises(UsageError, match="One SELECT is needed"):
        statements.check_one_question(con, text)


@pytest.mark.parametrize("text", REFUSED)
def test_nothing_is_written_below_the_root(con: duckdb.DuckDBPyConnection, tmp_path: Path, text: str) -> None:
    text = text.format(root=tmp_path / "root")
    with pytest.raises(UsageError):
        statements.check_readonly(con, text, tmp_path / "root")
    with pytest.raises(UsageError):
        statements.check_one_question(con, text)


def test_what_is_no_sql_is_duckdbs_to_tell(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    with pytest.raises(duckdb.ParserException):
        statements.check_readonly(con, "SELEC 1", tmp_path)
    with pytest.raises(UsageError, match="One SELECT is needed"):
        statements.check_one_question(con, "SELECT 1; SELECT 2")


def test_a_run_that_the_root_links_to_is_in_the_warehouse(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / "run_id=x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is in the warehouse"):
        statements.check_target(tmp_path / "elsewhere" / "run.json", tmp_path / "root")
    statements.check_target(tmp_path / "rooted.csv", tmp_path / "root")
