"""Tensors go, rows stay: the run is sound before, after, and wherever its deletion was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from capture.influences import options as influence_options
from capture.logit_lens import options as lens_options
from warehouse import TraceStore, Warehouse
from warehouse.analysis.derive_heads import derive_heads
from warehouse.errors import NotFoundError, UsageError
from warehouse.maintenance import expire
from warehouse.schema.tables import STORED
from warehouse.storage import files, paths
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate
from warehouse.vectors.table_cache import all_tables

NOW = timedelta(0)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable[..., TraceStore]) -> Path:
    root = tmp_path_factory.mktemp("expire") / "runs"
    for run in ("old", "older"):
        capture_tiny(root, run, max_len=24, index="resid.post_mlp@1", capture="hidden,qkv,attn")
    return root


@pytest.fixture
def root(captured: Path, tmp_path: Path) -> Path:
    return shutil.copytree(captured, tmp_path / "runs")


def check_expired(root: Path, captured: Path, run: str = "old") -> None:
    """All rows but the tensor index are there, nothing else is, and the run is sound."""
    store, before = TraceStore(run_dir(root, run)), TraceStore(run_dir(captured, run))
    assert not any((store.path / name).exists() for name in ("blobs", "tensors"))
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    assert "its tensors were deleted on" in next(c.detail for c in validate(store.path) if c.name == "shapes")
    assert store.meta.bytes == sum(p.stat().st_size for p in store.path.rglob("*.parquet")) < before.meta.bytes / 2
    assert manifest_hash(root, run) == manifest_hash(captured, run)  # what was made from it knows it still
    with Warehouse(root) as wh, Warehouse(captured) as whole:
        for name in STORED:
            rows = f"SELECT * FROM {name} WHERE run_id = '{run}' ORDER BY ALL"
            assert wh.sql(rows).fetchall() == ([] if name == "tensors" else whole.sql(rows).fetchall()), name
        assert wh.sql("SELECT run_id FROM runs WHERE expired_at IS NOT NULL").fetchall() == [(run,)]
    assert not any(run in t.info.runs for t in all_tables(root))


def test_rows_stay_and_a_reader_of_tensors_is_not_disturbed(root: Path, captured: Path) -> None:
    reader, before = TraceStore(run_dir(root, "old")), TraceStore(run_dir(captured, "old"))
    example = reader.tokens.example_id[0]
    reader.resid(example, "post_mlp", 0)
    assert expire.find_expiring(root, ["ol?"], NOW).keys() == {"old"}
    expire.expire_tensors(root, ["old"])
    assert np.array_equal(reader.attn(example), before.attn(example))
    check_expired(root, captured)
    expired = TraceStore(run_dir(root, "old"))
    for use in (
        lambda: expired.hidden(example, 1),
        lambda: lens_options.choose_layers(expired, lens_options.Options()),
        lambda: influence_options.check_run(expired),
        lambda: derive_heads(run_dir(root, "old"), root=root, run_id="heads"),
    ):
        with pytest.raises(
            UsageError, match=r"The tensors of run 'old' were deleted on \d{4}-\d\d-\d\d \(traces runs expire\)"
        ):
            use()
    assert [c.name for c in validate(run_dir(root, "older")) if c.passed is False] == []
    assert [t.info.runs.keys() for t in all_tables(root)] == [{"older"}]
    assert expire.find_expiring(root, [], NOW).keys() == {"older"}
    assert expire.find_expiring(root, [], timedelta(days=1)) == {}


@pytest.mark.parametrize("place", ["before the manifest", "refresh", "remove_run_rows", "delete", "second delete"])
def test_stopped_anywhere_nothing_is_lost_and_the_next_call_finishes(
    place: str, root: Path, captured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def stop(*args: object) -> None:
        calls.append(place)
        if place == "second delete" and len(calls) == 1:
            files.delete(args[0])  # type: ignore[arg-type]
            return
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if place == "before the manifest":
            patch.setattr(Manifest, "write", stop)
        elif place == "refresh":
            patch.setattr(expire.build, "refresh", stop)
        else:
            patch.setattr(expire, place.removeprefix("second "), stop)
        with pytest.raises(KeyboardInterrupt):
            expire.expire_tensors(root, ["old"])
    if place == "before the manifest":
        assert [c.name for c in validate(run_dir(root, "old")) if c.passed is False] == []
    assert "old" in expire.find_expiring(root, [], NOW)
    expire.expire_tensors(root, ["old"])
    check_expired(root, captured)
    assert not paths.staged_runs(root)


@pytest.mark.slow
def test_the_command(root: Path, captured: Path, traces: Callable) -> None:
    said = traces("runs", "expire", "--tensors", "--older-than", "0m", "old", "--dry-run", "-w", root)
    assert said.code == 0 and "would delete the tensors of old (" in said.out + said.err
    assert (run_dir(root, "old") / "blobs").is_dir()
    assert traces("runs", "expire", "--older-than", "0m", "old", "-w", root).code == 2
    assert traces("runs", "expire", "--tensors", "--older-than", "a month", "-w", root).code == 2
    assert traces("runs", "expire", "--tensors", "--older-than", "0m", "old", "--yes", "-w", root).code == 0
    check_expired(root, captured)
    assert "(tensors expired)" in traces("runs", "-w", root).out
    assert "its tensors were deleted on" in traces("runs", "show", "old", "-w", root).out
    with pytest.raises(NotFoundError):
        expire.find_expiring(root, ["new*"], NOW)
