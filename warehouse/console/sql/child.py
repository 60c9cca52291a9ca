"""The process that answers SQL of the page, and may be killed at any time: `python -m warehouse.console.sql.child ROOT`.

In, on standard input: requests, one at a time (`pool.py` says which). Out, on standard output: an answer each, its rows as an Arrow
stream. It ends when standard input does, whatever it is at.

Nothing here can be written: the limit on the size of files is 0. The views are opened as they are, and made in memory where they are
out of date. DuckDB reads the folder of the warehouse and nothing else, cannot change its settings, and has limits to its memory. No
code of Lance is loaded here, which knows no such limits.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from warehouse.catalog.build import attach, create_views, open_current
from warehouse.catalog.source import source
from warehouse.console.sql import door, limits
from warehouse.console.sql.frames import read_object, write_frame, write_object
from warehouse.schema.quoting import sql_text
from warehouse.storage import run_list
from warehouse.storage.objects import AnyPath, any_path

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_ROWS = 2048
"""Rows that are fetched at a time."""
_BEFORE_CHECKED = "EXPLAIN "
"""What is put before a query that is only checked."""


class Views:
    """The views over the runs, in a connection that can do nothing but read them."""

    def __init__(self, root: AnyPath) -> None:
        con, known = open_current(root)
        if con is None:
            con = attach(":memory:", root)
            create_views(con, root, source(root).runs(known))
        self.con = con
        self.names = door.readable(self.con)
        """What a query may name."""
        for setting in (
            f"memory_limit = '{limits.MEMORY_MB}MB'",
            "threads = 2",
            "temp_directory = ''",
            "python_enable_replacements = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "allow_community_extensions = false",
            "errors_as_json = true",
            f"allowed_directories = [{', '.join(map(sql_text, self._folders(root)))}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            self.con.execute(f"SET {setting}")

    def _folders(self, root: AnyPath) -> list[str]:
        """Return the folders that DuckDB may read: the root, and runs that the root links to."""
        linked = [run.resolve() for run in run_list.run_folders(root) if run.is_symlink()]
        return [f"{folder}/" for folder in (root.resolve(), *linked)]


def main() -> None:
    """Answer requests until there are no more."""
    root = any_path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    limits.limit_process()
    views = None
    for request in _requests():
        try:
            if request["do"] == "open":
                views = Views(root)
                write_object(answers, {"ok": True})
            else:
                assert views is not None
                _answer(views, request, answers)
        except Exception as e:
            write_object(answers, _as_error(e, request))
            if isinstance(e, (duckdb.FatalException, duckdb.InternalException, MemoryError)):
                return  # DuckDB answers nothing after some of its errors


def _requests() -> Iterator[dict[str, Any]]:
    """Yield requests; where there will be no more, the process ends at once, even in the middle of a query."""
    found: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        while (request := read_object(sys.stdin.buffer)) is not None:
            found.put(request)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield found.get()


def _answer(views: Views, request: dict[str, Any], answers: IO[bytes]) -> None:
    """Answer a query, or say that it could be answered."""
    limits.limit_seconds(request["seconds"])
    begun = time.perf_counter()
    query = door.check(views.con, request["sql"], views.names)
    if request["do"] == "check":
        views.con.execute(f"{_BEFORE_CHECKED}{query}").fetchall()
        write_object(answers, {"ok": True})
        return
    reader = views.con.execute(query).to_arrow_reader(BATCH_ROWS)
    batches, cut = _fetch(reader, request["limit"], request["bytes"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    spent = round((time.perf_counter() - begun) * 1000, 1)
    write_object(answers, {"ok": True, "rows": sum(b.num_rows for b in batches), "cut": cut, "ms": spent})
    write_frame(answers, sink.getvalue())


def _fetch(reader: pa.RecordBatchReader, most_rows: int, most_bytes: int) -> tuple[list[pa.RecordBatch], str | None]:
    """Fetch rows up to a number of rows and of bytes.

    Returns:
        The rows, and which of the two ended them: `rows`, `bytes`, or None where these are all.
    """
    kept: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        room = batch.slice(0, most_rows - rows)
        while room.num_rows and size + room.nbytes > most_bytes:
            room = room.slice(0, min(room.num_rows - 1, int(room.num_rows * (most_bytes - size) / room.nbytes)))
        if room.num_rows:
            kept.append(room)
        rows, size = rows + room.num_rows, size + room.nbytes
        if room.num_rows < batch.num_rows:
            return kept, "rows" if rows == most_rows else "bytes"
    return kept, None


def _as_error(error: Exception, request: dict[str, Any]) -> dict[str, Any]:
    """Return what the page is told of an error: one line, its kind, and the place in the query where that is known."""
    sql = request.get("sql", "")
    if isinstance(error, door.RefusedError):
        return {"error": str(error), "kind": "refused", **door.place(sql, error.position)}
    text = str(error)
    if isinstance(error, MemoryError | duckdb.OutOfMemoryException) or "Out of Memory" in text[:200]:
        return {"error": limits.TOO_MUCH_MEMORY, "kind": "memory"}
    said: dict[str, Any] = {}
    try:
        said = json.loads(text[text.index("{") :])
    except ValueError:
        said = {"exception_message": text}
    message = " ".join(str(said.get("exception_message", text)).split())
    position = int(said["position"]) if str(said.get("position", "")).isdigit() else None
    found = {"error": message, "kind": "sql", "type": str(said.get("exception_type", type(error).__name__))}
    if position is not None and request.get("do") == "check" and not isinstance(error, duckdb.ParserException):
        position -= len(_BEFORE_CHECKED)  # the query itself has been parsed before, alone
    return found | door.place(sql, position)


if __name__ == "__main__":
    main()
