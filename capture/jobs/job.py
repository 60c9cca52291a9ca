"""What a job of capture is: data classes and types, no work.

`Options` is what a user chooses, `Job` what `prepare` makes of model, data and options, `Progress` what `run_job` reports after
each batch. `Generation` and `Tables` are what a kind of capture adds; `Run` and `Forecast` are the two functions that each kind
gives to the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import pyarrow as pa

from capture.data.example import Source
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.recording.plan import Plan
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import PADDED, Batch
from capture.sequences.bos import PREPEND_BOS
from capture.sequences.tokenize import SequenceMaker
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.manifest import Batches, Manifest
from warehouse.storage.objects import AnyPath

_LARGEST = {"seed": (1 << 63) - 1}
_LARGEST_DEFAULT = (1 << 31) - 1
_SMALLEST = {"seed": 0, "layer": 0, "sample_top_k": 0, "max_len": 2, "verify": 0, "random": 0}
"""The largest and smallest values of whole numbers among the options; others begin at 1."""
_TYPE_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", type(None): "None"}


@dataclass(frozen=True)
class Options:
    """What the user chose, besides model and data. All of it identifies a capture: resuming compares it."""

    capture: str = ""
    """The sites to store, comma-separated."""
    attn: str = "auto"
    """`auto`: attention is derived from q and k where that is exact; `stored`: it is always stored."""
    limit: int | None = None
    """The most examples; None: all."""
    sample: float | None = None
    """The share of all examples that is read, chosen by their ids; None: all."""
    keep_every: int = 1
    """Tensors are stored of one example in so many, chosen by their ids; rows of all."""
    max_len: int | None = None
    """The most tokens of a sequence; None: as many as the text has, at most the model's window."""
    chunk: bool = False
    """Whether the rest of a long text goes on in the next sequence."""
    stride: int | None = None
    """For overlapping windows of a long text: how many of its tokens after one window the next begins."""
    prepend_bos: str = "auto"
    """`auto`: a decoder's sequences begin as its tokenizer has it; `yes`, `no`: always with a BOS, or without."""
    target_column: str | None = None
    """The field of an example that an encoder-decoder's decoder reads."""
    batch_tokens: int = 1024
    """The most tokens of a batch, padding counted."""
    store_dtype: str = "auto"
    """What tensors are stored in; `auto`: the model's dtype, but float16 for float32 models."""
    shard_mb: int = 256
    """The size of a shard, MB."""
    index: str = "none"
    """What is searchable once the run is published: `resid.post_mlp@mid q@5`, or `auto`."""
    layer_internals: str = ""
    """Layers of which every site is stored: `5,8`, or `all`."""
    shard: str = ""
    """The part of the data that this run takes: `i/n` for every n-th example, from the i-th on."""

    def __post_init__(self) -> None:
        """Check values; raises UsageError for one that its option does not take."""
        check_option_values(self)
        if self.sample is not None and not 0 < self.sample <= 1:
            raise UsageError(
                f"--sample {self.sample:g}: give a share of the examples, above 0 and at most 1, such as 0.01."
            )
        if self.prepend_bos not in PREPEND_BOS:
            raise UsageError(f"--prepend-bos {self.prepend_bos}: use {', '.join(PREPEND_BOS)}.")

    @property
    def parents(self) -> list[str]:
        """The runs that something of the capture was taken from, apart from its model."""
        return []


def check_option_values(options: Any, largest: Mapping[str, int] = _LARGEST) -> None:
    """Check the types of options, and that their whole numbers are in range; whole numbers become floats where those are meant.

    Args:
        options: A dataclass, whose fields are named like its options.
        largest: The largest value of a field, where that is not 2^31 - 1.

    Raises:
        UsageError: An option has another type, or a number is out of range.
    """
    hints = get_type_hints(type(options))
    for f in fields(options):
        value, hint, name = getattr(options, f.name), hints[f.name], f"--{f.name.replace('_', '-')}"
        if get_origin(hint) not in (None, UnionType):
            continue
        kinds = get_args(hint) or (hint,)
        if float in kinds and type(value) is int:
            object.__setattr__(options, f.name, float(value))
        elif type(value) not in kinds:
            names = " or ".join(_TYPE_NAMES[kind] for kind in kinds)
            raise UsageError(f"{name} {value!r}: give {names}, not a {type(value).__name__}.")
        elif type(value) is int:
            least, most = _SMALLEST.get(f.name, 1), largest.get(f.name, _LARGEST_DEFAULT)
            if value < least:
                raise UsageError(f"{name} {value}: at least {least}.")
            if value > most:
                raise UsageError(f"{name}: at most {most:,}.")


@dataclass
class Progress:
    """How far a capture has come; the job reports it after every batch."""

    run_id: str
    examples: int = 0
    """Examples read. They are read a window at a time, so that some have not run yet."""
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
        """Count a batch that has been through the model."""
        self.examples += len(batch.examples)
        self.truncated += sum(t.truncated for t in batch.examples)
        self.altered += sum(t.altered for t in batch.examples)
        self.begun += sum(s.seq == 0 for s in batch.sequences)
        self.sequences += len(batch.sequences)
        self.tokens += batch.n_tokens
        self.predictions += sum(int(s.sides["dec"].is_predicted.sum()) for s in batch.sequences if "dec" in s.sides)


Report = Callable[[Progress], None]
"""Called with the progress after every batch."""

Tables = Callable[[Batch, Recording], Mapping[str, pa.Table]]
"""Makes a kind's own tables, by name, from a batch and its recording."""


def no_report(progress: Progress) -> None:
    """Ignore progress."""


def no_note(text: str) -> None:
    """Ignore a line of text."""


class Generation(Protocol):
    """How a model goes on with a batch of prompts, before prompt and response are read together and recorded."""

    growth: int
    """The most tokens that it adds to a prompt."""
    ignores_padding: bool
    """Whether prompts of several lengths may share a batch."""

    def complete(self, batch: Batch) -> Batch:
        """Return the batch with a response after each prompt."""
        ...

    def reading(self, batch: Batch) -> AbstractContextManager[Any]:
        """Return what has to be open while a completed batch is read."""
        ...


@dataclass(frozen=True)
class Job:
    """What `prepare` decided, the same from the first batch to the last."""

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
    """Makes a kind's own tables; not called for batches without sequences."""
    mean_loss: Callable[[Path], float | None]
    """Computes the mean loss, nats, from the finished tables in a folder; None for a kind without predictions."""
    refusal: Callable[[Progress], str | None] = field(default=lambda _: None)
    """Says why what was read makes no run, if so."""
    model_context: AbstractContextManager[Any] = field(default_factory=nullcontext)
    """What has to be open while batches go through the model."""
    indexed: list[Key] = field(default_factory=list)
    """The tensors that will be searchable."""
    generation: Generation | None = None
    """How the model goes on with prompts, for kinds that generate."""
    batch_rule: Batches = PADDED
    """What a batch may hold."""


class Run(Protocol):
    """A function that captures one run, or goes on with it where it was interrupted, and publishes it.

    It raises UsageError or TracesError for what a user can cause; shards that were complete by then are kept.
    """

    def __call__(
        self,
        loaded: loading.Loaded,
        source: Source,
        options: Any,
        *,
        root: AnyPath,
        run_id: str | None = None,
        report: Report = no_report,
        note: Callable[[str], None] = no_note,
    ) -> Manifest:
        """Capture a run.

        Args:
            loaded: The model.
            source: The data.
            options: What the user chose: the kind's own `Options`.
            root: The warehouse's folder.
            run_id: The run's name; None: one that follows from what is captured.
            report: Called with the progress after every batch.
            note: Called with lines that a user should see.

        Returns:
            The manifest of the published run.
        """
        ...


class Forecast(Protocol):
    """A function that says in lines what a capture would read and write; it tokenizes the data and writes nothing."""

    def __call__(self, loaded: loading.Loaded, source: Source, options: Any) -> list[str]:
        """Return those lines."""
        ...


def resolve_max_len(loaded: loading.Loaded, max_len: int | None) -> int | None:
    """Return the most tokens of a text.

    Args:
        loaded: The model.
        max_len: The option; None: the model's window.

    Returns:
        Tokens; None for a model without a window.

    Raises:
        UsageError: The model was made for fewer.
    """
    window = loaded.window
    if max_len is not None and window is not None and max_len > window:
        raise UsageError(f"--max-len {max_len} is more than {loaded.name} was made for: {window} tokens.")
    return max_len or window
