"""The processes that answer SQL of the page: some at once, one warm in reserve, each killed where its query outlives its limit.

In: a `Question`. Out: its rows, or an error of one line. A query cannot be interrupted reliably (DuckDB looks up between chunks, and a
chunk can take minutes), so what ends one is the end of its process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from warehouse.console.sql import limits
from warehouse.console.sql.frames import read_frame, read_object, write_object
from warehouse.errors import TracesError, UsageError
from warehouse.storage.duckdb_session import s3_environment
from warehouse.storage.objects import AnyPath, ObjectPath

if TYPE_CHECKING:
    pass

SECONDS, MOST_SECONDS = 10.0, 60.0
"""How long a query may take where nothing is said, and at most."""
ROWS, MOST_ROWS = 10_000, 1_000_000
MOST_BYTES = 32 * 2**20
AT_ONCE, WAITING = 3, 8
"""Queries that are answered at the same time, and that may wait for it."""

_START_SECONDS = 60.0
"""How long a process may take until it has opened the views: not the query's own time."""
_RESERVE = 2
"""Processes that are kept when nothing is asked."""
_ENVIRONMENT = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SYSTEMROOT",
    "TMPDIR",
    "TEMP",
)
"""The variables that a process gets: what it is started by, and no secrets."""


class SqlError(UsageError):
    """A query is refused, fails or is stopped."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.kind: str = said["kind"]
        """`refused` by the door, `sql` for DuckDB's own errors, `time`, `memory`, `cancelled` or `busy`."""
        self.place = {key: said[key] for key in ("line", "column") if key in said}
        """Line and column, where they are known."""
        super().__init__(said["error"])


@dataclass
class Question:
    """A query, and how it is to be answered."""

    sql: str
    limit: int = ROWS
    seconds: float = SECONDS
    only_check: bool = False
    """Whether to answer whether it could be answered, and nothing else."""
    process: _Process | None = None
    """What answers it at the moment."""
    stopped: str | None = None
    """Why it was stopped: a kind of `SqlError`."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self, why: str = "cancelled") -> None:
        """Stop it, now or before it begins."""
        with self.lock:
            self.stopped = self.stopped or why
            if self.process is not None:
                self.process.kill()


@dataclass
class Rows:
    """The answer to a question."""

    table: pa.Table
    cut: str | None
    """`rows` or `bytes`: the limit that left rows out; None where these are all."""
    ms: float


class Pool:
    """The processes over one warehouse; several threads may ask at once."""

    def __init__(self, root: AnyPath) -> None:
        self._root = root.absolute()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._waiting = 0
        self._reserve: list[_Process] = []
        self._questions: dict[int, Question] = {}
        self._closed = False

    def warm(self) -> None:
        """Start the process in reserve, which then is ready when it is needed."""
        with self._lock:
            if not self._reserve and not self._closed:
                self._reserve.append(_Process(self._root))

    def ask(self, question: Question, version: str) -> Rows | None:
        """Answer a question; waits where others are being answered.

        Args:
            question: The question.
            version: The warehouse's version: a process that opened the views at another one opens them again.

        Returns:
            The rows; None where it was only to be checked.

        Raises:
            SqlError: It is refused, wrong, too large or too slow, or there are too many.
            duckdb.Error: A file of a run cannot be read.
        """
        self._take_place(question)
        try:
            with self._lock:
                if self._closed:
                    raise SqlError({"kind": "cancelled", "error": "The console is ending."})
                self._reserve = [process for process in self._reserve if process.is_alive()]
                process = self._reserve.pop() if self._reserve else _Process(self._root)
                self._questions[id(question)] = question
            try:
                return process.answer(question, version)
            finally:
                with self._lock:
                    del self._questions[id(question)]
                self._give_back(process)
        finally:
            self._places.release()

    def _take_place(self, question: Question) -> None:
        """Wait until fewer questions than `AT_ONCE` are being answered.

        Raises:
            SqlError: Too many wait already, or the question was stopped while it waited.
        """
        if self._places.acquire(blocking=False):
            return
        with self._lock:
            if self._waiting >= WAITING:
                raise SqlError(
                    {"kind": "busy", "error": "Too many queries are waiting already. Try again in a moment."}
                )
            self._waiting += 1
        try:
            while not self._places.acquire(timeout=0.05):
                if question.stopped or self._closed:
                    raise SqlError(_stopped(question))
        finally:
            with self._lock:
                self._waiting -= 1

    def _give_back(self, process: _Process) -> None:
        """Keep a process for the next question; in the place of one that has ended, another is started."""
        with self._lock:
            if process.is_alive() and len(self._reserve) < _RESERVE and not self._closed:
                self._reserve.append(process)
                return
        process.kill()
        self.warm()

    def close(self) -> None:
        """End all processes; questions that are being answered are stopped."""
        with self._lock:
            self._closed = True
            reserve, self._reserve = self._reserve, []
            questions = list(self._questions.values())
        for question in questions:
            question.stop()
        for process in reserve:
            process.kill()


class _Process:
    """A process that answers one question at a time."""

    def __init__(self, root: AnyPath) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        if isinstance(root, ObjectPath):  # what it needs to read the store, and to find the views
            here = {
                name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME", "AWS_ENDPOINT_URL") if name in os.environ
            }
            environment |= s3_environment() | here
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "warehouse.console.sql.child", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path.cwd().anchor,
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is for the server, which ends them in order
        )
        self._version: str | None = None
        self._said: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
        self._killed = False

    def answer(self, question: Question, version: str) -> Rows | None:
        """Answer a question; duckdb.Error as of `Pool.ask`.

        Returns:
            The rows; None where it was only to be checked.

        Raises:
            SqlError: There are none to return.
            TracesError: The process does not start.
        """
        with question.lock:
            if question.stopped:
                raise SqlError(_stopped(question))
            question.process = self
        try:
            if self._version != version:
                opened: dict[str, Any] = {}
                with contextlib.suppress(queue.Empty):
                    opened, _ = self._exchange({"do": "open"}, _START_SECONDS)
                if "ok" not in opened and not question.stopped:
                    self.kill()
                    raise TracesError(f"The process that answers SQL did not start: {opened.get('error', 'it ended')}")
                self._version = version
            return self._rows(question)
        finally:
            with question.lock:
                question.process = None

    def _rows(self, question: Question) -> Rows | None:
        """Return the rows of a question, whose time begins now.

        Raises:
            SqlError: There are none to return.
            duckdb.Error: A file of a run cannot be read.
        """
        request = {"do": "check" if question.only_check else "ask", "sql": question.sql, "seconds": question.seconds}
        try:
            said, body = self._exchange(request | {"limit": question.limit, "bytes": MOST_BYTES}, question.seconds)
        except queue.Empty:
            question.stop("time")
            raise SqlError(_stopped(question)) from None
        if not said:
            raise SqlError(_stopped(question))
        if "ok" not in said:
            if said.get("type") in ("IO", "Invalid Input"):  # where a file is damaged, its run can be left out
                kind: type[duckdb.Error] = getattr(duckdb, f"{said['type']}Exception".replace(" ", ""))
                raise kind(said["error"])
            raise SqlError(said)
        return None if question.only_check else Rows(pa.ipc.open_stream(body).read_all(), said["cut"], said["ms"])

    def _exchange(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], bytes]:
        """Send a request; queue.Empty where nothing is said to it in time.

        A thread of its own listens: the end of a process with much memory takes a second, and nobody waits for that.

        Returns:
            What is said to it, and the rows; nothing where the process has ended.
        """
        threading.Thread(target=self._converse, args=[request], daemon=True).start()
        return self._said.get(timeout=seconds)

    def _converse(self, request: dict[str, Any]) -> None:
        assert self._popen.stdin is not None and self._popen.stdout is not None
        said, body = None, None
        with contextlib.suppress(OSError):
            write_object(self._popen.stdin, request)
            said = read_object(self._popen.stdout)
            body = read_frame(self._popen.stdout) if said and "rows" in said else b""
        self._said.put((said or {}, body) if body is not None else ({}, b""))

    def kill(self) -> None:
        """End it at once, and do not wait until it has ended; several threads may do so."""
        self._killed = True
        with contextlib.suppress(OSError):
            self._popen.kill()
        self._said.put(({}, b""))
        threading.Thread(target=self._popen.wait, daemon=True).start()

    def is_alive(self) -> bool:
        """Return whether it can answer another question."""
        return not self._killed and self._popen.poll() is None


def _stopped(question: Question) -> dict[str, Any]:
    """Return what is said of a question whose process has ended, or was not begun."""
    kind = question.stopped or "memory"  # what else ends a process is the limit on its memory
    messages = {
        "time": f"The query took longer than {question.seconds:g} s and was stopped.",
        "memory": limits.TOO_MUCH_MEMORY,
        "cancelled": "The query was stopped.",
    }
    return {"kind": kind, "error": messages[kind]}
