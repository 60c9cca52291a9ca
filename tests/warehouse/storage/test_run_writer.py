"""A writer whose caller is interrupted, at whatever line, ends; and what a job has summed goes on from its last complete shard."""

import subprocess
import sys
from pathlib import Path

from warehouse.storage.run_writer import RunWriter

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


def test_a_job_goes_on_from_the_sums_of_its_last_complete_shard(tmp_path: Path) -> None:
    def opened() -> RunWriter:
        return RunWriter(tmp_path, "r", {"made": "up"})

    with opened() as writer:
        assert writer.sums is None
        for n in (1, 2):
            writer.begin_shard({}, {})
            writer.end_shard(str(n), lambda path, n=n: path.write_text(f"sum of {n}") and None)
            assert writer.sums is not None and writer.sums.read_text() == f"sum of {n}"
        folder = writer.sums.parent
        assert len(list(folder.iterdir())) == 1
        writer.begin_shard({}, {})
    (folder / "2").write_text("of a shard that was not noted")
    (folder / "0").write_text("of one that was gone on from")
    with opened() as writer:
        assert writer.sums is not None and writer.sums.read_text() == "sum of 2"
        assert list(folder.iterdir()) == [writer.sums]
        writer.begin_shard({}, {})
        writer.end_shard("3")
        writer.begin_shard({}, {})  # has waited for the one before
        writer.discard()
        assert not folder.exists()
