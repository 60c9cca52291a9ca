"""`python -m capture.live --model M --warehouse DIR`: what a console starts, speaks with over standard input and output, and kills.

In go jobs, a line of JSON each (`warehouse.console.live_jobs`); out come events, a line each:

    {"event": "loading"}                       first of all
    {"event": "ready", "about": {…}}           once: what the model is, and what can be done with it
    {"event": "started"}                       a job has begun
    {"event": "progress", "what", "done", "total", …}     while a response is drawn, with its `text` so far
    {"event": "published", "run", "what"}      a run can be read
    {"event": "done", "shows": {…}}            the job has ended; `shows` says which examples to look at
    {"event": "failed", "error"}               … or could not be done

Standard output is theirs alone: what libraries print goes to standard error. The process ends with its standard input, whatever it is at.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from capture.api.models import load
from capture.live.jobs import Model, remove_unfinished
from warehouse.console.live_jobs import JOB
from warehouse.errors import TracesError


def main() -> None:
    """Load the model, and do the jobs."""
    parser = argparse.ArgumentParser(prog="python -m capture.live")
    parser.add_argument("--model", required=True)
    parser.add_argument("--warehouse", required=True, type=Path)
    chosen = parser.parse_args()
    events = _own_output()

    def tell(event: str, **facts: Any) -> None:
        events.write(json.dumps({"event": event, **facts}).encode() + b"\n")
        events.flush()

    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    tell("loading")
    try:
        remove_unfinished(chosen.warehouse)
        model = Model(load(chosen.model, head="lm"), chosen.warehouse, tell)
    except (TracesError, ModuleNotFoundError) as e:
        tell("failed", error=_line(e))
        sys.exit(1)
    tell("ready", about=model.about())
    while True:
        job = lines.get()
        tell("started")
        try:
            tell("done", shows=model.do(JOB.validate_json(job)))
        except (TracesError, ValidationError) as e:
            tell("failed", error=_line(e))


def _own_output() -> BinaryIO:
    """Take standard output for the events, and send what anything else writes there to standard error."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    """Queue lines of standard input, and end the process with it: a run that is being written stays behind as after a kill."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def _line(e: Exception) -> str:
    """Return what an error says, in one line."""
    if isinstance(e, ModuleNotFoundError):
        return f"Running models needs {e.name}: pip install 'trace-warehouse[capture]'"
    return " ".join(str(e).split())


if __name__ == "__main__":
    main()
