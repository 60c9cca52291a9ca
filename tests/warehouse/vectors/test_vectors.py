"""Vector tables hold what the runs stored, each run once, and no run that does not exist."""

from __future__ import annotations

import json
import multiprocessing
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lancedb
import ml_dtypes
import numpy as np
import pytest
import synthetic

from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.maintenance.remove import locked_for_removal, remove_run
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.vectors import index_spec, ingest, repair
from warehouse.vectors.reconcile import reconcile
from warehouse.vectors.table import VectorTable
from warehouse.vectors.table_cache import all_tables

LENGTHS = [5, 1, 9, 4, 12, 7]
N = sum(LENGTHS)


def vectors(seed: int = 0, width: int = 8, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float16)


def table(root: Path, name: str = "made_resid_post_mlp_L01") -> VectorTable:
    return next(t for t in all_tables(root) if t.info.sql_name == name)


def contents(root: Path, name: str = "made_resid_post_mlp_L01") -> dict[tuple, np.ndarray]:
    """Return every row by its keys, as `lancedb` alone reads them."""
    t = table(root, name)
    rows = lancedb.connect(t.path.parent).open_table(t.info.name).to_arrow()
    x = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    names = ("run_id", "example_id", "seq", "pos", "layer", "head", "kv_head")
    keys = list(zip(*(rows[n].to_pylist() for n in names), strict=True))
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, x, strict=True))


def stored(store: TraceStore, key: Key, run: str) -> dict[tuple, np.ndarray]:
    """Return the same rows, read from the shards."""
    found = {}
    for s in store.slices(key):
        for pos, row in enumerate(store.rows(key, s.example_id, s.seq)):
            if row.ndim == 1:
                found[run, s.example_id, s.seq, pos, key.layer, None, None] = row
            else:
                for h, one in enumerate(row):
                    head, kv = (None, h) if key.site in ("k", "v") else (h, None)
                    found[run, s.example_id, s.seq, pos, key.layer, head, kv] = one
    return found


def equal(a: dict[tuple, np.ndarray], b: dict[tuple, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def add(root: Path, run: str, text: str = "resid.post_mlp@1", **settings: object) -> list[ingest.IngestResult]:
    return ingest.add(root, run, index_spec.parse(text), ingest.Settings(**settings))


def test_a_table_holds_what_the_runs_stored_bit_by_bit_and_each_once(tmp_path: Path) -> None:
    one = synthetic.add_vectors(tmp_path, "one", {1: vectors(), 2: vectors(1)}, LENGTHS)
    two = synthetic.add_vectors(tmp_path, "two", {1: vectors(2)}, LENGTHS)
    assert [(f.rows, f.new) for f in add(tmp_path, "one")] == [(N, True)]
    assert [(f.rows, f.new) for f in add(tmp_path, "one", "resid.post_mlp@1,2")] == [(N, False), (N, True)]
    add(tmp_path, "two")
    key = Key("dec", "resid.post_mlp", 1)
    equal(contents(tmp_path), stored(one, key, "one") | stored(two, key, "two"))
    equal(contents(tmp_path, "made_resid_post_mlp_L02"), stored(one, key._replace(layer=2), "one"))


def test_captures_tables_hold_every_head_of_q_k_and_v(tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(paths.run_dir(tiny_root, "llama"), paths.run_dir(root, "llama"))
    store = TraceStore(paths.run_dir(root, "llama"))
    ingest.add(root, "llama", index_spec.parse("q@1 k@1 resid.embed hidden resid.post_mlp@all"))
    names = {t.info.name: t for t in all_tables(root)}
    assert sorted(names) == [
        "hidden.L03",
        "k.L01",
        "q.L01",
        "resid.embed",
        *(f"resid.post_mlp.L0{i}" for i in range(3)),
    ]
    for name, t in names.items():
        equal(contents(root, t.info.sql_name), stored(store, sites.key_of(name), "llama"))


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_pieces_of_any_size_make_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    x = vectors()
    monkeypatch.setattr(ingest, "_BATCH_BYTES", piece * 16)
    store = synthetic.add_vectors(tmp_path, "one", {1: x}, LENGTHS)
    add(tmp_path, "one")
    equal(contents(tmp_path), stored(store, Key("dec", "resid.post_mlp", 1), "one"))


def test_values_beyond_float16_make_the_table_float32(tmp_path: Path) -> None:
    x = vectors(1).astype(np.float32)
    synthetic.add_vectors(tmp_path, "small", {1: vectors()}, LENGTHS)
    add(tmp_path, "small")
    assert table(tmp_path).info.dtype == "float16"
    x[3, 2] = 2e5
    large = synthetic.add_vectors(tmp_path, "large", {1: x}, LENGTHS)
    add(tmp_path, "large")
    assert table(tmp_path).info.dtype == "float32"
    found = contents(tmp_path)
    assert len(found) == 2 * N and max(v.max() for v in found.values()) == 2e5
    key = Key("dec", "resid.post_mlp", 1)
    equal({k: v for k, v in found.items() if k[0] == "large"}, stored(large, key, "large"))
    mixed = synthetic.add_vectors(tmp_path, "bf16", {1: x.astype(ml_dtypes.bfloat16)}, LENGTHS)
    add(tmp_path, "bf16")
    rows = {k: v for k, v in contents(tmp_path).items() if k[0] == "bf16"}
    equal(rows, {k: v.astype(np.float32) for k, v in stored(mixed, key, "bf16").items()})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_not_finite_is_refused_and_nothing_of_the_run_is_seen(tmp_path: Path, bad: float, dtype: type) -> None:
    x = vectors().astype(dtype)
    x[N - 2, 3] = bad
    synthetic.add_vectors(tmp_path, "sound", {1: vectors(1)}, LENGTHS)
    synthetic.add_vectors(tmp_path, "bad", {1: x}, LENGTHS)
    add(tmp_path, "sound")
    with pytest.raises(UsageError, match="'bad' has values in resid.post_mlp.L01 that are not finite"):
        add(tmp_path, "bad")
    assert {k[0] for k in contents(tmp_path)} == {"sound"} and set(table(tmp_path).info.runs) == {"sound"}
    shutil.rmtree(paths.vectors_dir(tmp_path))
    with pytest.raises(UsageError, match="not finite"):
        add(tmp_path, "bad")
    assert all_tables(tmp_path) == []


def test_other_weights_are_another_space_whatever_they_are_called(tmp_path: Path) -> None:
    synthetic.add_vectors(tmp_path, "one", {1: vectors()}, LENGTHS, body="aaaaaaaa")
    synthetic.add_vectors(tmp_path, "tuned", {1: vectors(1)}, LENGTHS, body="bbbbbbbb")
    synthetic.add_vectors(tmp_path, "same", {1: vectors(2)}, LENGTHS, body="aaaaaaaa", model="elsewhere/other-name")
    for run in ("one", "tuned", "same"):
        add(tmp_path, run)
    held = {t.info.model: set(t.info.runs) for t in all_tables(tmp_path)}
    assert held == {"made": {"one", "same"}, "made_bbbbbb": {"tuned"}}
    with Warehouse(tmp_path) as wh:
        with pytest.raises(UsageError, match="more than one model: made, made_bbbbbb"):
            wh.nearest(vectors()[0], layer=1)
        for name in ("made", "elsewhere/other-name"):
            runs = {
                r[1]
                for r in wh.nearest(
                    vectors()[0], layer=1, k=100, model=name if name != "made" else "made_bbbbbb"
                ).fetchall()
            }
            assert runs == ({"one", "same"} if name != "made" else {"tuned"})
        with pytest.raises(UsageError, match="has had different weights"):
            wh.nearest(vectors()[0], layer=1, model="Made" if False else "made_x" if False else _ambiguous(tmp_path))


def _ambiguous(root: Path) -> str:
    """A name that two folders' models were captured under."""
    synthetic.add_vectors(root, "a1", {1: vectors()}, LENGTHS, body="cccccccc", model="org/m")
    synthetic.add_vectors(root, "a2", {1: vectors()}, LENGTHS, body="dddddddd", model="org/m")
    add(root, "a1")
    add(root, "a2")
    return "org/m"


def test_deleting_a_run_deletes_its_rows_and_an_empty_table(tmp_path: Path) -> None:
    for seed, run in enumerate(("one", "two")):
        synthetic.add_vectors(tmp_path, run, {1: vectors(seed), 2: vectors(seed)}, LENGTHS)
        add(tmp_path, run, "resid.post_mlp@1,2")
    with locked_for_removal(tmp_path, "one"):
        remove_run(tmp_path, "one")
    assert {k[0] for k in contents(tmp_path)} == {"two"}
    with locked_for_removal(tmp_path, "two"):
        remove_run(tmp_path, "two")
    assert all_tables(tmp_path) == [] and not any(paths.vectors_dir(tmp_path).iterdir())


def test_a_run_deleted_or_replaced_by_hand_is_not_found_any_more(tmp_path: Path) -> None:
    for seed, run in enumerate(("one", "two")):
        synthetic.add_vectors(tmp_path, run, {1: vectors(seed)}, LENGTHS)
        add(tmp_path, run)
    with Warehouse(tmp_path) as wh:
        assert len(wh.nearest(vectors()[0], layer=1, k=500)) == 2 * N
        shutil.rmtree(paths.run_dir(tmp_path, "one"))
        assert {r[1] for r in wh.nearest(vectors()[0], layer=1, k=500).fetchall()} == {"two"}
        synthetic.add_vectors(tmp_path, "one", {1: vectors(7)}, LENGTHS[:2])  # another, under its name
        assert {r[1] for r in wh.nearest(vectors()[0], layer=1, k=500).fetchall()} == {"two"}
    assert add(tmp_path, "one")[0].rows == sum(LENGTHS[:2])
    assert sum(k[0] == "one" for k in contents(tmp_path)) == sum(LENGTHS[:2])
    shutil.rmtree(paths.run_dir(tmp_path, "one"))
    assert reconcile(tmp_path) == ["one"] and {k[0] for k in contents(tmp_path)} == {"two"}


def test_rows_that_a_killed_process_committed_and_did_not_list_are_not_doubled(tmp_path: Path) -> None:
    synthetic.add_vectors(tmp_path, "one", {1: vectors()}, LENGTHS)
    synthetic.add_vectors(tmp_path, "two", {1: vectors(1)}, LENGTHS)
    add(tmp_path, "one")
    info = paths.vector_info_path(tmp_path, "made", "resid.post_mlp.L01")
    before = info.read_bytes()
    add(tmp_path, "two")
    info.write_bytes(before)
    with Warehouse(tmp_path) as wh:  # until it is noted it is not seen
        assert {r[1] for r in wh.nearest(vectors()[0], layer=1, k=500).fetchall()} == {"one"}
    assert add(tmp_path, "two")[0].new
    assert len(contents(tmp_path)) == 2 * N
    info.write_bytes(before)
    with locked_for_removal(tmp_path, "two"):
        remove_run(tmp_path, "two")
    assert {k[0] for k in contents(tmp_path)} == {"one"}


def test_a_folder_that_has_lost_its_model_is_not_given_another(tmp_path: Path) -> None:
    synthetic.add_vectors(tmp_path, "one", {1: vectors()}, LENGTHS)
    synthetic.add_vectors(tmp_path, "tuned", {1: vectors(1)}, LENGTHS, body="bbbbbbbb")
    add(tmp_path, "one")
    paths.vector_model_path(tmp_path, "made").unlink()
    add(tmp_path, "tuned")
    assert {t.info.model: set(t.info.runs) for t in all_tables(tmp_path)} == {"made": {"one"}, "made_bbbbbb": {"tuned"}}
    paths.vector_model_path(tmp_path, "made").write_text('{"names": ["made"], "space": "bbbbbbbb"}')
    shutil.rmtree(paths.vectors_dir(tmp_path) / "made_bbbbbb")
    with pytest.raises(UsageError, match="of a model with other weights"):
        add(tmp_path, "tuned")


def test_one_damaged_table_does_not_keep_others_from_being_used(tmp_path: Path) -> None:
    for seed, run in enumerate(("one", "two")):
        synthetic.add_vectors(tmp_path, run, {1: vectors(seed), 2: vectors(seed)}, LENGTHS)
        add(tmp_path, run, "resid.post_mlp@1,2")
    _damage_info(tmp_path)
    said: list[str] = []
    with Warehouse(tmp_path) as wh:
        assert len(wh.nearest(vectors()[0], layer=2, k=5)) == 5
        with pytest.raises(TracesError, match="is not valid JSON.* traces index rebuild"):
            wh.nearest(vectors()[0], layer=1, k=5)
    with locked_for_removal(tmp_path, "two"):
        remove_run(tmp_path, "two")
    _lose_files(tmp_path, "resid.post_mlp.L02")
    assert reconcile(tmp_path, said.append) == [] and "cannot be read" in said[0]
    repair.repair(tmp_path, ingest._quiet, ingest._quiet)
    for name in ("made_resid_post_mlp_L01", "made_resid_post_mlp_L02"):
        assert {k[0] for k in contents(tmp_path, name)} == {"one"}


def _lose_files(root: Path, name: str) -> None:
    shutil.rmtree(paths.vector_lance_path(root, "made", name))


def _damage_info(root: Path) -> None:
    paths.vector_info_path(root, "made", "resid.post_mlp.L01").write_text('{"model": ')


def _lose_info(root: Path) -> None:
    paths.vector_info_path(root, "made", "resid.post_mlp.L01").unlink()


def _lose_lance(root: Path) -> None:
    shutil.rmtree(paths.vector_lance_path(root, "made", "resid.post_mlp.L01"))


def _damage_lance(root: Path) -> None:
    for path in paths.vector_lance_path(root, "made", "resid.post_mlp.L01").rglob("*.manifest"):
        path.write_bytes(b"no manifest")


def _damage_all(root: Path) -> None:
    _damage_info(root)
    _damage_lance(root)
    paths.vector_model_path(root, "made").write_text("[]")


@pytest.mark.parametrize("damage", [_damage_info, _lose_info, _lose_lance, _damage_lance, _damage_all])
def test_rebuild_gets_back_to_a_good_state_from_any(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for seed, run in enumerate(("one", "two")):
        synthetic.add_vectors(tmp_path, run, {1: vectors(seed)}, LENGTHS)
        add(tmp_path, run)
    expected = contents(tmp_path)
    damage(tmp_path)
    if damage is not _lose_info:
        with Warehouse(tmp_path) as wh, pytest.raises(TracesError, match="traces index rebuild"):
            wh.nearest(vectors()[0], layer=1)
    repair.repair(tmp_path, ingest._quiet, ingest._quiet)
    for t in all_tables(tmp_path):
        ingest.rebuild(tmp_path, t, ingest.Settings())
    equal(contents(tmp_path), expected)
    with Warehouse(tmp_path) as wh:
        assert len(wh.nearest(vectors()[0], layer=1, k=500)) == 2 * N


def test_a_newer_table_is_refused(tmp_path: Path) -> None:
    synthetic.add_vectors(tmp_path, "one", {1: vectors()}, LENGTHS)
    add(tmp_path, "one")
    path = paths.vector_info_path(tmp_path, "made", "resid.post_mlp.L01")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with Warehouse(tmp_path) as wh, pytest.raises(TracesError, match="schema version 99"):
        wh.nearest(vectors()[0], layer=1)


_FILL = """
import os, signal, sys
from pathlib import Path
import warehouse.vectors.ingest as fill
from warehouse.vectors import index_spec
import warehouse.vectors.ann_index as index
from warehouse.vectors.table import VectorTable
root, place = Path(sys.argv[1]), sys.argv[2]
index.MIN_ROWS = 300
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
if place == "rows":
    fill._BATCH_BYTES = 16 * 100
    count = [0]
    def report(name, n):
        count[0] += 1
        if count[0] == 2: die()
else:
    report = fill._quiet
if place == "committed": VectorTable.write_info = die
if place == "training": index._train = die
if place == "trained": index.measure = die
fill.add(root, "two", index_spec.parse("resid.post_mlp@1,2"), report=report)
"""


@pytest.mark.parametrize(
    "place", ["rows", *(pytest.param(p, marks=pytest.mark.slow) for p in ("committed", "training", "trained"))]
)
def test_a_killed_fill_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("warehouse.vectors.ann_index.MIN_ROWS", 300)
    lengths = [20] * 10
    many = {layer: vectors(layer, 8, 200) for layer in (1, 2)}
    for run in ("one", "two"):
        synthetic.add_vectors(tmp_path, run, many, lengths)
    ingest.add(tmp_path, "one", index_spec.parse("resid.post_mlp@1,2"))
    done = subprocess.run([sys.executable, "-c", _FILL, str(tmp_path), place], capture_output=True, timeout=120)
    assert done.returncode == -9, done
    with Warehouse(tmp_path) as wh:  # in the meantime: all of a run or nothing of it
        found = [r[1] for r in wh.nearest(many[1][3], layer=1, k=1000).fetchall()]
        assert found.count("one") == 200 and found.count("two") in (0, 200)
    filled = ingest.add(tmp_path, "two", index_spec.parse("resid.post_mlp@1,2"))
    assert [f.rows for f in filled] == [200, 200]
    assert all(t.info.index is not None for t in all_tables(tmp_path))
    for layer in (1, 2):
        name = f"made_resid_post_mlp_L0{layer}"
        assert len(contents(tmp_path, name)) == 400
        key = Key("dec", "resid.post_mlp", layer)
        equal(contents(tmp_path, name), {k: v for r in ("one", "two") for k, v in
              stored(TraceStore(paths.run_dir(tmp_path, r)), key, r).items()})  # fmt: skip
    for t in all_tables(tmp_path):
        ingest.rebuild(tmp_path, t, ingest.Settings())
        assert t.info.index is not None and t.info.index.recall > 0.9


def _add_in_process(root: str, run: str) -> None:
    ingest.add(Path(root), run, index_spec.parse("resid.post_mlp@1"))


@pytest.mark.slow
def test_several_processes_fill_one_table_at_once(tmp_path: Path) -> None:
    runs = [f"r{i}" for i in range(4)]
    for seed, run in enumerate(runs):
        synthetic.add_vectors(tmp_path, run, {1: vectors(seed)}, LENGTHS)
    context = multiprocessing.get_context("spawn")
    working = [context.Process(target=_add_in_process, args=(str(tmp_path), run)) for run in runs]
    for p in working:
        p.start()
    for p in working:
        p.join(120)
    assert [p.exitcode for p in working] == [0] * 4
    assert sorted(table(tmp_path).info.runs) == runs and len(contents(tmp_path)) == 4 * N


def test_a_process_that_waits_says_why_and_readers_do_not_wait(tmp_path: Path) -> None:
    for seed, run in enumerate(("one", "two")):
        synthetic.add_vectors(tmp_path, run, {1: vectors(seed)}, LENGTHS)
    add(tmp_path, "one")
    said: queue.Queue[str] = queue.Queue()
    with table(tmp_path).locked():
        waiting = threading.Thread(
            target=ingest.add, args=(tmp_path, "two", index_spec.parse("resid.post_mlp@1")), kwargs={"note": said.put}
        )
        waiting.start()
        with Warehouse(tmp_path) as wh:
            assert len(wh.nearest(vectors()[0], layer=1, k=100)) == N
        assert "another process is filling or optimising made/resid.post_mlp.L01" in said.get(timeout=60)
        assert waiting.is_alive()
    waiting.join(60)
    assert len(contents(tmp_path)) == 2 * N


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("resid.post_mpl@1", NotFoundError, "Did you mean resid.post_mlp"),
        ("resid.pre_attn@1", UsageError, "layer L of it is resid.post_mlp of layer L-1"),
        ("attn@1", UsageError, "as long as its text"),
        ("resid.post_mlp@x", UsageError, "write layers after @"),
        ("resid.post_mlp@7", UsageError, "resid.post_mlp is not stored in layer 7, but in 1, 2"),
        ("q@1", UsageError, "q is not stored. Stored, and can be indexed: resid.post_mlp"),
        ("enc.resid.post_mlp@1", UsageError, "not stored"),
    ],
)
def test_what_cannot_be_indexed_is_said(tmp_path: Path, text: str, error: type, words: str) -> None:
    synthetic.add_vectors(tmp_path, "one", {1: vectors(), 2: vectors()}, LENGTHS)
    with pytest.raises(error, match=words):
        add(tmp_path, "one", text)
    assert all_tables(tmp_path) == []


def test_a_table_is_not_given_other_settings_by_the_way(tmp_path: Path) -> None:
    for seed, run in enumerate(("one", "two")):
        synthetic.add_vectors(tmp_path, run, {1: vectors(seed)}, LENGTHS)
    add(tmp_path, "one", centred=True)
    with pytest.raises(UsageError, match="exists with centred True. To change it: traces index rebuild made_resid"):
        add(tmp_path, "two", centred=False)
    add(tmp_path, "two")
    t = table(tmp_path)
    centre = np.median(vectors().astype(np.float32), axis=0)
    np.testing.assert_array_equal(t.centre, centre)  # of what was there when the table was made
    found = contents(tmp_path)
    expected = (vectors(1).astype(np.float32)[0] - centre).astype(np.float16)
    np.testing.assert_array_equal(found["two", "e0000", 0, 0, 1, None, None], expected)
    ingest.rebuild(tmp_path, t, ingest.Settings(centred=False))
    np.testing.assert_array_equal(contents(tmp_path)["two", "e0000", 0, 0, 1, None, None], vectors(1)[0])


def test_the_view_vector_tables_lists_all_tables(tmp_path: Path) -> None:
    synthetic.add_vectors(tmp_path, "one", {1: vectors(), 2: vectors()}, LENGTHS)
    with Warehouse(tmp_path) as wh:
        assert wh.sql("FROM vector_tables").fetchall() == []
    add(tmp_path, "one", "resid.post_mlp@1,2")
    with Warehouse(tmp_path) as wh:
        rows = wh.sql(
            "SELECT name, layer, rows, runs, width, metric, search FROM vector_tables ORDER BY layer"
        ).fetchall()
    assert rows == [(f"made_resid_post_mlp_L0{i}", i, N, ["one"], 8, "cosine", "exact") for i in (1, 2)]
