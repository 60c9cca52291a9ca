"""`traces runs merge`: which runs make one run, what is wrong with those that do not, and that a kill at any point can be repaired.

What a merged run holds is in tests/capture/jobs/test_shards.py.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import synthetic

from warehouse import TraceStore
from warehouse.errors import CorruptRunError, NotFoundError, RunExistsError, TracesError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.schema.tables import SCHEMA_VERSION, STORED
from warehouse.storage import paths, run_list
from warehouse.storage.files import folder_size
from warehouse.storage.manifest import Manifest
from warehouse.storage.paths import run_dir
from warehouse.storage.run_writer import RunWriter
from warehouse.validation.validate import validate
from warehouse.vectors.table_cache import all_tables

NAMES = ["w.shard-1-of-2", "w.shard-2-of-2"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable[..., TraceStore]) -> Path:
    """A warehouse with the two parts of a run. Read only."""
    root = tmp_path_factory.mktemp("parts") / "runs"
    for name, part in zip(NAMES, ("1/2", "2/2"), strict=True):
        capture_tiny(root, name, shard=part, capture="resid,heads", max_len=24, limit=7, index="resid.post_mlp@1")
    return root


@pytest.fixture
def root(parts: Path, tmp_path: Path) -> Path:
    """A copy of that warehouse, to be changed."""
    return shutil.copytree(parts, tmp_path / "runs")


def change(root: Path, run: str, **fields: Any) -> None:
    """Rewrite a run's manifest."""

    def set_fields(told: dict[str, Any]) -> None:
        for name, value in fields.items():
            place = told
            *groups, leaf = name.split("__")
            for group in groups:
                place = place[group]
            place[leaf] = value

    synthetic.alter(run_dir(root, run) / paths.MANIFEST, set_fields)


def plan(root: Path, run_id: str = "w") -> merge_plan.MergePlan:
    return merge_plan.plan_merge(root, merge_plan.find_parts(root, run_id), run_id)


def test_kept_parts_stay_and_share_their_blobs(root: Path) -> None:
    before = folder_size(root / "vectors")
    manifest = merge.merge(root, plan(root), keep=True)
    assert run_list.published_runs(root) == ["w", *NAMES]
    for name in NAMES:
        assert [c.name for c in validate(run_dir(root, name)) if c.passed is False] == []
    (blobs,) = [[run_dir(root, "w") / f.path for f in manifest.files if f.path.startswith("blobs")]]
    assert {b.stat().st_nlink for b in blobs} == {2}
    assert folder_size(root / "vectors") > before
    with pytest.raises(RunExistsError):
        plan(root)


def test_a_file_system_that_cannot_link_gets_copies(root: Path) -> None:
    """A part's folder may lie on another file system."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == root.stat().st_dev:
        pytest.skip("there is no other file system")
    away = other / f"traces-test-{os.getpid()}"
    try:
        shutil.move(run_dir(root, NAMES[0]), away)
        run_dir(root, NAMES[0]).symlink_to(away)
        merge.merge(root, plan(root), keep=True)
        assert [c.name for c in validate(run_dir(root, "w")) if c.passed is False] == []
        assert {b.stat().st_nlink for b in (away / "blobs").iterdir()} == {1}
    finally:
        shutil.rmtree(away)


def test_what_is_missing_or_unfinished_is_named(root: Path) -> None:
    with pytest.raises(NotFoundError, match=r"No run in parts 'v'\. There is: w\."):
        merge_plan.find_parts(root, "v")
    away = run_dir(root, NAMES[1]).rename(root / "away")
    with pytest.raises(UsageError, match=r"there is no run w\.shard-2-of-2\. Capture with --part 2/2"):
        merge_plan.find_parts(root, "w")
    with pytest.raises(UsageError, match="none of these runs is part 2/2"):
        merge_plan.plan_merge(root, NAMES[:1], "w")
    with RunWriter(root, NAMES[1], {"kind": "next-token"}):
        pass
    for ask in (lambda: merge_plan.find_parts(root, "w"), lambda: merge_plan.plan_merge(root, NAMES, "w")):
        with pytest.raises(UsageError, match=r"w\.shard-2-of-2 is unfinished: run its capture again"):
            ask()
    away.rename(run_dir(root, "w.shard-2-of-3"))
    with pytest.raises(UsageError, match="captured in 2 and in 3 parts"):
        merge_plan.find_parts(root, "w")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"options__max_len": 30}, r"they differ in options\.max_len \(24, 30\)"),
        ({"model__weights_hash": "other"}, r"model\.weights_hash \('\w+', 'other'\)"),
        ({"model__device": "cuda:1"}, r"model\.device \('cpu', 'cuda'\)"),
        ({"data__hash": "other"}, r"data\.hash \('\w+', 'other'\)"),
        ({"kind": "encode"}, r"kind \('next-token', 'encode'\)"),
        ({"sites": []}, "the tensors that are stored"),
        ({"schema_version": 4}, rf"schema_version \({SCHEMA_VERSION}, 4\)"),
        ({"versions__torch": "1.0"}, r"versions\.torch \('.*', '1\.0'\)"),
        ({"options__shard": "2/3"}, "one of 2 parts, .* one of 3"),
        ({"options__shard": "1/2"}, r"are the same part, 1/2: their examples overlap"),
        ({"options__shard": ""}, r"'w\.shard-2-of-2' is not a part of a run: it was not captured with --part"),
    ],
)
def test_runs_that_are_not_of_one_capture_are_refused_with_what_differs(
    root: Path, fields: dict[str, Any], said: str
) -> None:
    change(root, NAMES[1], **fields)
    with pytest.raises(UsageError, match=said):
        plan(root)


def test_examples_that_are_not_all_of_the_data(root: Path) -> None:
    for name in NAMES:
        change(root, name, data__hash="0" * 32)
    with pytest.raises(TracesError, match="some are missing or occur twice"):
        plan(root)


def test_an_altered_part_gets_no_new_checksums(root: Path) -> None:
    path = run_dir(root, NAMES[0]) / paths.table_file("tokens")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(
        CorruptRunError, match=r"tokens/00000\.parquet is missing or altered\. Copy w\.shard-1-of-2 in again"
    ):
        plan(root)


def _merge(root: str, n: int | None) -> None:
    """Merge in a process of its own, which is killed before its n-th call that changes the disk."""
    left = [n]

    def counted(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                    time.sleep(60)
            return function(*args, **kwargs)

        return call

    for name in ("link", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    again(Path(root))


def again(root: Path) -> None:
    """Do what the command does."""
    if merge.finish_merge(root, "w") is None:
        merge.merge(root, plan(root))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_many_points_it_can_be_repeated(parts: Path, tmp_path: Path) -> None:
    """There is never half a run, and no part goes before the whole is published; repeated, it ends as an undisturbed merge."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warehouse.maintenance.merge"])
    expected = shutil.copytree(parts, tmp_path / "undisturbed")
    again(expected)
    points, n, code = [], 1, -signal.SIGKILL
    while code == -signal.SIGKILL:
        root = shutil.copytree(parts, tmp_path / f"runs{n}")
        process = context.Process(target=_merge, args=(str(root), n))
        process.start()
        process.join(300)
        code = process.exitcode
        there = run_dir(root, "w").exists()
        points.append(there)
        assert there or run_list.published_runs(root) == NAMES
        if there:
            assert (run_dir(root, "w") / paths.MANIFEST).is_file()
        if run_list.published_runs(root) == ["w"] and not paths.merged_path(root, "w").exists():
            with pytest.raises(UsageError, match="there is nothing to merge"):  # all was done
                again(root)
        else:
            again(root)
        _check_as_undisturbed(root, expected)
        shutil.rmtree(root)
        n += 17
    assert code == 0 and len(points) > 4 and not points[0] and points.count(True) >= 3, points


def _check_as_undisturbed(root: Path, expected: Path) -> None:
    assert run_list.published_runs(root) == ["w"]
    assert paths.staged_runs(root) == []
    assert not paths.merged_path(root, "w").exists()
    assert not list(paths.trash_dir(root).glob("*"))
    one, other = (run_dir(r, "w") for r in (root, expected))
    for name in STORED:
        if (other / name).exists():
            assert pq.read_table(one / paths.table_file(name)).equals(pq.read_table(other / paths.table_file(name)))
    assert [b.read_bytes() for b in sorted((one / "blobs").iterdir())] == [
        b.read_bytes() for b in sorted((other / "blobs").iterdir())
    ]
    merged, undisturbed = (Manifest.read(r).model_dump(exclude={"created_at"}) for r in (one, other))
    assert merged == undisturbed  # but for when they were merged
    (table,) = all_tables(root)
    assert list(table.info.runs) == ["w"] and table.lance.count_rows() == table.info.rows


def test_a_part_captured_again_outlives_a_merge_that_is_taken_up_again(root: Path) -> None:
    """The merge is killed after it published the run; then the first part is deleted by hand and captured again."""
    merge.merge(root, plan(root), keep=True)
    left = merge.PendingCleanup(
        manifest=merge.manifest_hash(root, "w"), delete={n: merge.manifest_hash(root, n) for n in NAMES}
    )
    left.write_to(paths.merged_path(root, "w"))
    change(root, NAMES[0], seconds=1.5)
    assert merge.finish_merge(root, "w") is not None
    assert run_list.published_runs(root) == ["w", NAMES[0]]
    assert merge.finish_merge(root, "w") is None


def test_the_command(root: Path, traces: Callable) -> None:
    done = traces("runs", "merge", "w", "--dry-run", "-w", root)
    assert (
        done.code == 0
        and "would publish w: examples 7, tokens " in done.out
        and f"would delete {run_dir(root, NAMES[0])}" in done.out
    )
    assert run_list.published_runs(root) == NAMES
    done = traces("runs", "merge", *NAMES, "-w", root)
    assert done.code == 2 and "add --run NAME" in done.err
    done = traces("runs", "merge", *reversed(NAMES), "--run", "whole", "-w", root)
    assert done.code == 0, done.err
    assert run_list.published_runs(root) == ["whole"]
    assert Manifest.read(run_dir(root, "whole")).options["shard"] == ""
    done = traces("runs", "merge", "whole", "-w", root)
    assert done.code == 2 and "there is nothing to merge" in done.err
