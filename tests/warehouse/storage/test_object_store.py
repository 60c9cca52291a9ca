"""A warehouse in an object store does what a folder does, and holds the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from s3_server import Server

from warehouse import TraceStore, Warehouse
from warehouse.catalog import build
from warehouse.console.sql.pool import Pool, Question
from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.maintenance.remove import locked_for_removal, remove_run, sweep_root
from warehouse.maintenance.transfer import copy_run
from warehouse.storage import object_log, paths, run_list
from warehouse.storage.files import delete
from warehouse.storage.objects import ObjectPath
from warehouse.validation.validate import check_intact


def test_a_run_in_a_store_is_that_of_a_folder(
    root: ObjectPath, tmp_path: Path, capture_tiny: Callable[..., TraceStore]
) -> None:
    there, here = capture_tiny(root, "one"), capture_tiny(tmp_path / "runs", "one")
    assert str(there.path) == "s3://bucket/runs/run_id=one"
    ids = here.query("SELECT example_id FROM examples ORDER BY ALL").fetchall()
    for (example_id,) in ids[:5]:
        assert np.array_equal(there.resid(example_id), here.resid(example_id))
        assert np.array_equal(there.attn(example_id), here.attn(example_id))
    with Warehouse(root) as a, Warehouse(tmp_path / "runs") as b:
        for table in ("examples", "tokens", "next_token", "token_diagnostics", "tensors"):
            query = f"SELECT COLUMNS(c -> c <> 'created_at') FROM {table} ORDER BY ALL"
            assert a.sql(query).fetchall() == b.sql(query).fetchall(), table
        plain = "SELECT * EXCLUDE (created_at, seconds) FROM runs"
        assert a.sql(plain).fetchall() == b.sql(plain).fetchall()
    assert not paths.staged_runs(root)


def rows(place: ObjectPath | Path, query: str) -> list[tuple[object, ...]]:
    """Ask a warehouse, opened for it alone."""
    with Warehouse(place) as wh:
        return wh.sql(query).fetchall()


COUNTS = "SELECT run_id, count(*) FROM next_token GROUP BY ALL ORDER BY ALL"


def test_a_tensor_is_one_request_after_the_header(root: ObjectPath, s3: Server, capture_tiny) -> None:
    store = capture_tiny(root, "one")
    example_id, n = store.query("SELECT example_id, n_tokens FROM examples ORDER BY n_tokens DESC LIMIT 1").fetchall()[
        0
    ]
    store.resid(example_id, layer=0)  # opens the index and the shard
    with s3.watched() as seen:
        array = store.resid(example_id, layer=1)
    assert array.shape[0] == n
    assert [method for method, _, _ in seen] == ["GET"]
    first, last = map(int, seen[0][2].removeprefix("bytes=").split("-"))
    assert last - first + 1 == array.nbytes


def test_questions_list_no_objects_and_read_only_their_own(root: ObjectPath, s3: Server, capture_tiny) -> None:
    """The first file of all says which columns there are; of the others, only those are read that a question is about."""
    for name in ("one", "two", "three"):
        capture_tiny(root, name, capture="none")
    with Warehouse(root) as wh, s3.watched() as seen:
        wh.sql("SELECT count(*) FROM next_token WHERE run_id = 'three'").fetchall()
        wh.sql("SELECT count(*) FROM runs").fetchall()
    assert not [path for _, path, _ in seen if "list-type" in path]
    assert not [path for _, path, _ in seen if "run_id=two" in path]
    assert [path for _, path, _ in seen if "run_id=three" in path]


@pytest.mark.slow
def test_a_run_goes_and_comes_back(root: ObjectPath, tmp_path: Path, s3: Server, capture_tiny, traces) -> None:
    here = capture_tiny(tmp_path / "runs", "one")
    (folder,) = here.path.parent.glob("run_id=*")
    said = traces("runs", "push", "one", str(root), "-w", tmp_path / "runs", env={})
    assert said.code == 0, said.err
    again = traces("runs", "push", "one", str(root), "-w", tmp_path / "runs", env={})
    assert "already" in again.out
    back = traces("runs", "pull", "one", str(root), "-w", tmp_path / "back", env={})
    assert back.code == 0, back.err
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    copy = tmp_path / "back" / "run_id=one"
    assert files == {p.relative_to(copy).as_posix(): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert rows(root, COUNTS) == rows(tmp_path / "runs", COUNTS) == rows(tmp_path / "back", COUNTS)
    sound = traces("runs", "validate", "one", "-w", str(root), env={})
    assert sound.code == 0, sound.out + sound.err
    assert traces("runs", "rm", "one", "--yes", "-w", str(root), env={}).code == 0
    assert rows(root, COUNTS) == []
    assert not list((root / "run_id=one").rglob("*"))


def test_a_copy_that_cannot_be_begun_leaves_nothing(root: ObjectPath, tmp_path: Path, capture_tiny, traces) -> None:
    here, cache = capture_tiny(tmp_path / "runs", "one"), tmp_path / "cache"
    nowhere = traces("runs", "push", "one", "s3://nowhere/runs", "-w", here.path.parent, env={})
    assert (nowhere.code, nowhere.out) == (1, "")
    assert nowhere.err.startswith("traces: there is no bucket s3://nowhere"), nowhere.err
    assert not [p for p in cache.rglob("*") if ".staging" in p.parts and p.is_file()]
    assert copy_run(here.path.parent, root, "one", check_intact)
    capture_tiny(tmp_path / "other", "one", max_len=8)
    taken = traces("runs", "push", "one", str(root), "-w", tmp_path / "other", env={})
    assert (taken.code, taken.out) == (2, "")
    assert f"{root} has another run that is named 'one'" in taken.err and f"traces runs rm one -w {root}" in taken.err


def test_of_many_writers_of_one_name_one_wins(root: ObjectPath, tmp_path: Path, capture_tiny) -> None:
    homes = [tmp_path / str(i) for i in range(4)]
    for home in homes:
        capture_tiny(home, "one", capture="resid")

    def push(home: Path) -> bool:
        try:
            return copy_run(home, root, "one", check_intact)
        except (RunExistsError, UsageError):
            return False

    with ThreadPoolExecutor(len(homes)) as pool:
        won = list(pool.map(push, homes))
    assert won.count(True) == 1
    winner = homes[won.index(True)] / "run_id=one" / "run.json"
    assert (root / "run_id=one" / "run.json").read_bytes() == winner.read_bytes()
    check_intact(root / "run_id=one")


@pytest.mark.parametrize(
    "fault", ["lost", *(pytest.param(f, marks=pytest.mark.slow) for f in ("error", "cut", "slow"))]
)
def test_a_store_that_fails_now_and_then_loses_nothing(
    root: ObjectPath, tmp_path: Path, s3: Server, capture_tiny, fault: str
) -> None:
    """Every fifth request goes wrong; `lost` is done all the same, so that a manifest or a change of the list is put twice."""
    here = capture_tiny(tmp_path / "runs", "one", capture="resid")
    count = itertools.count()
    with s3.faults(lambda request: fault if next(count) % (40 if fault == "slow" else 5) == 4 else None):
        capture_tiny(root, "one", capture="resid")
        capture_tiny(root, "two", capture="none")
        assert rows(root, COUNTS) == [(name, here.meta.counts.predictions) for name in ("one", "two")]
    check_intact(root / "run_id=one")
    assert set(object_log.read(root).sections["runs"]) == {"one", "two"}
    assert object_log.read(root).number == 4  # each was announced, and listed, once


def test_32_writers_publish_at_once(root: ObjectPath) -> None:
    """All changes are in the list once, whoever comes first, and readers meanwhile see a list that only grows."""
    seen = []

    def read() -> None:
        while len(seen) < 1 or seen[-1] < 32:
            object_log._read.pop(root, None)
            seen.append(len(object_log.read(root).sections["runs"]))

    with ThreadPoolExecutor(33) as pool:
        reader = pool.submit(read)
        for done in [pool.submit(object_log.append, root, {"runs": {f"run-{i}": {"i": i}}}) for i in range(32)]:
            done.result()
        reader.result(60)
    listing = object_log.read(root)
    assert (listing.number, len(listing.sections["runs"])) == (32, 32)
    assert seen == sorted(seen)


def test_a_list_is_made_again_from_the_manifests(root: ObjectPath, capture_tiny, traces) -> None:
    capture_tiny(root, "one", capture="none")
    capture_tiny(root, "two", capture="none")
    before = rows(root, "SELECT * FROM runs ORDER BY run_id")
    delete(root / "list")
    object_log._read.clear()
    assert traces("refresh", "-w", str(root), env={}).code == 0
    assert rows(root, "SELECT * FROM runs ORDER BY run_id") == before
    (root / "run_id=one" / "run.json").unlink()
    build.refresh(root, every_file=True)
    assert [name for (name,) in rows(root, "SELECT run_id FROM runs")] == ["two"]


def stop(*_: object, **__: object) -> None:
    """Stand in for what a killed process did not come to do."""
    raise KeyboardInterrupt


def test_a_run_whose_writer_was_killed_before_it_was_listed_is_found(
    root: ObjectPath, capture_tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest makes it a run; whoever looks next puts it on the list, and a warehouse that is open sees it come."""
    capture_tiny(root, "one", capture="none")
    reader = Warehouse(root)
    with monkeypatch.context() as patch:
        patch.setattr("warehouse.catalog.publish.list_run", stop)
        with pytest.raises(KeyboardInterrupt):
            capture_tiny(root, "two", capture="none")
    assert run_list.is_published(root, "two")
    assert "two" not in object_log.read(root).sections["runs"]
    assert run_list.published_runs(root) == ["one", "two"]
    with reader:
        assert reader.reopen_if_stale()
        assert [name for name, _ in reader.sql(COUNTS).fetchall()] == ["one", "two"]
    assert set(object_log.read(root).sections["runs"]) == {"one", "two"}
    assert object_log.read(root).sections["coming"] == {}


@pytest.mark.slow
def test_who_may_only_read_is_not_stopped_by_a_run_that_is_not_listed(
    root: ObjectPath, s3: Server, capture_tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture_tiny(root, "one", capture="none")
    with monkeypatch.context() as patch:
        patch.setattr("warehouse.catalog.publish.list_run", stop)
        with pytest.raises(KeyboardInterrupt):
            capture_tiny(root, "two", capture="none")
    with s3.faults(lambda request: "denied" if request["REQUEST_METHOD"] == "PUT" else None):
        assert [name for name, _ in rows(root, COUNTS)] == ["one"]
    assert [name for name, _ in rows(root, COUNTS)] == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["unlist_run", "delete"])
def test_a_merge_that_was_killed_while_it_removed_a_part_goes_on(
    root: ObjectPath, capture_tiny, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part has no manifest any more, and some of its objects: the same command removes these."""
    for i in (1, 2):
        capture_tiny(root, f"w.shard-{i}-of-2", shard=f"{i}/2", capture="none", limit=7)
    with monkeypatch.context() as patch:
        patch.setattr(f"warehouse.maintenance.remove.{place}", stop)
        with pytest.raises(KeyboardInterrupt):
            merge.merge(root, merge_plan.plan_merge(root, merge_plan.find_parts(root, "w"), "w"))
    assert merge.finish_merge(root, "w") is not None
    assert run_list.published_runs(root) == ["w"]
    assert not list((root / "run_id=w.shard-1-of-2").rglob("*"))
    assert not list((root / "writers").rglob("*"))
    assert len(rows(root, COUNTS)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", ["unlist_run", "delete"])
def test_what_a_killed_removal_has_left_is_swept(
    root: ObjectPath, capture_tiny, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`traces refresh` finishes it, and lets go of names of runs that are published; what is being captured stays."""
    for name in ("one", "two"):
        capture_tiny(root, name, capture="none")
    with monkeypatch.context() as patch:
        patch.setattr(f"warehouse.maintenance.remove.{place}", stop)
        with locked_for_removal(root, "one"), pytest.raises(KeyboardInterrupt):
            remove_run(root, "one")
    for name in ("two", "elsewhere"):  # killed just after it had published; alive
        (root / "writers" / f"{name}.json").write_bytes(b'{"capture": "x", "host": "other"}')
    assert sweep_root(root) == ["run_id=one"]
    assert [str(p) for p in (root / "writers").rglob("*")] == [f"{root}/writers/elsewhere.json"]
    assert not list((root / "run_id=one").rglob("*"))
    assert [name for name, _ in rows(root, COUNTS)] == ["two"]


@pytest.mark.slow
def test_compaction_changes_no_answer(root: ObjectPath, capture_tiny) -> None:
    for name in ("one", "two", "three"):
        capture_tiny(root, name, capture="none")
    queries = [f"SELECT * FROM {table} ORDER BY ALL" for table in ("runs", "tokens", "next_token", "token_diagnostics")]
    with Warehouse(root) as reader:
        before = [reader.sql(query).fetchall() for query in queries]
        build.refresh(root, compact_all=True)
        assert len(build.read_groups(root)) == 1
        assert [reader.sql(query).fetchall() for query in queries] == before
        with locked_for_removal(root, "two"):
            remove_run(root, "two")
        build.refresh(root)
        assert reader.sql("SELECT DISTINCT run_id FROM next_token ORDER BY ALL").fetchall() == [("one",), ("three",)]
    build.refresh(root, compact_all=True)
    assert [sorted(group.runs) for group in build.read_groups(root).values()] == [["one", "three"]]


@pytest.mark.parametrize(
    "what", ["/run.json", *(pytest.param(p, marks=pytest.mark.slow) for p in ("/blobs/", "/tokens/"))]
)
def test_a_capture_that_stops_goes_on(root: ObjectPath, tmp_path: Path, s3: Server, capture_tiny, what: str) -> None:
    """It stops where something cannot be uploaded; what is in the store already stays, and nothing is visible until the end."""
    here = capture_tiny(tmp_path / "runs", "one")

    def fail(request: dict[str, object]) -> str | None:
        return "denied" if request["REQUEST_METHOD"] == "PUT" and what in str(request["PATH_INFO"]) else None

    with s3.faults(fail), pytest.raises(TracesError, match="the same command again"):
        capture_tiny(root, "one")
    assert paths.staged_runs(root) == ["one"]
    assert not run_list.is_published(root, "one")
    assert run_list.published_runs(root) == []
    there = capture_tiny(root, "one")
    assert {f.path: f.bytes for f in there.meta.files} == {f.path: f.bytes for f in here.meta.files}
    assert not paths.staged_runs(root)
    check_intact(there.path)


def test_the_console_asks_a_store_and_nothing_beside_it(root: ObjectPath, tmp_path: Path, capture_tiny) -> None:
    capture_tiny(root, "one", capture="none")
    with Warehouse(root) as wh:
        version = wh.version()
        expected = wh.sql("SELECT count(*) FROM next_token").fetchall()
    pool = Pool(root)
    try:
        answer = pool.ask(Question("SELECT count(*) FROM next_token"), version)
        assert answer is not None
        assert answer.table.to_pylist() == [{"count_star()": expected[0][0]}]
        with pytest.raises(TracesError):
            pool.ask(Question("FROM read_parquet('s3://bucket/other.parquet')"), version)
    finally:
        pool.close()


def test_parts_in_a_store_are_merged_there(root: ObjectPath, tmp_path: Path, s3: Server, capture_tiny) -> None:
    """The run is that of a folder; tensors are copied within the store, and of the parts' files only headers come here."""
    for place in (root, tmp_path / "runs"):
        for i in (1, 2):
            capture_tiny(place, f"w.shard-{i}-of-2", shard=f"{i}/2", capture="resid", limit=7, batch_tokens=1)
        with s3.watched() as seen:
            merge.merge(place, merge_plan.plan_merge(place, merge_plan.find_parts(place, "w"), "w"))
        if place == root:
            assert {asked for method, path, asked in seen if method == "GET" and "/blobs/" in path} == {"bytes=0-65535"}
        assert run_list.published_runs(place) == ["w"]
    here, there = TraceStore(tmp_path / "runs" / "run_id=w"), TraceStore(root / "run_id=w")
    for (example_id,) in here.query("SELECT example_id FROM examples").fetchall():
        assert np.array_equal(here.resid(example_id), there.resid(example_id))
    for table in ("examples", "tokens", "next_token", "tensors"):
        query = f"SELECT * FROM {table} ORDER BY ALL"
        assert rows(root, query) == rows(tmp_path / "runs", query)
    check_intact(there.path)
