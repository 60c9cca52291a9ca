"""A writer whose caller is interrupted, at whatever line, ends."""

import subprocess
import sys
from pathlib import Path

_INTERRUPTED = """
import sys
from pathlib import Path
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.open_shard import RecordedBatch

def hand_over(root, line):
    "Interrupts the caller at this line of handing batches over; says whether it came that far."
    lines = 0
    def trace(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_name == "__exit__":
            return None
        lines += event == "line"
        if lines == line:
            lines += 1
            raise KeyboardInterrupt
        return trace
    try:
        with RunWriter(root, "r", {"made": "up"}) as writer:
            writer.begin_shard({}, {})
            sys.settrace(trace)
            try:
                for _ in range(5):
                    writer.put(RecordedBatch([], {}, {}, {}))
                writer.end_shard("here")
            finally:
                sys.settrace(None)
    except KeyboardInterrupt:
        return True
    return False

line = 1
while hand_over(Path(sys.argv[1]) / str(line), line):
    line += 1
print(line)
"""


def test_an_interrupt_at_any_line_of_handing_over_ends_the_writer(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, tmp_path], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20, "it was interrupted nowhere"
