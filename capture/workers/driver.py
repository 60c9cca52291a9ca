"""The driver of `--workers N`: it has every part of a run made by a worker, watches them, and merges the parts into the run.

In: a pool that starts workers, and the run. Out: the manifest of the merged run, which is what one process would have made, as far as
`warehouse.maintenance.merge` says. A worker that dies is started again, and goes on from its part's journal; one that fails, as a wrong
option makes it, stops all. Whatever was complete is kept, also if the driver is killed: the same command goes on.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.progress import ProgressBar
from warehouse.storage import paths, run_list
from warehouse.storage.journal import Journal
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath

_SHOW_SECONDS = 1.0
"""How often the bar is drawn anew while no worker says anything."""
_RESTARTS = 3
"""How often the worker of a part is started again after it died."""


class Pool(AbstractContextManager[Any], Protocol):
    """What starts workers, here or elsewhere."""

    events: queue.SimpleQueue[dict[str, Any]]
    """What workers have said: see `capture.workers.local_pool`."""

    def start(self, part: str) -> None:
        """Start the worker of a part."""
        ...

    def forget(self, part: str) -> None:
        """Take note that the worker of a part has ended."""
        ...


def run_in_parts(
    pool: Pool,
    root: AnyPath,
    run: str | None,
    workers: int,
    total: int | None = None,
    unit: str = "examples",
    say: Callable[[str], None] | None = None,
) -> Manifest:
    """Have workers make a run.

    Args:
        pool: Starts the workers.
        root: The warehouse.
        run: The run's name; None: the one that workers find for it.
        workers: How many work at a time: no more than there are examples, where that is known. There are as many parts, unless the
            run was begun with another number of them.
        total: How many examples, or what else `unit` says, there are at most; None: unknown.
        unit: What the progress bar counts.
        say: Receives lines for the user, as in `ProgressBar`.

    Returns:
        The manifest of the run.

    Raises:
        RunExistsError: The run exists.
        UsageError: It was begun by one process, or in several divisions; or a worker was called wrongly.
        TracesError: A worker failed.
    """
    n = workers = min(workers, total or workers)
    if run is not None:
        if (finished := _finish(root, run)) is not None:
            return finished
        n = _parts_begun(root, run, workers)
    with ProgressBar(unit, total, say) as bar, pool:
        watch = _Watch(pool, root, run, n, workers, bar)
        finished = watch.work()
    if finished is not None:
        return finished
    assert watch.run is not None  # every worker said the name of its part
    names = [paths.part_name(watch.run, i, n) for i in range(1, n + 1)]
    return merge.merge(root, merge_plan.plan_merge(root, names, watch.run), note=say or (lambda _: None))


def _finish(root: AnyPath, run: str) -> Manifest | None:
    """Check that a run is not there yet.

    Returns:
        The run's manifest, where all that was left to do was the end of its merge; else None.

    Raises:
        RunExistsError: The run exists.
        UsageError: One process has begun it.
    """
    if (merged := merge.finish_merge(root, run)) is not None:
        return merged
    if run_list.is_published(root, paths.check_run_name(run)):
        raise RunExistsError(run)
    job = Journal(paths.journal_path(paths.staging_dir(root, run))).job
    if job is not None and job["kind"] != "merge":
        raise UsageError(
            f"Run '{run}' was begun by one process. Finish it without --workers, choose another --run, or drop it: "
            f"traces runs rm {run}"
        )
    return None


def _parts_begun(root: AnyPath, run: str, workers: int) -> int:
    """Return in how many parts a run was begun; `workers`, if it was not, or in that many too."""
    known = filter(None, map(paths.part_of, {*run_list.published_runs(root), *paths.staged_runs(root)}))
    counts = {n for whole, _, n in known if whole == run}
    if not counts or workers in counts:
        return workers
    if len(counts) > 1:
        raise UsageError(
            f"Run '{run}' was begun in {' and in '.join(map(str, sorted(counts)))} parts: take one of these as --workers."
        )
    return counts.pop()


class _Watch:
    """What is known of the parts while workers make them."""

    def __init__(self, pool: Pool, root: AnyPath, run: str | None, n: int, workers: int, bar: ProgressBar) -> None:
        self.run = run
        self._pool, self._root, self._n, self._workers, self._bar = pool, root, n, min(workers, n), bar
        self._done: dict[str, int] = {}
        self._tokens: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self._ready: set[str] = set()
        self._said: set[str] = set()
        self._start = time.monotonic()

    def work(self) -> Manifest | None:
        """Have every part made that is not there.

        Returns:
            The run's manifest, where it turns out that only the end of its merge was missing; else None.

        Raises:
            TracesError: A worker failed, or died too often.
        """
        waiting = [f"{i}/{self._n}" for i in range(1, self._n + 1)]
        if self.run is not None:
            waiting = [p for p in waiting if not run_list.is_published(self._root, _part_run(self.run, p))]
        running = 0
        while waiting or running:
            while waiting and running < self._workers:
                self._pool.start(waiting.pop(0))
                running += 1
            try:
                event = self._pool.events.get(timeout=_SHOW_SECONDS)
            except queue.Empty:
                self._show()
                continue
            part = event["part"]
            match event["event"]:
                case "progress" | "exists" | "done" if "run" in event:
                    if self.run is None and (finished := self._learn_name(event["run"])) is not None:
                        return finished
            match event["event"]:
                case "progress":
                    self._done[part] = event["done"]
                    self._tokens[part] = max(self._tokens[part], event["tokens"])
                    self._show()
                case "note":
                    self._note(event["text"])
                case "done" | "exists":
                    self._ready.add(part)
                case "failed":
                    raise (UsageError if event["code"] == UsageError.exit_code else TracesError)(event["error"])
                case "ended":
                    self._pool.forget(part)
                    running -= 1
                    if part not in self._ready:
                        self._count_death(part, event["code"])
                        waiting.append(part)
        return None

    def _learn_name(self, part_run: str) -> Manifest | None:
        """Take over the run's name from that of a part, and check that there is no such run."""
        whole, _, _ = paths.part_of(part_run) or (part_run, 1, 1)
        finished = _finish(self._root, whole)
        self.run = whole
        return finished

    def _show(self) -> None:
        """Show the progress of all parts together."""
        speed = self._tokens.total() / max(time.monotonic() - self._start, 1e-9)
        detail = f"{speed:,.0f} tokens/s by {self._workers} workers" if speed else f"{self._workers} workers"
        if not self._done:
            detail += ", starting"
        self._bar.show(sum(self._done.values()), label=self.run or "", detail=detail)

    def _note(self, text: str) -> None:
        """Say a line once, though every worker does."""
        if text not in self._said:
            self._said.add(text)
            self._bar.say(text)

    def _count_death(self, part: str, code: int) -> None:
        self._deaths[part] += 1
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if self._deaths[part] > _RESTARTS:
            raise TracesError(
                f"The worker of part {part} has ended {how}, for the {_RESTARTS + 1}th time. Signal 9 is often a lack of memory: take "
                "fewer workers. What was complete is kept: the same command goes on."
            )
        self._bar.say(f"the worker of part {part} has ended {how}: starting it again")


def _part_run(run: str, part: str) -> str:
    i, n = map(int, part.split("/"))
    return paths.part_name(run, i, n)
