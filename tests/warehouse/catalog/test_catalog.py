from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from samples import DATA
from synthetic import add_run

from warehouse import TraceStore, Warehouse
from warehouse.catalog import build
from warehouse.errors import LeftOutWarning, NewerSchemaError, NotFoundError, TracesError, UsageError
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import paths


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy to change, in a folder whose name a glob or an SQL literal could trip over."""
    return Path(shutil.copytree(tiny_root, tmp_path / "it's [a] *root"))


def test_answers_come_as_pandas_arrow_polars_and_rows(tiny_root: Path) -> None:
    wh = Warehouse(tiny_root)
    query = "SELECT run_id, n_tokens FROM runs ORDER BY run_id"
    assert list(wh.sql(query).df().run_id) == ["gpt2", "llama"]
    assert wh.sql(query).arrow().read_all().num_rows == 2
    assert wh.sql(query).pl()["run_id"].to_list() == ["gpt2", "llama"]
    assert wh.sql(query).fetchall()[0][0] == "gpt2"


def test_runs_joins_with_everything(tiny_root: Path) -> None:
    with Warehouse(tiny_root) as wh:
        rows = wh.sql(
            "SELECT run_id, count(*), count(loss), avg(loss::DOUBLE) FROM token_diagnostics GROUP BY run_id ORDER BY run_id"
        ).fetchall()
        runs = wh.sql("SELECT run_id, n_tokens, n_predictions, mean_loss FROM runs ORDER BY run_id").fetchall()
        for (run, n, m, loss), (run2, n2, m2, loss2) in zip(rows, runs, strict=True):
            assert (run, n, m) == (run2, n2, m2)
            assert loss == pytest.approx(loss2, abs=1e-9)


def test_runs_tells_what_is_untrained_and_which_tables_have_rows(tmp_path: Path) -> None:
    rows = {"tokens": [{}], "next_token": [{}, {}], "words": []}
    add_run(tmp_path, "a", "mcq-encoder", rows, untrained=["pooler.weight", 'it\'s "one"'])
    manifest = add_run(tmp_path, "b", "next-token", {"labels": [{}]}) / paths.MANIFEST
    raw = json.loads(manifest.read_text())
    del raw["model"]["untrained"], raw["seal"]  # as before schema version 3
    raw["schema_version"] = 2
    manifest.write_text(json.dumps(raw))
    with Warehouse(tmp_path) as wh:
        assert wh.sql("SELECT run_id, untrained, tables FROM runs ORDER BY run_id").fetchall() == [
            ("a", ["pooler.weight", 'it\'s "one"'], ["next_token", "tokens"]),
            ("b", [], ["labels"]),
        ]


def test_every_view_of_an_empty_warehouse_is_empty(tmp_path: Path) -> None:
    with Warehouse(tmp_path) as wh:
        for view in build.all_view_texts(tmp_path):
            assert wh.sql(f"SELECT * FROM {view}").fetchall() == [], view


def test_every_view_says_what_a_row_is_and_names_every_column() -> None:
    for path in (paths.data_dir("sql") / "views").glob("*.sql"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"-- {path.stem}: a row is "), path
        assert not text.rstrip().endswith(";") and "*," not in text, path


def test_the_last_prediction_of_each_sequence(tiny_root: Path) -> None:
    with Warehouse(tiny_root) as wh:
        found = wh.sql("SELECT run_id, example_id, seq, pos, true_id FROM next_token_last").fetchall()
        tokens = wh.sql(
            "SELECT run_id, example_id, seq, max(pos) - 1, arg_max(token_id, pos) FROM tokens GROUP BY ALL"
        ).fetchall()
        assert sorted(found) == sorted(t for t in tokens if t[3] >= 0)


def test_the_duckdb_shell_reads_it_without_any_of_our_code(root: Path, tmp_path: Path) -> None:
    build.refresh(root)
    shell = Path(sys.executable).with_name("duckdb")
    done = subprocess.run(
        [shell, "-readonly", "-csv", root / "warehouse.duckdb", "SELECT run_id FROM runs ORDER BY 1"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.split() == ["run_id", "gpt2", "llama"], done.stderr


def test_a_run_copied_in_or_deleted_by_hand_is_seen(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "new"
    empty.mkdir()
    with Warehouse(empty) as wh:
        assert wh.sql("SELECT * FROM next_token").fetchall() == []
    shutil.copytree(paths.run_dir(root, "llama"), paths.run_dir(empty, "llama"))
    with Warehouse(empty) as wh:  # the views knew of no rows; opening sees that this has changed
        assert wh.sql("SELECT run_id, count(*) > 0 FROM next_token GROUP BY 1").fetchall() == [("llama", True)]
        shutil.copytree(paths.run_dir(root, "gpt2"), paths.run_dir(empty, "gpt2"))
        assert wh.sql("SELECT count(DISTINCT run_id) FROM tokens").fetchone() == (2,), (
            "an open warehouse sees it at once"
        )
    shutil.rmtree(paths.run_dir(empty, "llama"))
    shutil.rmtree(paths.run_dir(empty, "gpt2"))
    with Warehouse(empty) as wh:
        assert wh.sql("SELECT * FROM token_diagnostics").fetchall() == []


def test_a_run_published_while_a_warehouse_is_open_is_seen_but_by_a_connection_of_its_own(
    root: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "new"
    empty.mkdir()
    with Warehouse(empty) as wh, Warehouse(empty) as session:
        session.sql("SET VARIABLE kept = 1")
        begun = wh.sql("SELECT count(*) FROM tokens")
        shutil.copytree(paths.run_dir(root, "llama"), paths.run_dir(empty, "llama"))
        assert wh.sql("SELECT DISTINCT run_id FROM tokens").fetchall() == [("llama",)]
        assert begun.fetchone() == (0,), "an answer that was begun keeps its views, whole"
        assert session.sql("SELECT count(*), getvariable('kept') FROM tokens").fetchone() == (0, 1)
        shutil.rmtree(paths.run_dir(empty, "llama"))
        assert wh.sql("SELECT DISTINCT run_id FROM tokens").fetchall() == []


def test_a_catalog_that_grew_run_by_run_is_the_one_that_is_made_at_once(root: Path) -> None:
    """Views that stay as they are are not written again; all texts and comments are those of a catalog made from nothing."""

    def views() -> list[tuple[str, ...]]:
        with duckdb.connect(str(root / paths.CATALOG), read_only=True) as con:
            texts = con.sql(
                "SELECT view_name, sql, comment FROM duckdb_views() WHERE NOT internal AND view_name <> 'catalog_state' ORDER BY ALL"
            )
            rows = texts.fetchall()
            return (
                rows + con.sql("SELECT table_name, column_name, comment FROM duckdb_columns() ORDER BY ALL").fetchall()
            )

    build.refresh(root)
    before = views()
    add_run(root, "labelled", "encode", {"labels": [{"example_id": "a", "label_id": 1, "label": "sad"}]})
    build.refresh(root)
    grown = views()
    (root / paths.CATALOG).unlink()
    build.refresh(root)
    assert grown == views() != before
    (root / "run_id=labelled" / "labels" / "00000.parquet").write_bytes(b"PAR1")
    with pytest.warns(LeftOutWarning, match="run 'labelled' is left out"), Warehouse(root, every_file=True) as wh:
        assert wh.sql("SELECT DISTINCT run_id FROM labels").fetchall() == []
        assert len(wh.sql("SELECT run_id FROM runs").fetchall()) == 2


def test_views_follow_those_that_they_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view whose own text stays has the columns of one that another version of the software writes otherwise."""
    sql = tmp_path / "sql"
    shutil.copytree(paths.data_dir("sql"), sql)
    monkeypatch.setattr(paths, "data_dir", lambda name: sql)
    (sql / "views" / "passed_on.sql").write_text("-- passed_on: a row is a run.\nSELECT * FROM read_first\n")
    for columns in ("run_id", "run_id, kind"):
        (sql / "views" / "read_first.sql").write_text(f"-- read_first: a row is a run.\nSELECT {columns} FROM runs\n")
        with Warehouse(root) as wh:
            assert wh.sql("FROM passed_on").columns == columns.split(", ")
            assert len(wh.sql("FROM passed_on").fetchall()) == 2


def test_a_moved_warehouse_is_found_again(root: Path, tmp_path: Path) -> None:
    build.refresh(root)
    moved = root.rename(tmp_path / "elsewhere")
    with Warehouse(moved) as wh:
        assert wh.sql("SELECT count(*) FROM runs").fetchone() == (2,)


def test_a_run_whose_views_cannot_be_written_is_published(tmp_path: Path, capture_tiny) -> None:
    root = tmp_path / "runs"
    (root / "warehouse.duckdb" / "in the way").mkdir(parents=True)
    with pytest.raises(TracesError, match="^Run 'a' is published, and the views do not show it yet: Is a directory"):
        capture_tiny(root, "a", capture="none", max_len=8)
    (root / "warehouse.duckdb" / "in the way").rmdir()
    (root / "warehouse.duckdb").rmdir()
    with Warehouse(root) as wh:
        assert wh.sql("SELECT run_id FROM runs").fetchall() == [("a",)]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "runs"),
        duckdb.TransactionException("TransactionContext Error: Failed to commit: No space left on device"),
    ],
)
def test_where_nothing_can_be_written_a_folder_is_read_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(root: Path, *_: object) -> None:
        raise error

    monkeypatch.setattr("warehouse.catalog.catalog.refresh", refuse)  # root, as CI is, may write everywhere
    (root / paths.CATALOG).unlink(missing_ok=True)
    with Warehouse(root) as wh:
        assert wh.sql("SELECT count(DISTINCT run_id) FROM token_diagnostics").fetchone() == (2,)


def test_the_database_file_holds_no_rows_but_what_is_known_of_runs_and_is_read_only(root: Path) -> None:
    with Warehouse(root) as wh:
        with pytest.raises(duckdb.Error, match="read-only"):
            wh.sql("CREATE TABLE t AS SELECT 1")
        tables = wh.sql("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
        assert tables == [("catalog_groups",), ("catalog_runs",), ("catalog_survey",)]
    assert not (root / "warehouse.duckdb.wal").exists()


def test_readers_see_whole_views_while_they_are_replaced(root: Path) -> None:
    build.refresh(root)
    done = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        while not done.is_set():
            try:
                with duckdb.connect(str(root / paths.CATALOG), read_only=True) as con:
                    assert con.sql("SELECT count(*) FROM runs").fetchone() == (2,)
            except BaseException as e:
                errors.append(e)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for r in readers:
        r.start()
    for _ in range(10):
        build.refresh(root)
    done.set()
    for r in readers:
        r.join()
    assert not errors, errors


def test_names_that_are_not_there_come_with_the_nearest(tiny_root: Path, tmp_path: Path) -> None:
    with Warehouse(tiny_root) as wh, pytest.raises(NotFoundError, match="No run 'lama'. Did you mean llama"):
        wh.run("lama")
    with pytest.raises(UsageError, match="There is no warehouse at"):
        Warehouse(tmp_path / "nowhere")


def test_a_newer_manifest_is_refused_by_name_and_others_stay_readable(root: Path) -> None:
    path = paths.run_dir(root, "llama") / paths.MANIFEST
    raw = json.loads(path.read_text())
    raw["schema_version"], raw["something_new"] = 99, {"a": 1}
    path.write_text(json.dumps(raw))
    with pytest.raises(
        NewerSchemaError, match=f"schema version 99, and this trace-warehouse reads up to {SCHEMA_VERSION}"
    ):
        TraceStore(path.parent)
    with pytest.warns(LeftOutWarning, match="run 'llama' is left out: .* schema version 99"), Warehouse(root) as wh:
        assert wh.sql("SELECT run_id, schema_version FROM runs").fetchall() == [("gpt2", SCHEMA_VERSION)]
        assert len(wh.run("gpt2").tokens)


def test_the_root_is_the_option_then_the_environment_then_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACES_HOME", raising=False)
    assert paths.find_root() == Path("runs")
    monkeypatch.setenv("TRACES_HOME", "/a/b")
    assert paths.find_root() == Path("/a/b")
    assert paths.find_root("/c") == Path("/c")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 200, "run=1"])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        paths.check_run_name(name)


def test_importing_the_warehouse_imports_neither_torch_nor_anything_heavy() -> None:
    code = (
        "import sys, warehouse; from warehouse import Warehouse, TraceStore; import warehouse.cli.sql, warehouse.validation.validate; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_arrows_point_one_way() -> None:
    top = Path(__file__).parents[3] / "warehouse"
    for path in top.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            assert words[:1] not in (["import"], ["from"]) or words[1].split(".")[0] not in (
                "capture",
                "torch",
                "transformers",
            ), path


@pytest.mark.slow
def test_two_captures_at_once_into_one_warehouse(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    lines = DATA / "lighthouse.txt"
    command = [sys.executable, "-m", "capture.cli.main", "capture", "next-token", "--model", str(tiny_folder("llama")),
               "--text", str(lines), "--capture", "hidden", "--warehouse", str(tmp_path / "runs"), "--run"]  # fmt: skip
    running = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        for name in ("a", "b", "a")
    ]
    ended = [(p.communicate(timeout=120), p.returncode) for p in running]
    codes = sorted(code for _, code in ended)
    assert codes == [0, 0, 2], ended
    loser = next(out for out, code in ended if code == 2)
    assert "Another process is capturing run 'a'" in loser[1] or "Run 'a' already exists" in loser[1]
    with Warehouse(tmp_path / "runs") as wh:
        assert wh.sql("SELECT run_id, count(*) FROM next_token GROUP BY 1 ORDER BY 1").fetchall()[0][0] == "a"
        assert wh.sql("SELECT count(*) FROM runs").fetchone() == (2,)
        one, other = wh.run("a"), wh.run("b")
        assert one.tokens.drop(columns=[]).equals(other.tokens)


def test_the_runs_that_were_used_last_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warehouse.catalog.catalog._MOST_OPEN", 2)
    for run in "abc":
        add_run(tmp_path, run, "encode", {"examples": []})
    with Warehouse(tmp_path) as wh:
        a, b = wh.cached_run("a"), wh.cached_run("b")
        assert wh.cached_run("a") is a
        wh.cached_run("c")
        assert wh.cached_run("a") is a and wh.cached_run("b") is not b
        shutil.rmtree(a.path)
        with pytest.raises(NotFoundError, match="No run 'a'"):
            wh.cached_run("a")
