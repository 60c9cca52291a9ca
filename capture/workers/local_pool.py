"""Worker processes on this machine: each is the driver's own command once more, for one part.

A worker ends with its driver, even one that is killed: it reads its standard input, which then ends. What it prints on standard error
becomes notes. Between workers the processor's cores are divided, and the GPUs, unless the environment or the command says which
are meant.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

Event = dict[str, Any]
"""What is known of a worker: `part`, and `event`, which is `progress`, `note`, `exists`, `done`, `failed` or `ended`, with its facts."""

WORKER = ("-P", "-m", "capture.cli.worker")
_STOP_SECONDS = 20.0
"""How long a worker may take to stop in good order."""


def count_cores() -> int:
    """Return how many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalPool:
    """A context manager that starts workers; leaving it stops those that still run."""

    def __init__(self, command: Sequence[str], workers: int, gpus: Sequence[str] = (), gpus_each: int = 1) -> None:
        """Prepare to start workers.

        Args:
            command: The arguments of `traces`.
            workers: How many run at a time.
            gpus: Names of the GPUs that they share, as CUDA_VISIBLE_DEVICES has them; empty: they use what they find.
            gpus_each: How many of these a worker sees.
        """
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._command, self._workers, self._gpus, self._gpus_each = command, workers, gpus, gpus_each
        self._running: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}

    def start(self, part: str) -> None:
        """Start the worker of a part; all that comes of it arrives in `events`, `ended` as the last."""
        place = min(set(range(self._workers)) - {place for place, _ in self._running.values()})
        process = subprocess.Popen(
            [sys.executable, *WORKER, part, *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(place),
            start_new_session=True,  # Ctrl-C is for the driver, which stops its workers
        )
        self._running[part] = place, process
        threading.Thread(target=self._listen, args=(part, process), daemon=True).start()

    def _environment(self, place: int) -> Mapping[str, str]:
        """Return the environment of the worker at a place, 0-based: its share of the machine."""
        share = {"OMP_NUM_THREADS": str(max(1, count_cores() // self._workers))}
        environment = share | os.environ
        if self._gpus:
            first = place * self._gpus_each
            chosen = [self._gpus[k % len(self._gpus)] for k in range(first, first + self._gpus_each)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        return environment

    def _listen(self, part: str, process: subprocess.Popen[bytes]) -> None:
        """Hand on what a worker says, until it has ended."""
        notes = threading.Thread(target=self._listen_to_notes, args=(part, process), daemon=True)
        notes.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith(b"\n"):  # else it was cut short by a kill
                self.events.put({"part": part, **json.loads(line)})
        notes.join()
        self.events.put({"part": part, "event": "ended", "code": process.wait()})

    def _listen_to_notes(self, part: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.events.put({"part": part, "event": "note", "text": line.decode("utf-8", "replace").rstrip()})

    def forget(self, part: str) -> None:
        """Give the place of a worker that has ended to the next one."""
        _, process = self._running.pop(part)
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            stream.close()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self._running.values():
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _STOP_SECONDS
        for _, process in self._running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
