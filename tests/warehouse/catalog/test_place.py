"""A warehouse that was copied, moved or opened in any way answers from where it is, or says that it will not; never for another."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog import build
from warehouse.schema.quoting import sql_text
from warehouse.storage import paths

_RUNS = "SELECT run_id FROM {}runs ORDER BY 1"
_TOKENS = "SELECT DISTINCT run_id FROM {}token_diagnostics ORDER BY 1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A warehouse with one run, `first`, in a folder whose name a glob or an SQL literal could trip over."""
    root = tmp_path / "it's [a] *root, é 100%"
    _add(root, "first")
    build.refresh(root)
    return root


def _add(root: Path, run_id: str, word: str = "so") -> None:
    token, predicted = {"example_id": "e", "side": "dec", "token": word}, {"example_id": "e", "loss": 1.0}
    example = {"example_id": "e", "text": "so"}
    add_run(root, run_id, "next-token", {"tokens": [token], "next_token": [predicted], "examples": [example]})


def _copy(root: Path) -> Path:
    """A copy, which has gained the run `second` since."""
    copy = Path(shutil.copytree(root, root.parent / "a [copy]"))
    _add(copy, "second")
    return copy


def _shell(cwd: Path, *words: str | Path) -> str:
    """What the duckdb shell prints, without its own settings of the user."""
    program = Path(sys.executable).with_name("duckdb")
    done = subprocess.run(
        [program, "-init", "/dev/null", "-csv", "-noheader", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )
    return " ".join(done.stdout.split()) or done.stderr


@pytest.fixture
def session() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


def _attach(con: duckdb.DuckDBPyConnection, root: Path, name: str) -> None:
    con.execute(f"ATTACH {sql_text(str(root / paths.CATALOG))} AS {name} (READ_ONLY)")


def test_a_copy_is_read_where_it_is_from_any_working_directory(root: Path, tmp_path: Path) -> None:
    copy = _copy(root)
    _add(copy, "first", "other")
    query = "SELECT token FROM token_diagnostics"
    link = tmp_path / "link"
    link.symlink_to(copy)
    for cwd, file in (
        (copy, Path(paths.CATALOG)),
        (copy, f"./../{copy.name}/{paths.CATALOG}"),
        (tmp_path, copy.relative_to(tmp_path) / paths.CATALOG),
        (root, Path("..") / copy.name / paths.CATALOG),
        (root, copy / paths.CATALOG),
        (Path("/"), link / paths.CATALOG),
    ):
        assert _shell(cwd, "-readonly", file, query) == "other", file
    assert _shell(root, "-readonly", paths.CATALOG, query) == "so", "and so is the original"


def test_a_warehouse_moved_below_a_folder_that_reads_as_a_value_answers_after_a_refresh(root: Path) -> None:
    """DuckDB would read `loss=9` as a column of every file, in place of the file's own."""
    moved = root.rename(root.parent / "loss=9")
    with (
        duckdb.connect(str(moved / paths.CATALOG), read_only=True) as con,
        pytest.raises(duckdb.Error, match="traces refresh --warehouse"),
    ):
        con.sql("SELECT loss FROM next_token").fetchall()
    build.refresh(moved)
    with duckdb.connect(str(moved / paths.CATALOG), read_only=True) as con:
        assert con.sql("SELECT run_id, loss FROM next_token").fetchall() == [("first", 1.0)]
        assert con.sql("SELECT loss FROM next_token WHERE run_id = 'no such'").fetchall() == []


def test_names_that_read_as_other_values_are_names(root: Path) -> None:
    names = ["first"]
    for name in ("null", "a%20b", "x=y", "1"):
        paths.run_dir(root, "first").rename(paths.run_dir(root, name))
        _add(root, "first")
        names.append(name)
        build.refresh(root)
        with duckdb.connect(str(root / paths.CATALOG), read_only=True) as con:
            assert con.sql(_RUNS.format("")).fetchall() == con.sql(_TOKENS.format("")).fetchall()
            assert {run for (run,) in con.sql(_TOKENS.format("")).fetchall()} == set(names)


@pytest.mark.parametrize("query", [_RUNS, _TOKENS, "SELECT list_sort(list(run_id)) FROM {}tokens"])
def test_a_moved_warehouse_is_read_where_it_is(root: Path, query: str) -> None:
    with duckdb.connect(str(root / paths.CATALOG), read_only=True) as con:
        rows = con.sql(query.format("")).fetchall()
    moved = root.rename(root.parent / "moved [on]")
    with duckdb.connect(str(moved / paths.CATALOG), read_only=True) as con:
        assert con.sql(query.format("")).fetchall() == rows != []


def test_a_list_of_files_is_read_where_it_is_too(root: Path) -> None:
    _add(root, "damaged")
    manifest = paths.run_dir(root, "damaged") / paths.MANIFEST
    manifest.write_text("{")
    build.refresh(root)  # a damaged run has the views name the files of the others
    copy = Path(shutil.copytree(root, root.parent / "a [copy]"))
    shutil.rmtree(root)
    with duckdb.connect(str(copy / paths.CATALOG), read_only=True) as con:
        assert con.sql(_RUNS.format("")).fetchall() == con.sql(_TOKENS.format("")).fetchall() == [("first",)]


@pytest.mark.parametrize("query", ["SELECT count(*) FROM c.{}", "FROM c.{} LIMIT 1", "SELECT EXISTS (FROM c.{})"])
@pytest.mark.parametrize("view", ["runs", "tokens", "token_diagnostics", "sequence_losses"])
def test_an_attached_copy_refuses_to_answer_for_the_original(
    root: Path, session: duckdb.DuckDBPyConnection, view: str, query: str
) -> None:
    copy = _copy(root)
    _attach(session, copy, "c")
    with pytest.raises(duckdb.Error, match="This warehouse was made in ") as error:
        session.sql(query.format(view)).fetchall()
    assert f"is now in {copy}/." in str(error.value) and f"traces refresh --warehouse {copy}/" in str(error.value)


def test_an_attached_copy_answers_after_a_refresh(root: Path, session: duckdb.DuckDBPyConnection) -> None:
    copy = _copy(root)
    build.refresh(copy)
    _attach(session, root, "a")
    _attach(session, copy, "b")
    assert session.sql(_TOKENS.format("a.")).fetchall() == [("first",)]
    assert session.sql(_RUNS.format("b.")).fetchall() == [("first",), ("second",)]


def test_a_copy_beside_its_original_has_neither_answer(root: Path, session: duckdb.DuckDBPyConnection) -> None:
    _attach(session, root, "a")
    assert session.sql(_RUNS.format("a.")).fetchall() == [("first",)]
    _attach(session, _copy(root), "b")  # which of the two a view is of cannot be told
    for name in "ab":
        with pytest.raises(duckdb.Error, match="This warehouse was made in "):
            session.sql(_RUNS.format(f"{name}.")).fetchall()


def test_a_warehouse_attached_beside_the_one_that_was_opened_does_not_read_its_runs(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    _add(other, "others")
    build.refresh(other)
    for attached in (other, _copy(root)):
        with duckdb.connect(str(root / paths.CATALOG), read_only=True) as con:
            _attach(con, attached, "b")
            with pytest.raises(duckdb.Error, match="Start DuckDB without a file"):
                con.sql(_RUNS.format("b.")).fetchall()
            if attached == other:
                assert con.sql(_RUNS.format("warehouse.")).fetchall() == [("first",)]


def test_attached_through_links_and_odd_paths_it_is_the_same_warehouse(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    (tmp_path / "file.duckdb").symlink_to(root / paths.CATALOG)
    (root / "other-name.duckdb").hardlink_to(root / paths.CATALOG)
    for cwd, file in (
        (root, paths.CATALOG),
        (root, "./other-name.duckdb"),
        (tmp_path, f"{link.name}//{paths.CATALOG}"),
        (Path("/"), f"{link}/../{root.name}/{paths.CATALOG}"),
        (tmp_path, "file.duckdb"),
    ):
        attach = f"ATTACH {sql_text(file)} AS x (READ_ONLY)"
        assert _shell(cwd, "-c", f"{attach}; {_TOKENS.format('x.')}") == "first", file
    assert _shell(tmp_path, "-readonly", "file.duckdb", _TOKENS.format("")) == "first", "a link to the file, opened"


def test_a_warehouse_that_a_link_leads_to_is_one_and_not_made_again(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    file = root / paths.CATALOG
    made = file.stat().st_ino
    for way in (link, root, link):
        with Warehouse(way) as wh:
            assert wh.sql(_TOKENS.format("")).fetchall() == [("first",)]
    assert file.stat().st_ino == made


def test_nothing_in_the_file_but_the_macro_of_the_folder_and_its_message_names_a_path(root: Path) -> None:
    with duckdb.connect(str(root / paths.CATALOG), read_only=True) as con:
        texts = con.sql("SELECT sql FROM duckdb_views() WHERE NOT internal AND view_name <> 'catalog_state'").fetchall()
        assert texts and not [text for (text,) in texts if str(root.parent) in text]


def test_nothing_of_a_catalog_that_was_copied_into_the_place_of_another_is_kept(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    with duckdb.connect(str(copy / paths.CATALOG)) as con:
        con.execute("CREATE OR REPLACE VIEW labels AS SELECT 'forged' AS run_id")
    root.rename(tmp_path / "away")
    copy.rename(root)
    _add(root, "second")
    with Warehouse(root) as wh:
        assert wh.sql("SELECT * FROM labels").fetchall() == []
