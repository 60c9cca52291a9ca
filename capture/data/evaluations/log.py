"""What every log of an evaluation gives, whatever its format: samples by id, each time read from the file.

`inspect_log` and `harness_log` make such logs; `open_logs` makes a source of one or several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from capture.data.evaluation import Evaluation
from capture.data.transcript import Transcript


@dataclass(frozen=True)
class Answer:
    """An answer of a model to a sample, or all that it was scored on of it."""

    text: str
    """What was asked, for people."""
    transcripts: tuple[Transcript, ...]
    """What the model read and wrote, one sequence each."""
    evaluations: tuple[Evaluation, ...]
    """Its scores; their `seq` is the place among the transcripts."""
    metadata: dict[str, Any]
    """What the data set says of the sample."""


@dataclass(frozen=True)
class Sample:
    """A place in a log: the answers of one model to one question are read from it."""

    sample_id: str
    answers: Callable[[Counter[str]], Iterator[Answer]]
    """Reads them; counts what it leaves out, by reason."""


class Log(Protocol):
    """A log that is open: its header is read, its samples are known by their ids."""

    task: str
    """The evaluation's task: the data set that its samples belong to."""
    kind: str
    """The format, which tells apart data sets of the same name."""
    model: str | None
    """The model that was evaluated."""
    remarks: tuple[str, ...]
    """What a user should know of the log as a whole."""

    def samples(self) -> Iterator[Sample]:
        """Yield the places of its samples, in order; a sample may have several."""
        ...
