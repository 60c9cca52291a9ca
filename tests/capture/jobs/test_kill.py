"""SIGKILL at every point: the same command again ends in a run that equals an undisturbed one.

A capture process is forked with its file-system calls counted, and kills itself with SIGKILL just before the n-th write,
fsync, rename or unlink; then for the next n. That visits every state that a kill can leave on disk, not a sample of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from samples import DATA

from warehouse import TraceStore, Warehouse
from warehouse.storage.paths import run_dir, staged_runs
from warehouse.validation.validate import validate

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

_CALLS = ("pwrite", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "truncate")


def _die_at(n: int) -> None:
    """Arranges for SIGKILL just before the n-th call; the calls are those that change what is on disk."""
    left, lock, cut = [n], threading.Lock(), os.truncate

    def counted(function: Callable) -> Callable:
        def call(*args, **kwargs):
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                    time.sleep(60)
            return function(*args, **kwargs)

        return call

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    original = pq.write_table

    def write_table(table, where, **options) -> None:
        """A part that is cut short in the middle."""
        original(table, where, **options)
        with lock:
            left[0] -= 1
            if left[0] == 0:
                cut(where, Path(where).stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)

    pq.write_table = write_table


def _capture(folder: str, text: str, root: str, n: int | None) -> None:
    import torch

    torch.set_num_threads(1)
    from capture.data.text import open_text
    from capture.jobs import job_batches, next_token
    from capture.model import loading

    job_batches._SHARD_TOKENS = 300
    loaded = loading.load(folder, device="cpu")
    if n is not None:
        _die_at(n)
    options = next_token.Options(capture="hidden,resid,qkv,attn,heads", batch_tokens=100, shard_mb=1, max_len=40)
    next_token.run(loaded, open_text(text, "text"), options, root=Path(root), run_id="r")


@pytest.fixture(scope="module")
def start(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """Runs a capture in a process of its own, which dies before its n-th call; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "transformers", "capture.jobs.next_token", "capture.model.loading", "warehouse.storage.trace_store"]
    )
    text = DATA / "lighthouse.txt"

    def run(root: Path, n: int | None = None) -> int:
        process = context.Process(target=_capture, args=(str(tiny_folder("llama")), str(text), str(root), n))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            process.join()
            pytest.fail("the capture hangs")
        return process.exitcode

    return run


def same(one: TraceStore, other: TraceStore) -> None:
    """Every row and every tensor is equal, bit for bit; shards and all."""
    for name in ("examples", "tokens", "next_token", "heads", "tensors"):
        assert pq.read_table(one.path / name, partitioning=None).equals(
            pq.read_table(other.path / name, partitioning=None)
        ), name
    for blob in sorted((one.path / "blobs").iterdir()):
        assert blob.read_bytes() == (other.path / "blobs" / blob.name).read_bytes(), blob.name
    volatile = {"created_at", "seconds", "files", "bytes"}
    assert one.meta.model_dump(exclude=volatile) == other.meta.model_dump(exclude=volatile)
    eid = one.tokens.example_id[0]
    assert np.array_equal(one.attn(eid), other.attn(eid))


@pytest.fixture(scope="module")
def undisturbed(start: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "runs"
    assert start(root) == 0
    return root


@pytest.mark.slow
def test_killed_again_and_again_it_still_ends_as_if_nothing_had_happened(
    start, undisturbed: Path, tmp_path: Path
) -> None:
    """One capture, killed at its 90th call, gone on with, killed at its 90th again, until one process gets to the end."""
    root = tmp_path / "runs"
    kills = 0
    while not run_dir(root, "r").exists():
        kills += start(root, 90) == -signal.SIGKILL
        assert kills < 40, "it makes no headway"
    assert kills >= 2
    same(TraceStore(run_dir(undisturbed, "r")), TraceStore(run_dir(root, "r")))


@pytest.mark.slow
def test_killed_at_many_points_it_ends_the_same_each_time(start, undisturbed: Path, tmp_path: Path) -> None:
    expected = TraceStore(run_dir(undisturbed, "r"))
    points, n = 0, 1
    while True:
        root = tmp_path / f"runs{n}"
        code = start(root, n)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        points += 1
        published = run_dir(root, "r").exists()
        if published:  # killed after the rename: the run must be whole
            assert (run_dir(root, "r") / "run.json").is_file()
        else:
            assert start(root) == 0
        same(expected, TraceStore(run_dir(root, "r")))
        with Warehouse(root) as wh:  # views are made anew where the kill came before they were
            assert wh.sql("SELECT n_predictions FROM runs").fetchone() == (expected.meta.counts.predictions,)
        assert all(c.passed is not False for c in validate(run_dir(root, "r")))
        n += 1 if n < 12 else 23
    assert points > 20
    assert staged_runs(root) == []
