"""What a job of capture is: its options, its progress, and what a kind of capture adds to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from capture.data.example import Source
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.recording.plan import Plan
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import PADDED, Batch
from capture.sequences.encoding import PREPEND_BOS
from capture.sequences.tokenize import SequenceMaker
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.manifest import Batches, Manifest

_LARGEST = {"seed": (1 << 63) - 1}


_LARGEST_ELSE = (1 << 31) - 1
"""What a number among the options may be."""


@dataclass(frozen=True)
class Options:
    """What the user chose, besides model and data. All of it is part of what a capture is: resuming compares it."""

    capture: str = ""
    attn: str = "auto"
    """`auto`: attention is derived from q and k where that is exact; `stored`: stored in any case."""
    limit: int | None = None
    max_len: int | None = None
    """None: as long as the text is, at most the model's window."""
    chunk: bool = False
    """Go on with the rest of a long text in the next sequence."""
    stride: int | None = None
    """The same in windows that overlap: each begins so many tokens of the text after the one before it."""
    prepend_bos: str = "auto"
    """`auto`: a decoder's sequences begin as its tokenizer has it; `yes`, `no`: with a BOS in any case, or without."""
    target_column: str | None = None
    batch_tokens: int = 1024
    store_dtype: str = "auto"
    shard_mb: int = 256
    index: str = "none"
    """What is to be searchable once the run is there: `resid.post_mlp@mid q@5`, or `auto`."""
    layer_internals: str = ""
    """Layers of which every site is stored: `5,8`, or `all`."""
    shard: str = ""
    """`i/n`: every n-th example, from the i-th on."""

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that no computer counts to, and for a BOS that is neither asked for nor not."""
        check_numbers(self)
        if self.prepend_bos not in PREPEND_BOS:
            raise UsageError(f"--prepend-bos {self.prepend_bos}: use {', '.join(PREPEND_BOS)}.")

    @property
    def parents(self) -> list[str]:
        """Runs that something of the capture was taken from, its model apart."""
        return []


def check_numbers(options: Any, largest: Mapping[str, int] = _LARGEST) -> None:
    """Raises UsageError where a whole number among the options, a dataclass, is larger than the field may be."""
    for f in fields(options):
        value, most = getattr(options, f.name), largest.get(f.name, _LARGEST_ELSE)
        if isinstance(value, int) and value > most:
            raise UsageError(f"--{f.name.replace('_', '-')}: at most {most:,}.")


@dataclass
class Progress:
    """How far a capture is; the job calls back with it after every batch."""

    run_id: str
    examples: int = 0
    """Read, not all of them run yet: they are read a window at a time."""
    begun: int = 0
    """Examples whose first sequence has been through the model: what a progress bar shows."""
    sequences: int = 0
    tokens: int = 0
    predictions: int = 0
    """Positions that a decoder predicts a next token from."""
    truncated: int = 0
    altered: int = 0
    resumed_tokens: int = 0
    """Tokens that an earlier process had captured."""
    generated: int = 0
    """Tokens that the model generated; they are counted among `tokens` once they have been read."""

    def count(self, batch: Batch) -> None:
        self.examples += len(batch.examples)
        self.truncated += sum(t.truncated for t in batch.examples)
        self.altered += sum(t.altered for t in batch.examples)
        self.begun += sum(s.seq == 0 for s in batch.sequences)
        self.sequences += len(batch.sequences)
        self.tokens += batch.n_tokens
        self.predictions += sum(int(s.sides["dec"].is_predicted.sum()) for s in batch.sequences if "dec" in s.sides)


Report = Callable[[Progress], None]


Tables = Callable[[Batch, Recording], Mapping[str, pa.Table]]


def no_report(progress: Progress) -> None:
    pass


def no_note(text: str) -> None:
    pass


class Generation(Protocol):
    """How a kind of capture has the model go on with its prompts, before the whole of both is read."""

    growth: int
    """Most tokens that it adds to a prompt."""
    pads: bool
    """Prompts of several lengths may share a batch."""

    def complete(self, batch: Batch) -> Batch:
        """The same with what the model generated after each prompt."""
        ...

    def reading(self, batch: Batch) -> AbstractContextManager[Any]:
        """What has to be open while a completed batch is read."""
        ...


@dataclass(frozen=True)
class Job:
    """What stays the same from the first batch to the last."""

    kind: str
    loaded: loading.Loaded
    anatomy: Anatomy
    source: Source
    options: Options
    plan: Plan
    store: str
    sequencing: SequenceMaker
    rows: Rows
    tables: Tables
    """A kind's own tables; not asked for batches without sequences."""
    mean_loss: Callable[[Path], float | None]
    """Of the finished tables in a folder, nats; None for a kind without predictions."""
    refusal: Callable[[Progress], str | None] = field(default=lambda _: None)
    """Why what was read makes no run, if so."""
    around: AbstractContextManager[Any] = field(default_factory=nullcontext)
    """What has to be open while batches go through the model."""
    indexed: list[Key] = field(default_factory=list)
    """The tensors that are to be searchable."""
    generation: Generation | None = None
    batching: Batches = PADDED
    """What a batch may hold."""


class Run(Protocol):
    """Captures one run, or goes on with it where it was interrupted, and publishes it.

    Raises UsageError or TracesError for what a user can cause; what was complete by then is kept.
    """

    def __call__(
        self,
        loaded: loading.Loaded,
        source: Source,
        options: Any,
        *,
        root: Path,
        run_id: str | None = None,
        report: Report = no_report,
        note: Callable[[str], None] = no_note,
    ) -> Manifest: ...


class Forecast(Protocol):
    """What a capture would read and write, in lines; tokenizes the data and writes nothing."""

    def __call__(self, loaded: loading.Loaded, source: Source, options: Any) -> list[str]: ...


def max_len(loaded: loading.Loaded, asked: int | None) -> int | None:
    """The most tokens of a text. Raises UsageError where the model was not made for so many."""
    window = loaded.window
    if asked is not None and window is not None and asked > window:
        raise UsageError(f"--max-len {asked} is more than {loaded.name} was made for: {window} tokens.")
    return asked or window
