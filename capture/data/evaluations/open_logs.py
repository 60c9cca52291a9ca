"""Opens logs of evaluations, one or a folder of them, as a source: one example a sample, one sequence an answer.

An example is a sample of a task, known by its id there, whichever model answered and however often: so runs over logs of several models
join by example_id, as runs over one data set do. The answers of a sample, of several epochs or in several logs, are its sequences.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from capture.data.evaluation import Evaluation
from capture.data.evaluations import inspect_log
from capture.data.evaluations.harness_log import FIELDS, HarnessLog
from capture.data.evaluations.log import Answer, Log, Sample
from capture.data.example import Row, Source, check_storable
from capture.data.files import UnreadableFileError, check_readable, open_file, printable_value, read_json
from capture.data.transcript import Transcript
from warehouse.errors import UsageError
from warehouse.storage import strict_json

SUFFIXES = (".eval", ".json", ".jsonl")
_ZIP = b"PK\x03\x04"
_INSPECT = re.compile(r'\ufeff?\s*\{\s*"version"\s*:\s*[0-9]+\s*,\s*"(status|eval)"')
"""How a log of Inspect in JSON begins: the order of its fields is part of the format."""
_LONGEST_LINE = 1 << 26
"""Most bytes of a first line that is looked at, to tell what a file is."""


def is_log(path: Path) -> bool:
    """Say whether a file is a log of an evaluation, by its first bytes: a zip, a log of Inspect in JSON, samples of the harness."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return False
    with open_file(path) as f:
        start = f.readline(_LONGEST_LINE)
    if suffix == ".eval" or start.startswith(_ZIP):
        return True
    if suffix == ".jsonl":
        try:
            fields = strict_json.parse(start)
        except ValueError:
            return False
        return isinstance(fields, dict) and all(name in fields for name in FIELDS)
    with open_file(path) as f:
        head = f.read(1 << 12).decode(errors="replace")
    return bool(_INSPECT.match(head))


def open_logs(origin: str, paths: list[Path]) -> Source:
    """Open logs of evaluations.

    Args:
        origin: What the user named: a log or a folder.
        paths: The logs.

    Returns:
        The source of their samples. Logs of one task are one data set.

    Raises:
        UsageError: One of them is damaged, of another version, or there is no sample in them; or they are of two kinds.
    """
    tasks: dict[tuple[str, str], list[Log]] = {}
    for path in paths:
        log = _open(check_readable(path))
        tasks.setdefault((log.kind, log.task), []).append(log)
    if (
        len({kind for kind, _ in tasks}) > 1
    ):  # a chat template writes the ones, a tokenizer's BOS goes before the others
        raise UsageError(
            f"{printable_value(origin)} has logs of Inspect and of lm-evaluation-harness: capture them apart, such as --data "
            f"{printable_value(origin)}/LOG"
        )
    sources = [_source(origin, kind, task, logs) for (kind, task), logs in tasks.items()]
    if len(sources) == 1:
        return sources[0]
    return Source(
        Path(origin).resolve().name or "logs",
        None,
        None,
        origin,
        lambda: chain.from_iterable(s.rows() for s in sources),
        reads=", ".join(f"{s.dataset} {s.reads}" for s in sources),
        description=lambda: "\n".join(filter(None, (s.description() for s in sources))) or None,
        chats=any(s.chats for s in sources),
        members=tuple(sources),
    )


def find_logs(folder: Path) -> list[Path]:
    """Return the logs in a folder and those below it, by name.

    Raises:
        UnreadableFileError: The system does not let us look.
    """
    try:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    except OSError as e:
        raise UnreadableFileError(folder, e) from None
    return [path for path in files if is_log(path)]


def _open(path: Path) -> Log:
    if path.suffix.lower() == ".jsonl":
        return HarnessLog(path)
    with open_file(path) as f:
        zipped = f.read(len(_ZIP)) == _ZIP
    if zipped or path.suffix.lower() == ".eval":
        return inspect_log.open_zip(path)
    contents = read_json(path)
    return inspect_log.open_json(path, contents if isinstance(contents, dict) else {})


def _source(origin: str, kind: str, task: str, logs: list[Log]) -> Source:
    """Return the source of a task's samples, all of which have been read once: a fault shows before a model is loaded."""
    rows, digest, kept = _Rows(logs), hashlib.sha256(), 0
    for row in rows():
        digest.update(check_storable(row, f"{printable_value(origin)}, sample").annotations())
        kept += 1
    if not kept:
        why = "; ".join(filter(None, (rows.left_out(), *dict.fromkeys(r for log in logs for r in log.remarks))))
        raise UsageError(
            f"{printable_value(origin)} has no sample to read of {printable_value(task, 100)}: {why or 'it is empty'}."
        )
    return Source(
        task,
        kind,
        None,
        origin,
        rows,
        reads=f"answers and scores {digest.hexdigest()[:16]}",  # what tells runs over two logs of one task apart
        description=lambda: rows.said(task),
        chats=logs[0].kind == "inspect",
    )


class _Rows:
    """Reads a task's samples from its logs, and counts what it leaves out."""

    def __init__(self, logs: list[Log]) -> None:
        self._logs = logs
        self._samples: dict[str, list[Sample]] = {}
        for log in logs:
            for sample in log.samples():
                self._samples.setdefault(sample.sample_id, []).append(sample)
        self._left_out = Counter[str]()
        self._read = Counter[str]()

    def __call__(self) -> Iterator[Row]:
        """Read the samples from the start: each with all its answers."""
        left_out, read = Counter[str](), Counter[str]()
        self._left_out, self._read = left_out, read
        for sample_id, samples in self._samples.items():
            answers = [answer for sample in samples for answer in sample.answers(left_out)]
            if answers:
                read["samples"] += 1
                read["scores"] += sum(len(a.evaluations) for a in answers)
                read["answers"] += sum(len(a.transcripts) for a in answers)
                yield _row(sample_id, answers)

    def left_out(self) -> str:
        """Say how many answers were left out, and why."""
        reasons = [f"{n:,} {reason}" for reason, n in self._left_out.items() if n and not reason.startswith("__")]
        return f"left out: {', '.join(reasons)}" if reasons else ""

    def said(self, task: str) -> str:
        """Say what was read, what was left out, and what else should be known."""
        unscored, opened = self._left_out["__unscored"], self._left_out["__opened"]
        facts = (
            f"{self._read['samples']:,} samples, {self._read['answers']:,} sequences, {self._read['scores']:,} scores",
            self.left_out(),
            f"{unscored:,} without a score" if unscored else "",
            f"{opened:,} were scored right after a BOS (--prepend-bos yes, unless the tokenizer puts one)"
            if opened
            else "",
            *dict.fromkeys(remark for log in self._logs for remark in log.remarks),
        )
        return f"{printable_value(task, 100)}: {'; '.join(filter(None, facts))}"


def _row(sample_id: str, answers: list[Answer]) -> Row:
    transcripts = list[Transcript]()
    scores = list[Evaluation]()
    for answer in answers:
        first, n = len(transcripts), len(answer.transcripts)
        for score in answer.evaluations:
            # a score of all sequences of an answer is one of all of the example's where that is its only answer
            seqs: list[Any] = [first + score.seq] if score.seq is not None else [None]
            if score.seq is None and len(answers) > 1:
                seqs = [*range(first, first + n)]
            scores += [replace(score, seq=seq) for seq in seqs]
        transcripts += answer.transcripts
    return Row(
        sample_id,
        answers[0].text,
        answers[0].metadata,
        transcripts=tuple(transcripts),
        evaluations=tuple(scores),
    )
