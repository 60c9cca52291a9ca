"""`python -m capture.cli.worker I/N ARGUMENTS…`: what the driver of `--workers` starts: its own command, for one part of the run.

Standard output is for events, a line of JSON each (`capture.workers.local_pool` names them); what the command prints there is for
nobody. Standard input is the driver's life: the process ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

from capture.workers import assignment
from warehouse.errors import RunExistsError
from warehouse.storage import paths

_LAST_SECONDS = 5
"""How long the command may take to end in good order once the driver is gone."""


def main() -> None:
    """Run the command, and tell what came of it."""
    part, *words = sys.argv[1:]
    events, driver = _own_streams()

    def tell(event: dict[str, Any]) -> None:
        events.write(json.dumps(event).encode() + b"\n")
        events.flush()

    assignment.begin(part, tell)
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    from capture.cli.main import app, ending

    try:
        app(words, prog_name="traces", standalone_mode=False)
    except RunExistsError as e:
        found = paths.part_of(e.run_id)
        if found is None or f"{found[1]}/{found[2]}" != part:
            tell({"event": "failed", "error": str(e), "code": e.exit_code})
            sys.exit(e.exit_code)
        tell({"event": "exists", "run": e.run_id})  # an earlier worker made it
    except BaseException as e:
        if (known := ending(e)) is None:
            tell({"event": "failed", "error": f"part {part}: {type(e).__name__}: {e}", "code": 1})
            raise
        line, code = known
        if code != 130:  # a worker that somebody stopped is started again
            tell({"event": "failed", "error": line, "code": code})
        sys.exit(code)
    tell({"event": "done"})


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take standard output and input for this process alone: the command prints to nobody, and reads nothing."""
    events, driver, nothing = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb"), os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return events, driver


def _end_with(driver: BinaryIO) -> None:
    """Stop the process once the driver is gone."""
    driver.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
