"""`--workers N`: what several processes make of a run's parts is the run of one process, whatever is killed on the way.

A sequence a batch (`--batch-tokens 1`), so that every value is computed in the same shapes and can be compared bit by bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from forked import MODULE

from capture.workers.driver import run_in_parts
from capture.workers.local_pool import LocalPool
from warehouse import TraceStore, Warehouse
from warehouse.errors import TracesError
from warehouse.schema import sites
from warehouse.schema.tables import STORED
from warehouse.storage import paths, run_list
from warehouse.storage.journal import Journal

pytestmark = pytest.mark.slow
_SAME = ("tensors", "heads")
"""Tables that name blobs or the run."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable, sample_lines: list[str]) -> list[str]:
    """A command without the run's name and warehouse: some 10 shards of tensors."""
    text = tmp_path_factory.mktemp("text") / "lines.txt"
    text.write_text("\n".join(f"{i} {line}" for i in range(12) for line in sample_lines))
    return ["capture", "next-token", "--model", str(tiny_folder("llama")), "--text", str(text), "--device", "cpu",
            "--capture", "hidden,resid,qkv", "--shard-mb", "1", "--batch-tokens", "1", "--index", "none"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, words: list[str], traces: Callable) -> Path:
    """The warehouse with the run `w`, made by one process."""
    root = tmp_path_factory.mktemp("whole") / "runs"
    done = traces(*words, "--run", "w", "-w", root)
    assert done.code == 0, done
    return root


def check_same(root: Path, whole: Path) -> None:
    """The run `w` in both warehouses: files of tables, slices of tensors, and what views answer."""
    one, other = (TraceStore(paths.run_dir(r, "w")) for r in (root, whole))
    assert run_list.published_runs(root) == ["w"] and paths.staged_runs(root) == []
    for name in (n for n in STORED if other.meta.counts.rows[n] and n not in _SAME):
        mine, known = ((s.path / paths.table_file(name)).read_bytes() for s in (one, other))
        assert mine == known, name
    volatile = {"created_at", "seconds", "files", "bytes", "seal"}
    assert one.meta.model_dump(exclude=volatile) == other.meta.model_dump(exclude=volatile)
    for site in other.meta.sites:
        for layer in site.layers:
            key = sites.key_of(sites.tensor_name(site.side, site.site, layer))
            for s in other.slices(key):
                assert np.array_equal(one.rows(key, s.example_id, s.seq), other.rows(key, s.example_id, s.seq))
    question = "SELECT token, count(*), avg(loss), max(true_rank) FROM token_diagnostics GROUP BY ALL ORDER BY ALL"
    answers = []
    for r in (root, whole):
        with Warehouse(r) as wh:
            answers.append(wh.sql(question).fetchall())
    assert answers[0] == answers[1]


def shards_done(root: Path, part: str) -> int:
    """How many shards a part's journal has."""
    try:
        return len(Journal(paths.journal_path(paths.staging_dir(root, part))).shards)
    except TracesError:  # its last line is being written
        return 0


def reached(what: Callable[[], bool], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def test_workers_that_are_killed_make_the_run_of_one_process(tmp_path: Path, words: list[str], whole: Path) -> None:
    """One as soon as it is there and after some shards, the other after its first."""
    root, said = tmp_path / "runs", list[str]()
    pool = LocalPool([*words, "--run", "w", "-w", str(root)], 2)
    first, second = "w.shard-1-of-2", "w.shard-2-of-2"

    def kill(part: str, when: Callable[[], bool]) -> None:
        reached(when)
        pid = pool._running[part][1].pid
        os.kill(pid, signal.SIGKILL)
        reached(lambda: part in pool._running and pool._running[part][1].pid != pid)

    def kill_first() -> None:
        kill("1/2", lambda: "1/2" in pool._running)
        kill("1/2", lambda: shards_done(root, first) >= 2)

    threads = [
        threading.Thread(target=kill_first),
        threading.Thread(target=kill, args=("2/2", lambda: shards_done(root, second) >= 1)),
    ]
    for t in threads:
        t.start()
    run_in_parts(pool, root, "w", 2, say=said.append)
    for t in threads:
        t.join()
    assert sum("has ended by signal 9: starting it again" in line for line in said) == 3
    check_same(root, whole)


def children(pid: int) -> list[int]:
    return [int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for children in /proc")
def test_a_driver_that_is_killed_leaves_no_worker_and_its_command_goes_on(
    tmp_path: Path, words: list[str], whole: Path, traces: Callable
) -> None:
    root = tmp_path / "runs"
    command = [*words, "--run", "w", "-w", str(root)]
    driver = subprocess.Popen([sys.executable, "-m", MODULE, *command, "--workers", "2"], stderr=subprocess.DEVNULL)
    reached(lambda: shards_done(root, "w.shard-1-of-2") >= 2)
    workers = children(driver.pid)
    assert len(workers) == 2
    driver.kill()
    driver.wait()
    reached(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 30)
    begun = {p.stat().st_ino for p in blobs(root)}
    done = traces(*command, "--workers", "3")  # begun in two parts: so it goes on in two
    assert done.code == 0 and done.out.startswith("w: ") and "continuing after" not in done.out, done
    check_same(root, whole)
    kept = {p.stat().st_ino for p in (paths.run_dir(root, "w") / "blobs").iterdir()}
    assert len(kept & begun) >= 2  # what was complete is not made again
    again = traces(*command, "--workers", "2")
    assert (again.code, again.out) == (2, "") and "Run 'w' already exists" in again.err


def blobs(root: Path) -> Iterator[Path]:
    for part in paths.staged_runs(root):
        yield from (paths.staged_run(paths.staging_dir(root, part)) / paths.BLOBS).iterdir()


def test_there_are_no_more_workers_than_examples(tmp_path: Path, words: list[str]) -> None:
    started = []

    class Seen(LocalPool):
        def start(self, part: str) -> None:
            started.append(part)
            super().start(part)

    command = [*words, "--run", "w", "--limit", "2", "-w", str(tmp_path / "runs")]
    manifest = run_in_parts(Seen(command, 9), tmp_path / "runs", "w", 9, total=2)
    assert (started, manifest.counts.sequences) == (["1/2", "2/2"], 2)


def test_what_no_retry_can_mend_stops_all_at_once(tmp_path: Path, words: list[str], traces: Callable) -> None:
    root = tmp_path / "runs"
    wrong = traces(*words, "--max-len", "4096", "--workers", "2", "-w", root)
    assert (wrong.code, wrong.out) == (2, ""), wrong
    refusals = [line for line in wrong.err.splitlines() if line.startswith("traces:")]
    assert len(refusals) == 1 and "4096 is more than" in refusals[0]
    assert run_list.published_runs(root) == paths.staged_runs(root) == []
    both = traces(*words, "--workers", "2", "--part", "1/2", "-w", root)
    assert both.code == 2 and "--part and --workers don't go together" in both.err


def test_an_actor_of_ray_that_is_killed_is_started_again(tmp_path: Path, words: list[str], whole: Path) -> None:
    """A cluster of this machine, which the pool starts and stops."""
    ray = pytest.importorskip("ray")
    from capture.workers.ray_pool import RayPool

    root = tmp_path / "runs"
    root.mkdir()
    pool, said = RayPool([*words, "--run", "w", "-w", str(root)], 2, "local", root, 1), list[str]()

    def kill() -> None:
        reached(lambda: shards_done(root, "w.shard-2-of-2") >= 1, 240)
        ray.kill(pool._running["2/2"])

    thread = threading.Thread(target=kill)
    thread.start()
    run_in_parts(pool, root, "w", 2, say=said.append)
    thread.join()
    assert any("the actor of part 2/2 is gone" in line for line in said)
    assert not ray.is_initialized()
    check_same(root, whole)


def test_the_files_for_clusters_do_what_their_page_says(
    tmp_path: Path, tiny_folder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's variables are set by hand; of Kubernetes' file it is read what would be run."""
    import yaml

    files = Path(__file__).parents[3] / "docs" / "clusters"
    env = {
        **os.environ,
        "TRACES_HOME": str(tmp_path / "runs"),
        "MODEL": str(tiny_folder("llama")),
        "RUN": "wide",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
    monkeypatch.chdir(files.parents[1])  # the text that they name by default is there
    for i in (2, 1):
        subprocess.run(["bash", files / "capture.slurm"], env={**env, "SLURM_ARRAY_TASK_ID": str(i)}, check=True)
    subprocess.run(["bash", files / "merge.slurm"], env=env, check=True)
    assert run_list.published_runs(tmp_path / "runs") == ["wide"]
    job = yaml.safe_load((files / "rayjob.yaml").read_text())
    assert job["kind"] == "RayJob" and "--ray auto" in job["spec"]["entrypoint"]
