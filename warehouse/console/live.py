"""Live mode's side of the server: a worker process with a model, one job at a time, and what is known of both.

In go a model's name, from whoever started the console, and jobs from the page; out comes a state that a page can show. The worker is another
package's module, run by its name: nothing here imports what runs models. A job that is given up ends with the worker, which is killed, and
another one is started; it deletes what was half written.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from warehouse.errors import TracesError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

_WORKER = ("-P", "-m", "capture.live")
_END_SECONDS = 1.0
"""How long a worker may take to end by itself once nobody speaks to it."""
_LAST_LINES = 20
"""Lines of a worker's standard error that are kept, to say what it died of."""


class BusyError(TracesError):
    """The model is at a job already."""


class LiveModel:
    """A model in a process of its own, and what is known of it. Any thread may call this."""

    def __init__(self, model: str, root: AnyPath, command: Sequence[str] = (sys.executable, *_WORKER)) -> None:
        """Describe a worker; `start` starts it.

        Args:
            model: The model, as the console's user named it.
            root: The warehouse's folder, where runs go.
            command: What runs the worker; the options `--model` and `--warehouse` come after it.
        """
        self._command = [*command, "--model", model, "--warehouse", str(root)]
        self._lock = threading.RLock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._jobs = 0
        self._state: dict[str, Any] = {
            "model": model, "status": "stopped", "about": None, "error": None, "job": None, "version": 0,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return what is known, as JSON has it.

        `status` is `loading`, `ready`, `working` or `stopped`; `about` describes the loaded model; `error` says why there is no worker;
        `job` is the last job with its `status` (`working`, `done`, `failed`, `cancelled`), `progress`, `runs` and what it `shows`.
        `version` grows with every change.
        """
        with self._lock:
            return {**self._state}

    @property
    def version(self) -> int:
        """A number that grows with every change of the state."""
        return int(self._state["version"])

    def start(self) -> None:
        """Start the worker, if there is none."""
        with self._lock:
            if self._closed or (self._worker is not None and self._worker.poll() is None):
                return
            # a session of its own: Ctrl-C in the terminal stops the server, and the server the worker
            self._worker = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._change(status="loading", about=None, error=None)
            last: deque[str] = deque(maxlen=_LAST_LINES)
            errors = threading.Thread(target=_keep_last, args=(self._worker, last), daemon=True)
            errors.start()
            threading.Thread(target=self._listen, args=(self._worker, errors, last), daemon=True).start()

    def submit(self, job: BaseModel) -> int:
        """Hand a job to the worker, which is started if there is none.

        Args:
            job: The job, checked.

        Returns:
            Its number.

        Raises:
            BusyError: Another one is not done.
        """
        with self._lock:
            if self._state["job"] is not None and self._state["job"]["status"] == "working":
                raise BusyError("The model is at another job: wait for it, or cancel it.")
            self.start()
            assert self._worker is not None and self._worker.stdin is not None
            self._jobs += 1
            number = self._jobs
            asked = job.model_dump()
            self._change(
                status="loading" if self._state["about"] is None else "working",
                job={
                    "job": number, "kind": asked["kind"], "asked": asked, "status": "working", "progress": None, "runs": [],
                    "shows": None, "error": None,
                },
            )  # fmt: skip
            try:
                self._worker.stdin.write(job.model_dump_json().encode() + b"\n")
                self._worker.stdin.flush()
            except OSError:  # it has just died: who listens to it says so
                pass
            return number

    def cancel(self) -> bool:
        """Give up the job at work: kill the worker, and start another one.

        Returns:
            Whether there was a job.
        """
        with self._lock:
            if self._state["job"] is None or self._state["job"]["status"] != "working":
                return False
            worker, self._worker = self._worker, None
            self._change_job(status="cancelled", progress=None)
        if worker is not None:
            worker.kill()
            worker.wait()
        self.start()
        return True

    def close(self) -> None:
        """End the worker; it is killed where it does not end by itself."""
        with self._lock:
            self._closed = True
            worker, self._worker = self._worker, None
        if worker is None:
            return
        assert worker.stdin is not None
        try:
            worker.stdin.close()
            worker.wait(_END_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            worker.kill()
            worker.wait()

    def _listen(self, worker: subprocess.Popen[bytes], errors: threading.Thread, last: deque[str]) -> None:
        """Take a worker's events until it ends, and say how it ended where nobody ended it."""
        assert worker.stdout is not None
        for line in worker.stdout:
            with self._lock:
                if worker is self._worker:
                    self._take(json.loads(line))
        code = worker.wait()
        errors.join()
        with self._lock:
            if worker is not self._worker:  # it was cancelled or closed
                return
            self._worker = None
            why = self._state["error"] or f"The worker ended (exit code {code}). {last[-1] if last else ''}".strip()
            self._change(status="stopped", about=None, error=why)
            if self._state["job"] is not None and self._state["job"]["status"] == "working":
                self._change_job(status="failed", error=why)

    def _take(self, event: dict[str, Any]) -> None:
        """Take an event of the worker."""
        kind = event.pop("event")
        if kind == "ready":
            self._change(status="ready", about=event["about"])
        elif kind == "started":
            self._change(status="working")
        elif kind == "progress":
            self._change_job(progress=event)
        elif kind == "published":
            self._change_job(runs=[*self._state["job"]["runs"], event])
        elif kind == "done":
            self._change(status="ready")
            self._change_job(status="done", progress=None, shows=event["shows"])
        elif kind == "failed" and self._state["about"] is None:
            self._change(error=event["error"])
        elif kind == "failed":
            self._change(status="ready")
            self._change_job(status="failed", progress=None, error=event["error"])

    def _change_job(self, **facts: Any) -> None:
        self._change(job=self._state["job"] | facts)

    def _change(self, **facts: Any) -> None:
        self._state |= facts
        self._state["version"] += 1


def _keep_last(worker: subprocess.Popen[bytes], last: deque[str]) -> None:
    """Read a worker's standard error, so that it is never full, and keep the last lines."""
    assert worker.stderr is not None
    for line in worker.stderr:
        if text := line.decode(errors="replace").strip():
            last.append(text)
