"""Workers on a Ray cluster: each is an actor that starts the same process as `LocalPool` does, on the node where Ray puts it.

The driver starts the worker of an actor that died again, on another node where that one is gone; Ray itself restarts nothing. All nodes need
this package, the model and the data at the same places, and one shared folder as the warehouse.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capture.workers.local_pool import Event, LocalPool
from warehouse.errors import UsageError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath

_POLL_SECONDS = 0.5
_STOP_SECONDS = 25.0
"""How long a worker may take to stop in good order: longer than its own pool allows."""


class RayPool:
    """A context manager that connects to a cluster and starts workers there; leaving it stops those that still run."""

    def __init__(self, command: Sequence[str], workers: int, address: str, root: AnyPath, gpus_each: int) -> None:
        """Prepare to start workers.

        Args:
            command: The arguments of `traces`.
            workers: How many run at a time.
            address: `auto`, `local`, or the address of a cluster, as `ray.init` takes it.
            root: The warehouse.
            gpus_each: How many GPUs a worker gets where the cluster has any.

        Raises:
            UsageError: Ray is not installed.
        """
        try:
            import ray
        except ModuleNotFoundError:
            raise UsageError("--ray needs Ray: pip install 'trace-warehouse[ray]'") from None
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ray: Any = ray
        self._command, self._workers, self._address, self._gpus_each = [*command], workers, address, gpus_each
        shared = isinstance(root, Path)  # else nodes share an object store, and each stages its parts on its own disk
        self._seen = paths.lock_path(root, f"workers-{uuid.uuid4().hex}").absolute() if shared else None
        self._running: dict[str, Any] = {}

    def __enter__(self) -> RayPool:
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as e:
            raise UsageError(f"--ray {self._address}: no cluster answers there: {e}") from None
        if self._seen is not None:
            self._seen.parent.mkdir(parents=True, exist_ok=True)
            self._seen.touch()
        has = self._ray.cluster_resources()
        share = has.get("CPU", 1.0) / self._workers
        self._resources: dict[str, Any] = {"num_cpus": int(share) if share >= 1 else share}
        if has.get("GPU") and self._gpus_each:
            self._resources["num_gpus"] = self._gpus_each
        return self

    def start(self, part: str) -> None:
        """Start the worker of a part; all that comes of it arrives in `events`, `ended` as the last."""
        actor = self._ray.remote(_Node).options(**self._resources, max_restarts=0, max_concurrency=3).remote()
        self._running[part] = actor
        ended = actor.work.remote(part, self._command, str(Path.cwd()), self._seen and str(self._seen))
        threading.Thread(target=self._listen, args=(part, actor, ended), daemon=True).start()

    def _listen(self, part: str, actor: Any, ended: Any) -> None:
        """Hand on what a worker says, until it has ended or its actor has."""
        heard, done = 0, list[Any]()
        try:
            while not done:
                done, _ = self._ray.wait([ended], timeout=_POLL_SECONDS)
                said = self._ray.get(actor.said.remote(heard))
                heard += len(said)
                for event in said:
                    self.events.put(event)
            self._ray.get(ended)
        except self._ray.exceptions.RayError as e:
            self.events.put(
                {"part": part, "event": "note", "text": f"the actor of part {part} is gone ({type(e).__name__})"}
            )
            self.events.put({"part": part, "event": "ended", "code": 1})

    def forget(self, part: str) -> None:
        """Give back what the worker of a part, which has ended, had of the cluster."""
        self._ray.kill(self._running.pop(part))

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            stopped = [actor.stop.remote() for actor in self._running.values()]
            self._ray.wait(stopped, num_returns=len(stopped), timeout=_STOP_SECONDS) if stopped else None
        self._ray.shutdown()
        if self._seen is not None:
            self._seen.unlink(missing_ok=True)


class _Node:
    """The actor: one worker process, and what it has said. It runs on any node, and ends with the driver."""

    def __init__(self) -> None:
        self._said: list[Event] = []
        self._pool: LocalPool | None = None

    def work(self, part: str, command: list[str], folder: str, shared: str | None) -> None:
        """Run the worker of a part to its end.

        Args:
            part: The part.
            command: The arguments of `traces`.
            folder: The driver's working folder.
            shared: A file that the driver has put into the warehouse's folder; None: the warehouse is in an object store.
        """
        if shared is not None and not Path(shared).is_file():
            text = (
                f"The node {os.uname().nodename} does not see the warehouse of the driver, {Path(shared).parents[2]}: with --ray it has to "
                "be a folder that all nodes share. Name one with --warehouse."
            )
            self._said += [
                {"part": part, "event": "failed", "error": text, "code": UsageError.exit_code},
                {"part": part, "event": "ended", "code": UsageError.exit_code},
            ]
            return
        if Path(folder).is_dir():
            os.chdir(folder)
        with LocalPool(command, 1) as self._pool:
            self._pool.start(part)
            while not self._said or self._said[-1]["event"] != "ended":
                self._said.append(self._pool.events.get())
            self._pool.forget(part)

    def said(self, heard: int) -> list[Event]:
        """Return the events after the first `heard`."""
        return self._said[heard:]

    def stop(self) -> None:
        """Stop the worker, if it still runs."""
        if self._pool is not None:
            self._pool.__exit__()
