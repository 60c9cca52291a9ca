"""The door holds: no query of the list reads what it may not, none writes, and the queries of every day come through."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import synthetic
from console_client import console_client
from hostile_queries import ANSWERED, REFUSED
from starlette.testclient import TestClient

from warehouse import Warehouse
from warehouse.catalog.reference import meanings
from warehouse.catalog.saved_queries import all_queries, fill_in
from warehouse.console.sql import door
from warehouse.console.sql.functions import CONDITION_FUNCTIONS, FUNCTIONS

SECRET = "SESAME"


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below a folder, with what it holds."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a warehouse, `runs`, and a secret beside it, in it, and in the environment."""
    folder = tmp_path_factory.mktemp("door")
    root = folder / "runs"
    rows = [{"example_id": "e", "pos": pos, "token": f"t{pos}", "n_tokens": 3} for pos in range(3)]
    tokens = [{k: row[k] for k in ("example_id", "pos", "token")} for row in rows]
    run = synthetic.add_run(root, "mine", "next-token", {"tokens": tokens, "examples": [{"example_id": "e"}]})
    for file in (folder / "secret.csv", run / "notes.csv"):
        file.write_text(f"a\n{SECRET}\n")
    with Warehouse(root):  # makes the catalog
        pass
    return folder


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[TestClient]:
    os.environ["CONSOLE_SECRET"] = SECRET
    with Warehouse(place / "runs") as wh, console_client(wh) as made:
        assert made.post("/api/sql", json={"sql": "SELECT 1"}).status_code == 200
        yield made
    del os.environ["CONSOLE_SECRET"]


@pytest.fixture(scope="module")
def untouched(place: Path, client: TestClient) -> Iterator[None]:
    """What the folder holds is the same before and after all queries."""
    before = tree(place)
    yield
    assert tree(place) == before


@pytest.fixture
def filled(place: Path) -> Callable[[str], str]:
    paths = {"outside": place / "secret.csv", "inside": place / "runs/run_id=mine/notes.csv", "root": place / "runs"}

    def fill(text: str) -> str:
        for name, path in paths.items():
            text = text.replace(f"{{{name}}}", str(path))
        return text

    return fill


def ask(client: TestClient, sql: str) -> pa.Table:
    response = client.post("/api/sql", json={"sql": sql})
    assert response.status_code == 200, response.json()
    return pa.ipc.open_stream(response.content).read_all()


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(name: str, client: TestClient, filled: Callable, untouched: None) -> None:
    body = json.dumps({"sql": filled(REFUSED[name])})
    response = client.post("/api/sql", content=body, headers={"Content-Type": "application/json"})
    said = response.json()
    assert response.status_code in (400, 422) and said["kind"] in ("refused", "sql", "usage"), said
    assert said["error"] and "\n" not in said["error"] and len(said["error"]) < 400 and SECRET not in response.text
    assert said.keys() <= {"error", "kind", "line", "column"}


@pytest.mark.parametrize("name", ANSWERED)
def test_is_answered(name: str, client: TestClient, filled: Callable, untouched: None) -> None:
    sql, expected = ANSWERED[name]
    assert ask(client, filled(sql)).to_pylist() == expected


def test_what_is_refused_by_the_tree_is_refused_by_the_door_alone(place: Path, filled: Callable) -> None:
    """None of them gets as far as DuckDB, whose own limits are a second net."""
    with duckdb.connect() as con:
        for name, text in REFUSED.items():
            with pytest.raises((door.RefusedError, duckdb.ParserException)):
                door.check(con, filled(text), {"tokens", "damaged_runs"})
                pytest.fail(name)


BEHIND = """
import json, sys
from pathlib import Path
import duckdb
from warehouse.console.sql import child, limits
limits.limit_process()
con = child.Views(Path(sys.argv[1])).con
for sql in sys.argv[2:]:
    try:
        print(con.execute(sql).fetchall())
    except duckdb.Error as e:
        print(type(e).__name__)
"""


def test_the_process_behind_the_door_holds_too(place: Path, filled: Callable) -> None:
    """With the door wide open, the process can still neither read elsewhere nor write, nor change what it may do."""
    nets = {
        "SELECT content FROM read_text('{outside}')": "PermissionException",
        "FROM glob('/etc/*')": "PermissionException",
        "COPY (SELECT 1) TO '{root}/written.csv'": "IOException",
        "COPY (SELECT 1) TO '{root}/run_id=mine/run.json'": "IOException",
        "ATTACH '{root}/new.duckdb'": "IOException",
        "EXPORT DATABASE '{root}/export'": "IOException",
        "SET enable_external_access = true": "InvalidInputException",
        "SET memory_limit = '100GB'": "InvalidInputException",
        "INSTALL httpfs": "PermissionException",
        "FROM place": "CatalogException",
    }
    before = tree(place)
    arguments = [sys.executable, "-c", BEHIND, str(place / "runs"), *map(filled, nets)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert dict(zip(nets, done.stdout.splitlines(), strict=True)) == nets
    after = tree(place)
    assert {k: v for k, v in after.items() if k in before} == before
    for name in sorted(
        after.keys() - before.keys(), reverse=True
    ):  # empty files, of which not one byte could be written
        path = place / name
        assert path.is_dir() or path.stat().st_size == 0
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "sql, line, column",
    [
        ("SELECT 1,\n  getenv('A')", 2, 3),
        ("SELECT 'é', getenv('A')", 1, 13),
        ("SELECT 'é',\n 'ß', nothing FROM tokens", 2, 7),
        ("SELECT 1 FRM x y", 1, 14),
        ("FROM tokns", 1, 6),
    ],
)
def test_errors_tell_their_place(sql: str, line: int, column: int, client: TestClient) -> None:
    said = client.post("/api/sql/check", json={"sql": sql}).json()
    assert (said["line"], said["column"]) == (line, column), said


def test_a_query_without_a_fault_is_checked_and_not_answered(client: TestClient) -> None:
    assert client.post("/api/sql/check", json={"sql": "SELECT token FROM tokens"}).json() == {}


def test_every_saved_query_comes_through() -> None:
    names = meanings().keys()
    with duckdb.connect() as con:
        for query in all_queries().values():
            assert "getvariable" in query.text or not query.variables
            door.check(con, fill_in(query, dict.fromkeys(query.variables, "it's")), names)


@pytest.mark.slow
def test_saved_queries_answer_as_from_python_and_so_does_their_sql_with_its_values_filled_in(every_table: Path) -> None:
    answered = set()
    with Warehouse(every_table) as wh, console_client(wh) as client:
        for name in all_queries():
            response = client.post("/api/query", json={"name": name})
            if response.status_code != 200:
                assert response.json()["kind"] in ("usage", "not_found"), (name, response.json())
                continue
            found = pa.ipc.open_stream(response.content).read_all()
            (sql,) = json.loads(found.schema.metadata[b"console"])["sql"]
            assert "getvariable(" not in sql
            again = ask(client, sql)
            assert again.schema.equals(found.schema) and again.num_rows == found.num_rows
            if "LIMIT" not in sql:  # which rows stay of equal ones is chance
                assert in_any_order(again) == in_any_order(found)
            assert found.num_rows == len(wh.ask(name).fetchall())
            answered.add(name)
    assert len(answered) > 30


def in_any_order(table: pa.Table) -> list[str]:
    """The rows, sorted; of equal ones the order is chance, and so are the last digits of a sum of several threads."""

    def told(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(told, value))}]"
        return f"{value:.4g}" if isinstance(value, float) else repr(value)

    return sorted(" ".join(map(told, row.values())) for row in table.to_pylist())


@pytest.mark.parametrize(
    "condition", ["loss > 2", "token LIKE ' a%' AND NOT is_special", "lower(upos) IN ('noun', 'verb')", "pos -- five"]
)
def test_conditions(condition: str) -> None:
    with duckdb.connect() as con:
        door.check_condition(con, condition)


@pytest.mark.parametrize(
    "condition",
    [
        "1=1) UNION SELECT (1", "true) FROM tokens --", "true; DROP VIEW tokens", "true) AS a, (1", "EXISTS (FROM tokens)", "",
        "loss > (SELECT 1)", "length(repeat('x', 4000000000)) > 0", "len(range(1000000000)) > 0", "getenv('A') = 'a'",
        "list_sum([x for x in [1]]) > 1", "loss > ?", "true) LIMIT (1", "a" * 5000,
    ],
)  # fmt: skip
def test_conditions_that_are_refused(condition: str) -> None:
    with duckdb.connect() as con, pytest.raises((door.RefusedError, duckdb.ParserException)):
        door.check_condition(con, condition)


def test_the_functions_that_may_be_called_do_nothing_but_make_values() -> None:
    """DuckDB knows them all, none is one that reads or waits, and none is a table function's name that reads."""
    with duckdb.connect() as con:
        known = {
            (name.lower(), kind)
            for name, kind in con.execute("SELECT function_name, function_type FROM duckdb_functions()").fetchall()
        }
    of_grammar = {"!", "->", "coalesce", "grouping", "grouping_id", "if", "ifnull", "unnest"}
    assert {name for name, kind in known if kind in ("scalar", "aggregate", "macro")} | of_grammar >= FUNCTIONS
    reading = (
        "read_",
        "duckdb_",
        "pg_",
        "pragma_",
        "current_set",
        "getenv",
        "getvar",
        "query",
        "glob",
        "nextval",
        "sleep",
        "write_",
    )
    assert not [name for name in FUNCTIONS if name.startswith(reading) or name.endswith("_scan")]
    assert CONDITION_FUNCTIONS <= FUNCTIONS


BOMBS = {
    "a text": "SELECT length(repeat('x', 4000000000))",
    "a text just below the limit": "SELECT length(repeat('x', 1500000000))",
    "texts in a row": "SELECT repeat(repeat('x', 100000000), 2) FROM range(100)",
    "a cross join": "SELECT count(*) FROM range(100000000000) AS a, range(100000) AS b",
    "a recursion": "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT count(*) FROM t",
    "a recursion that doubles": "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a FROM t, range(2)) SELECT count(*) FROM t",
    "a pattern": "SELECT regexp_matches(repeat('a', 100000000), '(a*)*(a*)*b') FROM range(100)",
    "a counted pattern": "SELECT regexp_matches(repeat('a', 10000000), '((a{0,30}){0,30}){0,1}b') FROM range(100)",
    "a list": "SELECT list(range) FROM range(10000000000)",
    "a list of a row": "SELECT range(10000000000)",
    "lists of lists": "SELECT list_transform(range(100000), lambda x: range(100000))",
    "a sort": "FROM range(10000000000) ORDER BY random()",
    "groups": "SELECT range, count(*) FROM range(100000000000) GROUP BY range",
    "a distance": "SELECT levenshtein(repeat('ab', 500000), repeat('ba', 500000))",
    "a reduction": "SELECT list_reduce(range(100000000), lambda x, y: x + y)",
    "a wide row": "SELECT " + ", ".join(f"repeat('x', 1000000) AS c{i}" for i in range(1000)) + " FROM range(1000)",
    "a padded text": "SELECT lpad('', 2000000000, 'x')",
    "a format": "SELECT printf('%2000000000d', 1)",
    "a nested replace": "SELECT " + "replace(" * 10 + "'x'" + ", 'x', 'xxxxxxxxxx')" * 10,
    "JSON": "SELECT to_json(range(100000000))",
    "a factorial of joins": "SELECT count(*) FROM " + ", ".join(f"range(1000) AS t{i}" for i in range(20)),
}
"""What takes as long or as much as it is let."""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_no_query_outlives_its_limit(name: str, client: TestClient, untouched: None) -> None:
    seconds = 2.0
    begun = time.monotonic()
    response = client.post("/api/sql", json={"sql": BOMBS[name], "timeout": seconds})
    spent = time.monotonic() - begun
    if response.status_code != 200:
        said = response.json()
        assert said["kind"] in ("time", "memory", "sql", "refused") and "\n" not in said["error"], said
    assert len(response.content) < 40_000_000
    begun = time.monotonic()
    assert ask(client, "SELECT count(*)::INT AS n FROM tokens").to_pylist() == [{"n": 3}]  # the page never goes silent
    assert spent < seconds + 1, (spent, response.content[:200], time.monotonic() - begun)
