"""Names and files that were copied in are checked where they are read, and decide nothing outside of their place."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic

from warehouse import TraceStore, Warehouse
from warehouse.catalog import build
from warehouse.cli.sql import _vectors_first
from warehouse.errors import CorruptRunError, LeftOutWarning, NotFoundError, TracesError, UsageError
from warehouse.maintenance.remove import empty_trash, folders_of, locked_for_removal, remove_run, sweep_root
from warehouse.storage import paths, run_list
from warehouse.storage.files import delete, delete_stale_temporaries, temporary_beside
from warehouse.storage.journal import Journal
from warehouse.storage.manifest import Manifest
from warehouse.storage.parquet import to_table, write_table_file
from warehouse.validation.validate import validate
from warehouse.vectors import index_spec, ingest, repair
from warehouse.vectors.reconcile import reconcile
from warehouse.vectors.table_cache import all_tables

NO_NAMES = ["", ".", "..", "/etc", "a/../../b", "../a", "a/b", "\0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with rows in a vector table."""
    root = tmp_path_factory.mktemp("made") / "runs"
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float16)
    for run in ("one", "two"):
        synthetic.add_vectors(root, run, {1: vectors}, [8, 12])
        ingest.add(root, run, index_spec.parse("resid.post_mlp@1"))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the two runs with its own catalog, and a file beside it that must survive."""
    root = tmp_path / "runs"
    shutil.copytree(made, root)
    build.refresh(root)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "keep").write_text("as it was")
    return root


def rows(root: Path) -> list[tuple[str, int]]:
    with Warehouse(root) as wh:
        return wh.sql("SELECT run_id, count(*) FROM tokens GROUP BY 1 ORDER BY 1").fetchall()


# -- names of runs -----------------------------------------------------------------------------------------------------


def test_text_that_is_not_a_name_leads_nowhere(root: Path) -> None:
    calls: list[Callable[[str], object]] = [
        lambda name: run_list.find_run(root, name),
        lambda name: folders_of(root, name),
        lambda name: remove_run(root, name),
        lambda name: paths.staging_dir(root, name),
        lambda name: paths.merged_path(root, name),
        lambda name: locked_for_removal(root, name).__enter__(),
    ]
    before = sorted(p for p in root.parent.rglob("*"))
    for name, call in itertools.product(NO_NAMES, calls):
        with pytest.raises(UsageError, match="is not the name of a run"):
            call(name)
    assert sorted(p for p in root.parent.rglob("*")) == before, "nothing deleted, and no lock left anywhere"


@pytest.mark.parametrize(
    "name", ["null", "NULL", "true", "123", "1_000", "1.5", "1e5", "12d", "nan", "2026-11-26", "2026-11"]
)
def test_a_name_that_tools_read_as_a_value_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"Add a word, as in run-{name}"):
        paths.check_run_name(name)
    assert paths.check_run_name(f"run-{name}") and paths.check_run_name(f"{name}-wikitext")


@pytest.mark.parametrize(
    "name", ["a=b", "what?", "%20", "null", "x y", "it's", 'q"', "[ab]*", "back\\slash", "new\nline", "run_id=x"]
)
def test_a_run_is_called_as_its_folder_is(root: Path, name: str) -> None:
    paths.run_dir(root, "one").rename(paths.run_dir(root, name))
    assert rows(root) == sorted([(name, 20), ("two", 20)])
    with Warehouse(root) as wh:
        assert wh.connection.execute("SELECT count(*) FROM runs WHERE run_id = ?", [name]).fetchone() == (1,)
        assert wh.connection.execute("SELECT count(*) FROM token_diagnostics WHERE run_id = ?", [name]).fetchone() == (
            20,
        )
    assert TraceStore(run_list.find_run(root, name)).query("SELECT DISTINCT run_id FROM tokens").fetchall() == [(name,)]
    with locked_for_removal(root, name):
        remove_run(root, name)
    assert rows(root) == [("two", 20)]


@pytest.mark.parametrize(
    "place", ["key=value", "null=", "run_id=outer", "q?x", "back\\slash", "b\\s/[z]*", "a%20b", "it's"]
)
def test_a_root_may_lie_anywhere(root: Path, place: str) -> None:
    moved = root.parent / place / "runs"
    moved.parent.mkdir(parents=True)
    root.rename(moved)
    assert rows(moved) == [("one", 20), ("two", 20)]
    store = Warehouse(moved).run("one")
    assert [c.name for c in validate(store.path) if c.passed is False and c.name != "data"] == []
    with Warehouse(moved) as wh:
        wh.load_vectors()
        assert wh.sql("SELECT count(*) FROM vectors_made_resid_post_mlp_L01").fetchone() == (40,)
        assert len(wh.nearest(np.ones(8), layer=1, k=3)) == 3


def test_a_link_goes_and_what_it_leads_to_stays(root: Path) -> None:
    elsewhere = paths.run_dir(root, "one").rename(root.parent / "elsewhere")
    paths.run_dir(root, "one").symlink_to(elsewhere)
    paths.run_dir(root, "nowhere").symlink_to(root.parent / "not there")
    assert rows(root) == [("one", 20), ("two", 20)]
    for name in ("one", "nowhere"):
        with locked_for_removal(root, name):
            remove_run(root, name)
    assert rows(root) == [("two", 20)] and (elsewhere / paths.MANIFEST).is_file()
    assert [list(t.info.runs) for t in all_tables(root)] == [["two"]]


# -- vector tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "../../victim", "runs": {}},
        {"model": "../../victim"},
        {"layer": 7},
        {"site": "x/../../../victim"},
        {"sql_name": "x\n.system touch ran\n"},
        {"sql_name": "x AS SELECT 1; COPY (SELECT 1) TO 'ran'; --"},
        {"width": 10**12},
        {"runs": {"../../victim": {"manifest": "", "rows": 1}}},
    ],
)
def test_an_info_speaks_of_its_own_table_or_is_left_out(
    root: Path, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    info = paths.vector_info_path(root, "made", "resid.post_mlp.L01")
    synthetic.alter(info, lambda told: told.update(fields))
    with (
        pytest.warns(LeftOutWarning) if "runs" not in fields or "model" in fields else nullcontext(),
        Warehouse(root) as wh,
    ):
        wh.load_vectors()
        first = _vectors_first(wh)
    duck = [Path(sys.executable).with_name("duckdb"), "-unsigned"]  # or it sums up all of the Lance extension
    subprocess.run(
        [*duck, "-readonly", root / paths.CATALOG, *first, "-c", "SELECT 1"], check=True, capture_output=True
    )
    reconcile(root)
    assert sorted(p.name for p in root.parent.iterdir()) == ["runs", "victim"]
    assert [p.name for p in (root.parent / "victim").iterdir()] == ["keep"]


def test_a_link_in_the_place_of_a_table_is_not_written_through(root: Path) -> None:
    path = paths.vector_lance_path(root, "made", "resid.post_mlp.L01")
    outside = path.rename(root.parent / "victim" / "table.lance")
    path.symlink_to(outside)
    before = sorted((p, p.stat().st_mtime_ns) for p in outside.rglob("*"))
    with pytest.raises(TracesError, match="is a symbolic link"):
        ingest.add(root, "two", index_spec.parse("resid.post_mlp@1"))
    with locked_for_removal(root, "one"):
        remove_run(root, "one")
    assert sorted((p, p.stat().st_mtime_ns) for p in outside.rglob("*")) == before


@pytest.mark.parametrize("inside", ["data", "_versions", "_transactions"])
def test_lance_writes_and_deletes_through_no_link(root: Path, inside: str) -> None:
    folder = paths.vector_lance_path(root, "made", "resid.post_mlp.L01") / inside
    outside = folder.rename(root.parent / "victim" / inside)
    (outside / "keep.lance").write_text("as it was")
    folder.symlink_to(outside)
    before = sorted((p, p.stat().st_mtime_ns) for p in outside.iterdir())
    with pytest.raises(TracesError, match="is a symbolic link, whose target the warehouse may not change"):
        ingest.add(root, "two", index_spec.parse("resid.post_mlp@1"))
    with locked_for_removal(root, "one"):
        remove_run(root, "one")
    repair.repair(root, lambda *_: None, lambda _: None)
    assert sorted((p, p.stat().st_mtime_ns) for p in outside.iterdir()) == before
    assert [list(t.info.runs) for t in all_tables(root)] == [["two"]]


@pytest.mark.parametrize(
    "place",
    [
        "run_id=one/run.json", "run_id=one/tokens/00000.parquet", "run_id=one/tokens/00001.parquet",
        "run_id=one/blobs/00000.safetensors", ".staging/one/journal.jsonl", "vectors/made/model.json",
        "vectors/made/resid.post_mlp.L01.info.json", "vectors/made/resid.post_mlp.L01.files.json",
        "vectors/made/resid.post_mlp.L01.lance/_versions/pipe.manifest",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::warehouse.errors.LeftOutWarning")
def test_nobody_waits_for_a_named_pipe(root: Path, place: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).unlink(missing_ok=True)
    os.mkfifo(root / place)
    reconcile(root)
    assert ("two", 20) in rows(root)
    with nullcontext() if place.startswith(("vectors", ".staging")) else pytest.raises((TracesError, AssertionError)):
        assert {c.name for c in validate(paths.run_dir(root, "one")) if c.passed is False} <= {"data", "vector tables"}
    if place.startswith(".staging"):
        with pytest.raises(CorruptRunError, match="it is not a file"):
            Journal(root / place)


# -- manifests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m["sites"][0].update(site="x') AS t; DROP VIEW tokens; --"), "sites.0.site"),
        (lambda m: m["files"][0].update(path="../../victim/keep"), "files.0.path"),
        (lambda m: m["files"][0].update(path="blobs/../../../victim/keep"), "files.0.path"),
        (lambda m: m["counts"]["rows"].update({"../../victim": 1}), "counts.rows"),
        (lambda m: m["model"].update(n_layers=10**12), "model.n_layers"),
        (lambda m: m.update(bytes=10**30), "bytes"),
        (lambda m: m.update(options={"index": 3}), "options"),
        (lambda m: m.update(options={"shard": "1/x"}), "options"),
        (lambda m: m.update(created_at="yesterday"), "created_at"),
        (lambda m: m["model"].update(attention=[None]), "model: attention has 1 layers of 4"),
        (lambda m: m["model"].update(attention=[{"scale": 1, "window": 0}] * 4), "model.attention.0.window"),
        (lambda m: m["sites"][0].update(layers=[4]), "resid.post_mlp is of layer 4; the model has 4"),
        (lambda m: m["sites"][0].update(side="enc"), "resid.post_mlp is of side enc"),
        (lambda m: m["sites"][0].update(row_shape=[2, 4]), "resid.post_mlp has rows of shape"),
        (lambda m: m["files"].append(m["files"][0]), "files lists .* twice"),
    ],
)
def test_what_a_manifest_may_say(root: Path, change: Callable[[dict], object], told: str) -> None:
    synthetic.alter(paths.run_dir(root, "one") / paths.MANIFEST, change)
    with pytest.raises(CorruptRunError, match=f"run.json is not what it should be: .*{told}"):
        Manifest.read(paths.run_dir(root, "one"))
    with pytest.warns(LeftOutWarning, match="run 'one' is left out"):
        assert rows(root) == [("two", 20)]


def test_any_altered_byte_of_a_manifest_is_noticed(root: Path) -> None:
    path = paths.run_dir(root, "one") / paths.MANIFEST
    raw = path.read_bytes()
    for at in range(0, len(raw), 29):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(TracesError):
            Manifest.read(path.parent)
    path.write_bytes(raw)
    assert Manifest.read(path.parent).run_id == "one"


def test_a_tensor_index_leads_to_no_file_but_the_runs_blobs(root: Path) -> None:
    store = TraceStore(paths.run_dir(root, "one"))
    for name in ("../../victim/keep", "run.json", "tokens/00000.parquet", "/etc/passwd", "blobs/99999.safetensors"):
        with pytest.raises(CorruptRunError, match="not a shard of this run"):
            store.blob(name)


@pytest.mark.parametrize("end", [-1, 13, 2**62])
def test_a_tensor_index_has_no_rows_that_a_shard_lacks(root: Path, end: int) -> None:
    folder = paths.run_dir(root, "one")
    path = folder / paths.table_file("tensors")
    index = pq.read_table(path, partitioning=None)
    at = index.schema.get_field_index("row_end")
    ends = index["row_end"].to_pylist()
    pq.write_table(
        index.set_column(at, index.schema.field(at), pa.array([*ends[:-1], end], index.schema.types[at])), path
    )
    synthetic.set_right(folder, path)
    with Warehouse(root) as wh:
        for call in (
            lambda: wh.matrix("SELECT run_id, example_id, seq, pos FROM tokens WHERE run_id = 'one'", layer=1),
            lambda: list(wh.batches(layer=1, where="run_id = 'one'")),
            lambda: (
                ingest.add(root, "one", index_spec.parse("resid.post_mlp@1"))
                or TraceStore(folder).resid("e0001", layer=1)
            ),
        ):
            with pytest.raises(CorruptRunError, match="which holds 12"):
                call()
    pq.write_table(index.slice(0, 0), path)
    synthetic.set_right(folder, path)
    with pytest.raises(CorruptRunError, match="has no rows of example e0001, seq 0"):
        TraceStore(folder).resid("e0001", layer=1)


def test_a_number_of_sequences_makes_no_list(root: Path) -> None:
    folder = paths.run_dir(root, "one")
    path = folder / paths.table_file("examples")
    row = {"example_id": "e", "n_seqs": 2**31 - 1}
    write_table_file(path, to_table("examples", synthetic.columns("examples", [row])))
    synthetic.set_right(folder, path)
    with pytest.raises(NotFoundError, match="No seq '-1'"):
        TraceStore(folder).check_sequence("e", -1)


# -- what processes leave ----------------------------------------------------------------------------------------------


def test_what_dead_processes_left_is_deleted_and_what_living_ones_write_is_not(root: Path) -> None:
    staging = root / paths.STAGING
    staging.mkdir(exist_ok=True)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True, text=True
    )
    left, living = temporary_beside(staging / "x"), temporary_beside(staging / "y")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{dead.stdout.strip()}-"))
    of_another_host = staging / ".z.00000000-1-0.tmp"
    for path in (left, living, of_another_host):
        path.mkdir()
        (path / "file").write_text("")
    paths.trash_dir(root).mkdir()
    (paths.trash_dir(root) / "half").mkdir()
    (paths.trash_dir(root) / "link").symlink_to(root.parent / "victim")
    assert len(sweep_root(root)) == 3
    assert sorted(p.name for p in staging.iterdir() if p.name.endswith(".tmp")) == sorted(
        [living.name, of_another_host.name]
    )
    assert (root.parent / "victim" / "keep").is_file() and empty_trash(root) == []
    os.utime(of_another_host, (0, 0))
    assert [p.name for p in delete_stale_temporaries(staging)] == [of_another_host.name]


def test_a_removal_that_was_killed_is_finished_by_the_next_refresh(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("warehouse.maintenance.remove.delete", killed)
    with pytest.raises(KeyboardInterrupt), locked_for_removal(root, "one"):
        remove_run(root, "one")
    monkeypatch.undo()
    assert len(sweep_root(root)) == 1 and reconcile(root) == ["one"]
    assert rows(root) == [("two", 20)] and not list(paths.trash_dir(root).iterdir())


def test_deleting_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "keep").write_text("")
    (tmp_path / "folder" / "below" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    for name in ("folder", "link", "not there"):
        delete(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["outside"] and (tmp_path / "outside" / "keep").is_file()


# -- damage ------------------------------------------------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * (path.stat().st_size // 256 + 1))


def _page(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    for at in range(4, len(raw) // 2):
        raw[at] ^= 0x5A
    path.write_bytes(raw)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "manifest is no JSON": lambda run: (run / "run.json").write_text("{"),
    "manifest is gone": lambda run: (run / "run.json").unlink(),
    "manifest is a folder": lambda run: ((run / "run.json").unlink(), (run / "run.json").mkdir()),
    "table is cut short": lambda run: os.truncate(run / "tokens/00000.parquet", 100),
    "table is garbage": lambda run: _garbage(run / "tokens/00000.parquet"),
    "table's pages are damaged": lambda run: _page(run / "tokens/00000.parquet"),
    "table is gone": lambda run: (run / "tokens/00000.parquet").unlink(),
    "another table's file": lambda run: (run / "tokens/00000.parquet").write_bytes(
        (run / "examples/00000.parquet").read_bytes()
    ),
    "a file too many": lambda run: (run / "tokens/00001.parquet").write_bytes(
        (run / "tokens/00000.parquet").read_bytes()
    ),
    "a newer version": lambda run: synthetic.alter(run / "run.json", lambda m: m.update(schema_version=99)),
}


QUESTION = "SELECT run_id, count(*), count(DISTINCT token), sum(pos) FROM tokens GROUP BY 1"
ANSWER = [("two", 20, 12, sum(range(8)) + sum(range(12)))]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_left_out_and_named(root: Path, damage: str) -> None:
    """The other runs still answer; repaired, the run is back."""
    folder = paths.run_dir(root, "one")
    kept = shutil.copytree(folder, root.parent / "kept")
    DAMAGE[damage](folder)
    with pytest.warns(LeftOutWarning, match="run 'one' is left out"), Warehouse(root, every_file=True) as wh:
        assert wh.attempt(lambda: wh.sql(QUESTION).fetchall()) == ANSWER
        assert wh.sql("SELECT run_id FROM damaged_runs").fetchall() == [("one",)]
        assert list(wh.damaged) == ["one"]
        assert wh.sql("SELECT run_id FROM runs").fetchall() == [("two",)]
        assert wh.sql("SELECT count(*) FROM token_diagnostics").fetchone() == (20,)
    with pytest.warns(LeftOutWarning, match="run 'one' is left out"):  # from the catalog, without looking again
        assert rows(root) == [("two", 20)]
    delete(folder)
    kept.rename(folder)
    assert rows(root) == [("one", 20), ("two", 20)]


@pytest.mark.parametrize("damage", ["table is cut short", "table is garbage", "table's pages are damaged"])
def test_damage_that_shows_in_the_middle_of_a_question(root: Path, damage: str) -> None:
    with Warehouse(root) as wh:
        DAMAGE[damage](paths.run_dir(root, "one"))
        with pytest.warns(LeftOutWarning, match="run 'one' is left out"):
            assert wh.attempt(lambda: wh.sql(QUESTION).fetchall()) == ANSWER


def test_an_error_of_the_question_damages_nothing(root: Path) -> None:
    with Warehouse(root) as wh:
        for question in (
            "SELECT error('parquet')",
            "SELECT 'x'::INTEGER",
            "SELEC",
            "FROM nothing",
            "SELECT read_text('/nowhere/parquet')",
        ):
            with pytest.raises(duckdb.Error):
                wh.attempt(lambda q=question: wh.sql(q).fetchall())
        assert wh.damaged == {}


# -- validation of vector tables ---------------------------------------------------------------------------------------


def test_one_altered_bit_of_any_file_of_a_vector_table_is_found(root: Path) -> None:
    table = paths.vector_lance_path(root, "made", "resid.post_mlp.L01")
    for path in sorted(p for p in table.rglob("*") if p.is_file()):
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 4]))
        failed = [c for c in validate(paths.run_dir(root, "one")) if c.passed is False and c.name != "data"]
        assert [c.name for c in failed] == ["vector tables"] and path.name in failed[0].detail, path
        path.write_bytes(raw)
    assert {c.name: c.passed for c in validate(paths.run_dir(root, "one"))}["vector tables"] is True


def test_rows_that_are_not_what_the_shards_hold_are_found(root: Path) -> None:
    (table,) = all_tables(root)
    with table.locked():
        table.lance.update(where="run_id = 'one' AND pos = 3 AND example_id = 'e0001'", values={"vector": [0.5] * 8})
        table.write_info()
    found = {c.name: c for c in validate(paths.run_dir(root, "one"))}["vector tables"]
    assert found.passed is False and "is not what run 'one' stored (example_id e0001, seq 0, pos 3)" in found.detail
    assert {c.name: c.passed for c in validate(paths.run_dir(root, "two"))}["vector tables"] is True


def test_a_run_of_many_shards_and_batches_of_rows_is_sound(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(9000, 4)).astype(np.float16)
    synthetic.add_vectors(tmp_path, "many", {1: vectors}, [9] * 1000, shards=7)
    ingest.add(tmp_path, "many", index_spec.parse("resid.post_mlp@1"))
    found = {c.name: c for c in validate(paths.run_dir(tmp_path, "many"))}["vector tables"]
    assert found.passed is True and "9,000 rows" in found.detail


def test_a_folder_that_names_no_run_is_left_out(root: Path) -> None:
    paths.run_dir(root, "one").rename(root / paths.RUN_PREFIX)
    with pytest.warns(LeftOutWarning, match="has no name of a run"):
        assert rows(root) == [("two", 20)]


@pytest.mark.parametrize("name", ["", ".locks", ".trash", "half"])
def test_nothing_is_staged_behind_a_link(root: Path, name: str) -> None:
    place = root / paths.STAGING / name
    delete(place)
    place.symlink_to(root.parent / "victim")
    with pytest.raises(UsageError, match="is a symbolic link"):
        synthetic.add_vectors(root, "half", {1: np.zeros((2, 4), np.float16)}, [2], shards=1)
        with locked_for_removal(root, "two"):
            remove_run(root, "two")
    assert rows(root)[-1] == ("two", 20)
    assert [p.name for p in (root.parent / "victim").iterdir()] == ["keep"]
