"""The processes behind the door: limits, cancelling, replacement, new runs, damaged ones, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import synthetic
from console_client import console_client

from warehouse import Warehouse
from warehouse.console.sql import pool as pools
from warehouse.console.sql.pool import Pool, Question, SqlError

pytestmark = pytest.mark.slow

ENDLESS = "SELECT count(*) FROM range(100000000000) AS a, range(100000) AS b"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pool") / "runs"
    tokens = [{"example_id": "e", "pos": pos, "token": "t"} for pos in range(5000)]
    synthetic.add_run(root, "mine", "next-token", {"tokens": tokens})
    with Warehouse(root):
        pass
    return root


@pytest.fixture(scope="module")
def pool(root: Path) -> Iterator[Pool]:
    made = Pool(root)
    yield made
    made.close()


def value(pool: Pool, sql: str, version: str = "1") -> object:
    rows = pool.ask(Question(sql), version)
    assert rows is not None
    return rows.table.to_pylist()[0].popitem()[1]


def test_rows_up_to_a_limit(pool: Pool) -> None:
    for limit in (1, 2047, 2048, 2049, 4999, 5000, 6000):
        rows = pool.ask(Question("SELECT pos FROM tokens ORDER BY pos", limit), "1")
        assert rows is not None and rows.table["pos"].to_pylist() == list(range(min(limit, 5000)))
        assert rows.cut == ("rows" if limit < 5000 else None)


def test_bytes_up_to_a_limit(pool: Pool) -> None:
    rows = pool.ask(Question("SELECT repeat('x', 1000000) AS a, range AS n FROM range(50)"), "1")
    assert rows is not None and rows.cut == "bytes" and 30 <= rows.table.num_rows <= 33
    assert rows.table.nbytes <= pools.MOST_BYTES and rows.table["n"].to_pylist() == list(range(rows.table.num_rows))


def test_a_row_that_is_too_large_alone(pool: Pool) -> None:
    rows = pool.ask(Question("SELECT repeat('x', 40000000) AS a"), "1")
    assert rows is not None and (rows.cut, rows.table.num_rows) == ("bytes", 0)


def test_no_rows_keep_their_columns(pool: Pool) -> None:
    rows = pool.ask(Question("SELECT run_id, pos FROM tokens WHERE false"), "1")
    assert rows is not None and rows.table.column_names == ["run_id", "pos"] and rows.cut is None


def test_a_query_is_stopped_and_the_next_is_answered(pool: Pool) -> None:
    question = Question(ENDLESS)
    threading.Timer(0.3, question.stop).start()
    begun = time.monotonic()
    with pytest.raises(SqlError) as stopped:
        pool.ask(question, "1")
    assert stopped.value.kind == "cancelled" and time.monotonic() - begun < 5
    assert value(pool, "SELECT 1") == 1


def test_a_query_that_is_stopped_before_it_begins(pool: Pool) -> None:
    question = Question("SELECT 1")
    question.stop()
    with pytest.raises(SqlError) as stopped:
        pool.ask(question, "1")
    assert stopped.value.kind == "cancelled" and value(pool, "SELECT 1") == 1


def test_the_limit_in_time_is_told(pool: Pool) -> None:
    with pytest.raises(SqlError, match="^The query took longer than 0.5 s and was stopped.$") as stopped:
        pool.ask(Question(ENDLESS, seconds=0.5), "1")
    assert stopped.value.kind == "time"


def test_a_process_that_is_killed_from_outside_is_replaced(pool: Pool) -> None:
    assert value(pool, "SELECT 1") == 1
    (process,) = pool._reserve
    os.kill(process._popen.pid, signal.SIGKILL)
    process._popen.wait()
    assert value(pool, "SELECT 2") == 2


def test_too_many_at_once_wait_and_then_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WAITING", 1)
    pool = Pool(root)
    monkeypatch.setattr(pool, "_places", threading.BoundedSemaphore(1))
    first, second, third = (Question(ENDLESS) for _ in range(3))
    kinds: dict[int, str] = {}

    def ask(number: int, question: Question) -> None:
        with pytest.raises(SqlError) as stopped:
            pool.ask(question, "1")
        kinds[number] = stopped.value.kind

    threads = [threading.Thread(target=ask, args=[i, q]) for i, q in enumerate((first, second))]
    threads[0].start()
    _until(lambda: first.process is not None)
    threads[1].start()
    _until(lambda: pool._waiting == 1)
    ask(2, third)
    assert kinds == {2: "busy"}
    second.stop()  # while it waits
    first.stop()
    for thread in threads:
        thread.join()
    assert kinds == {0: "cancelled", 1: "cancelled", 2: "busy"}
    pool.close()


def test_the_end_stops_what_is_at_work(root: Path) -> None:
    pool = Pool(root)
    question = Question(ENDLESS, seconds=30)
    threading.Thread(target=lambda: (_until(lambda: question.process is not None), pool.close())).start()
    with pytest.raises(SqlError):
        pool.ask(question, "1")
    assert not pool._reserve
    with pytest.raises(SqlError, match="ending"):
        pool.ask(Question("SELECT 1"), "1")


def test_a_run_that_comes_is_seen(root: Path, pool: Pool) -> None:
    with Warehouse(root) as wh:
        assert value(pool, "SELECT count(*) FROM runs", wh.version()) == 1
        synthetic.add_run(root, "later", "next-token", {"tokens": [{"example_id": "e", "pos": 0}]})
        wh.reopen_if_stale()
        assert value(pool, "SELECT count(*) FROM runs", wh.version()) == 2
        assert value(pool, "SELECT count(*) FROM tokens WHERE run_id = 'later'", wh.version()) == 1


def test_runs_are_read_many_times_at_once_within_the_limit_on_memory(pool: Pool) -> None:
    """DuckDB sets memory aside for the largest manifest that there may be, for each thread and each time `runs` is read."""
    assert value(pool, "SELECT count(*) FROM runs AS a, runs AS b, runs AS c, runs AS d") in (1, 2**4)


def test_a_folder_with_an_odd_name_and_a_run_that_is_a_link(tmp_path: Path) -> None:
    run = synthetic.add_run(tmp_path / "elsewhere", "linked", "next-token", {"tokens": [{"example_id": "e", "pos": 0}]})
    root = tmp_path / "it's [a] root?"
    root.mkdir()
    (root / run.name).symlink_to(run)
    pool = Pool(root)
    with Warehouse(root) as wh:
        assert value(pool, "SELECT count(*) FROM tokens", wh.version()) == 1
    pool.close()


@pytest.mark.slow
def test_a_process_makes_the_views_in_memory_where_the_catalog_is_old(tmp_path: Path) -> None:
    """A run that was copied in counts before anybody has written the catalog anew."""
    root = tmp_path / "runs"
    synthetic.add_run(root, "mine", "next-token", {"tokens": [{"example_id": "e", "pos": 0}]})
    pool = Pool(root)
    assert value(pool, "SELECT count(*) FROM tokens") == 1
    assert not (root / "warehouse.duckdb").exists()
    pool.close()


@pytest.mark.slow
def test_a_damaged_run_is_left_out_as_elsewhere(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = tmp_path / "runs"
    for name in ("good", "bad"):
        synthetic.add_run(root, name, "next-token", {"tokens": [{"example_id": "e", "pos": 0}]})
    with Warehouse(root) as wh, console_client(wh) as client:
        assert _first(client, "SELECT count(*) AS n FROM tokens") == 2
        (file,) = (root / "run_id=bad").glob("tokens/*.parquet")
        file.write_bytes(b"PAR1" + b"\0" * (file.stat().st_size - 8) + b"PAR1")
        os.utime(
            file, (0, 0)
        )  # DuckDB keeps what it read of a file of the same size until the second of its change is another
        assert _first(client, "SELECT count(*) AS n FROM tokens") == 1
        assert _first(client, "SELECT run_id AS n FROM damaged_runs") == "bad"


def test_no_secrets_reach_a_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SESAME")
    pool = Pool(root)
    assert value(pool, "SELECT 1") == 1
    (process,) = pool._reserve
    if sys.platform == "linux":
        environment = Path(f"/proc/{process._popen.pid}/environ").read_bytes()
        assert b"SESAME" not in environment and b"PATH=" in environment
        modules = Path(f"/proc/{process._popen.pid}/maps").read_text()
        assert "duckdb" in modules and "lance" not in modules and "torch" not in modules
    pool.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_process_ends_with_its_parent_even_in_the_middle_of_a_query(root: Path) -> None:
    script = (
        "import sys, threading, time; from pathlib import Path; from warehouse.console.sql.pool import Pool, Question\n"
        "pool = Pool(Path(sys.argv[1])); question = Question(sys.argv[2], seconds=60)\n"
        "threading.Thread(target=pool.ask, args=[question, '1'], daemon=True).start()\n"
        "while question.process is None or question.process._version is None: time.sleep(0.01)\n"
        "time.sleep(0.3); print(question.process._popen.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(root), ENDLESS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert _alive(child)
    parent.kill()
    parent.wait()
    _until(lambda: not _alive(child))


def _first(client: object, sql: str) -> object:
    import pyarrow as pa

    response = client.post("/api/sql", json={"sql": sql})  # type: ignore[attr-defined]
    assert response.status_code == 200, response.text
    return pa.ipc.open_stream(response.content).read_all()["n"][0].as_py()


def _alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and that nobody has asked after does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
