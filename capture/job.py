"""What every capture does, whatever its kind: batches through the model, tensors and rows to the writer, a run at the end.

Reads as it runs: shard by shard record, make rows and hand over to the writer, which publishes at the end. A capture that was
killed walks through the same batches again and skips the shards that are done. What a kind adds (next-token diagnostics, say)
it gives as a function from a batch and its recording to tables; `capture/jobs/` has one file a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capture import batches, describe, independence, means, models
from capture.anatomy import Anatomy, Stack, examine
from capture.batches import ONE_LENGTH, ONE_TEXT, PADDED, Batch, Sequencing, Tokenized, Tokenizing, check_ids
from capture.body import vocabulary_size
from capture.data.example import Example, Source
from capture.derive import given_error, tolerance
from capture.encoding import PREPEND_BOS, bos_of
from capture.failures import memory_told, pass_told
from capture.listen import eager
from capture.plan import ATTN_HOMES, Plan, plan
from capture.probe import attention_outputs, probe_tokens
from capture.record import DtypeOutgrown, Recorder, Recording, inputs, store_dtype
from capture.rows import Rows
from capture.sharding import Share
from warehouse import catalog, heads, layout, sites
from warehouse import writer as traces
from warehouse.blobs import DTYPES
from warehouse.errors import UsageError
from warehouse.manifest import Batches, Manifest
from warehouse.sites import Key
from warehouse.vectors import asked, fill
from warehouse.writer import RunWriter

_SHARD_TOKENS = 1 << 16
"""Most tokens between two points from which a capture can go on, however little is stored for each."""
_SHARD_GENERATED = 1 << 12
"""The same where the model generates them: a token then takes several times as long."""
_CUT_SHORTER = "If that is too long for it, cut texts shorter: --max-len."
_ASK_SHORTER = "If that is too long for it, shorten the prompts, or lower --max-new-tokens."
"""The same where the model goes on with them."""
_NO_COMPARISON = "The choices of a question, which differ in length, cannot be compared."
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
        self.tokens += batch.tokens
        self.predictions += sum(int(s.parts["dec"].predicted.sum()) for s in batch.sequences if "dec" in s.parts)


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
    loaded: models.Loaded
    anatomy: Anatomy
    source: Source
    options: Options
    plan: Plan
    store: str
    sequencing: Sequencing
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
    holds: Batches = PADDED
    """What a batch may hold."""


class Run(Protocol):
    """Captures one run, or goes on with it where it was interrupted, and publishes it.

    Raises UsageError or TracesError for what a user can cause; what was complete by then is kept.
    """

    def __call__(
        self,
        loaded: models.Loaded,
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

    def __call__(self, loaded: models.Loaded, source: Source, options: Any) -> list[str]: ...


def of_kind(prepared: Callable[[models.Loaded, Source, Any], Job]) -> tuple[Run, Forecast]:
    """`run` and `forecast` of a kind of capture; its module says which job model, data and options make."""

    def run_kind(
        loaded: models.Loaded,
        source: Source,
        options: Any,
        *,
        root: Path,
        run_id: str | None = None,
        report: Report = no_report,
        note: Callable[[str], None] = no_note,
    ) -> Manifest:
        with memory_told(f"run {loaded.name}", _less_memory(options)):
            found = prepared(loaded, source, options)
            manifest = _run(found, root, run_id, report, note)
        if found.indexed:
            fill.add(root, manifest.run_id, asked.chosen(options.index, found.plan.stored), note=note)
            catalog.refresh(root)
        return manifest

    return run_kind, lambda loaded, source, options: _forecast(prepared(loaded, source, options))


def prepare(
    kind: str,
    loaded: models.Loaded,
    source: Source,
    options: Options,
    rows: Rows,
    tables: Tables,
    mean_loss: Callable[[Path], float | None],
    refusal: Callable[[Progress], str | None] = lambda _: None,
    anatomy: Anatomy | None = None,
    sequencing: Sequencing | None = None,
    around: AbstractContextManager[Any] | None = None,
    generation: Generation | None = None,
) -> Job:
    """Looks at the model and resolves what is to be stored. `sequencing`: how examples become sequences; left out, their texts
    do. Raises UsageError where they don't go together."""
    sites.resolve(options.capture)
    if options.attn not in ATTN_HOMES:
        raise UsageError(f"--attn {options.attn}: use {' or '.join(ATTN_HOMES)}.")
    anatomy = anatomy or examine(loaded.model)
    sequencing = sequencing or _tokenizing(loaded, anatomy, options).sequencing()
    store = store_dtype(loaded.dtype, options.store_dtype)
    internals = _layers(options.layer_internals, len(anatomy.main.layers))
    chosen = plan(anatomy, options.capture, options.attn, store, sequencing.sides, internals)
    n_layers = {side: len(stack.layers) for side, stack in anatomy.stacks.items()}
    indexed = asked.keys(asked.chosen(options.index, chosen.stored), chosen.stored, n_layers, anatomy.main.side)
    if chosen.eager:
        _check_given(loaded, anatomy)
    return Job(
        kind,
        loaded,
        anatomy,
        source,
        options,
        chosen,
        store,
        sequencing,
        rows,
        tables,
        mean_loss,
        refusal,
        around or nullcontext(),
        indexed,
        generation,
    )


def _run(job: Job, root: Path, run_id: str | None, report: Report, note: Callable[[str], None]) -> Manifest:
    with job.around, eager(job.loaded.model) if job.plan.eager else nullcontext():
        job = _proven(job, note)
        model = describe.model_info(job.loaded, job.anatomy)
        identity = describe.identity(job, model)
        run_id = run_id or describe.default_name(job.loaded.name, job.source, identity)
        with ExitStack() as stack:
            table = stack.enter_context(heads.HeadTable(run_id)) if job.plan.heads else None
            writer = stack.enter_context(RunWriter(root, run_id, identity))
            progress, data_hash = _capture(job, writer, table, report)
            if reason := _refusal(job, progress):
                writer.discard()
                raise UsageError(f"{job.source.origin}: {reason}")
            return writer.publish(lambda published: describe.manifest(job, published, model, progress, data_hash))


def _proven(job: Job, note: Callable[[str], None]) -> Job:
    """Finds what batches may hold, on the data that will be read. Raises UsageError where sequences that cannot be parted would
    not fit that, and TracesError where a text is read differently the second time."""
    body, loaded = job.anatomy.body, job.loaded
    found = independence.extremes(_batches(job, _read(job)))
    if found is None:
        return job
    growth = 0 if job.generation is None else job.generation.growth
    longest = max(found.longest.lengths.values())
    with pass_told(loaded.name, longest, _ASK_SHORTER if job.generation is not None else _CUT_SHORTER):
        proven = independence.prove(body, found, loaded.name, growth, loaded.window)
    body.pads, body.shares = proven.batches == PADDED, proven.batches != ONE_TEXT
    if line := proven.line(loaded.name):
        note(line)
        compared = job.sequencing.together and job.generation is None
        if compared and any(len(t.sequences) > 1 for t in _read(job)):
            raise UsageError(f"{line}. {_NO_COMPARISON}")
    return replace(job, holds=proven.batches)


def _less_memory(options: Options) -> str:
    """What helps, by the options that every command of such a job has."""
    if (new := getattr(options, "max_new_tokens", None)) is not None:
        return f"Lower --max-new-tokens (now {new:,}), shorten the prompts, or compute in a smaller dtype, such as bfloat16."
    return (
        f"Lower --batch-tokens (now {options.batch_tokens:,}), cut texts with --max-len, or compute in a smaller dtype: --dtype "
        "bfloat16."
    )


def _tokenized(job: Job, examples: Iterable[Example]) -> Iterator[Tokenized]:
    """Raises UsageError where a token is not in the model's embedding."""
    loaded, size = job.loaded, vocabulary_size(job.loaded.model)
    for t in job.sequencing.tokenize(examples):
        for s in t.sequences:
            for part in s.parts.values():
                where = f"{job.source.origin}, example {t.example.row.source_id}"
                check_ids(part.ids, size, loaded.tokenizer, loaded.name, where)
        yield t


def _read(job: Job, share: Share | None = None) -> Iterator[Tokenized]:
    """The examples of the run, as sequences."""
    share = share or Share(job.options.shard)
    return share.placed(_tokenized(job, share.of(islice(job.source.read(), job.options.limit))))


def _batches(job: Job, examples: Iterable[Tokenized]) -> Iterator[Batch]:
    """As they go through the model: where it is to go on with them, as prompts."""
    growth, holds = 0, job.holds
    if job.generation is not None:
        growth = job.generation.growth
        if holds == PADDED and not job.generation.pads:
            holds = ONE_LENGTH
    return batches.batches(examples, job.options.batch_tokens, holds, job.sequencing.together, growth)


def _forecast(job: Job) -> list[str]:
    n, lengths = 0, list[Mapping[str, int]]()
    growth = 0 if job.generation is None else job.generation.growth
    for t in _read(job):
        n += 1
        lengths += [{side: len(part) + growth for side, part in s.parts.items()} for s in t.sequences]
    tokens = sum(sum(n.values()) for n in lengths)
    causal = {side: stack.causal for side, stack in job.anatomy.stacks.items()}
    size = job.plan.bytes(lengths, causal)
    names = dict.fromkeys(f"{'enc.' if k.side == 'enc' else ''}{k.site}" for k in job.plan.stored)
    most = "at most " if growth else ""
    return [
        f"{job.source.origin}: {n:,} examples, {len(lengths):,} sequences, {most}{tokens:,} tokens",
        f"tensors: {', '.join(names) or 'none'}, {most}{size / 1e6:,.1f} MB as {job.store}",
        *(f"not there: {site}: {reason}" for site, reason in job.plan.missing.items()),
    ]


def max_len(loaded: models.Loaded, asked: int | None) -> int | None:
    """The most tokens of a text. Raises UsageError where the model was not made for so many."""
    window = loaded.window
    if asked is not None and window is not None and asked > window:
        raise UsageError(f"--max-len {asked} is more than {loaded.name} was made for: {window} tokens.")
    return asked or window


def _layers(asked: str, n: int) -> list[int]:
    """Raises UsageError for what names no layer."""
    if asked == "all":
        return list(range(n))
    found = []
    for word in filter(None, asked.split(",")):
        if not word.strip().isdecimal() or len(word.strip()) > 9 or int(word) >= n:
            raise UsageError(f"--layer-internals {word.strip()}: use layers from 0 to {n - 1}, or all.")
        found.append(int(word))
    return found


def _tokenizing(loaded: models.Loaded, anatomy: Anatomy, options: Options) -> Tokenizing:
    limit = max_len(loaded, options.max_len)
    side = "enc" if anatomy.body.encoder_decoder else anatomy.body.side
    target, start, chunk = options.target_column, None, options.chunk or options.stride is not None
    decoder = side == "dec"
    if not decoder and options.prepend_bos != "auto":
        what = "an encoder-decoder" if anatomy.body.encoder_decoder else "an encoder"
        raise UsageError(
            f"--prepend-bos {options.prepend_bos} is for decoders; {loaded.name} is {what}, whose tokenizer puts around a text what "
            "the model was trained with."
        )
    if options.stride is not None and limit is None:
        raise UsageError(
            f"--stride needs --max-len: {loaded.name} has no longest sequence, and would read all of a text at once."
        )
    if target is not None:
        if not anatomy.body.encoder_decoder:
            raise UsageError(f"--target-column is for encoder-decoder models; {loaded.name} has one stack.")
        if chunk:
            name = "--chunk" if options.stride is None else "--stride"
            raise UsageError(f"{name} and --target-column don't go together: a target belongs to a whole text.")
        start = _start_id(loaded)
    target_limit = min((n for n in (options.max_len, loaded.target_window) if n is not None), default=None)
    bos = bos_of(loaded, options.prepend_bos)
    return Tokenizing(loaded.tokenizer, side, limit, chunk, target, start, target_limit, options.stride, bos)


def _check_given(loaded: models.Loaded, anatomy: Anatomy) -> None:
    """Raises UsageError where the attention that would be stored is not what the model applies."""
    with eager(loaded.model):
        calls = attention_outputs(anatomy.body, probe_tokens(anatomy.body))
    worst = max((given_error(call) for call in calls), default=0.0)
    if worst > 10 * tolerance(loaded.model.dtype):
        raise UsageError(
            f"{loaded.name} gives other attention probabilities than it applies (off by {worst:.1e}), so that they are not "
            "stored. Leave out --attn stored where attention can be derived (traces model check), or attn and heads."
        )


def _start_id(loaded: models.Loaded) -> int:
    """The token that the decoder begins with. Raises UsageError where the model names none that it has."""
    size = vocabulary_size(loaded.model)
    for config in (getattr(loaded.model, "generation_config", None), loaded.model.config):
        found = getattr(config, "decoder_start_token_id", None)
        if isinstance(found, int):
            if not 0 <= found < size:
                raise UsageError(
                    f"{loaded.name} has its decoder begin with token {found} (decoder_start_token_id), and its embedding has "
                    f"{size:,} rows: correct its config.json or generation_config.json."
                )
            return found
    raise UsageError(f"{loaded.name} doesn't say which token its decoder begins with (decoder_start_token_id).")


# -- through the model -------------------------------------------------------------------------------------------------


def _capture(job: Job, writer: RunWriter, table: heads.HeadTable | None, report: Report) -> tuple[Progress, str]:
    """Runs every batch that is not on disk yet; returns what was done, by earlier processes too, and the data's hash."""
    while True:
        try:
            return _walk(job, writer, table, report)
        except DtypeOutgrown as e:
            writer.promote(dict.fromkeys(e.tensors, "F32"))


def _walk(job: Job, writer: RunWriter, table: heads.HeadTable | None, report: Report) -> tuple[Progress, str]:
    share, generation = Share(job.options.shard), job.generation
    found = _batches(job, _read(job, share))
    growth = 0
    if generation is not None:
        growth, found = generation.growth, batches.with_own_examples(found)
    shards = batches.shards(found, _tokens_per_shard(job), growth)
    progress, mark = Progress(writer.run_id), ""
    with Recorder(job.anatomy, job.plan.tensors, writer.promoted, job.plan.derives) as recorder:
        stored = {k: recorder.tensors.get(k, spec) for k, spec in job.plan.stored.items()}
        for number, shard in enumerate(shards):
            mark = shard[-1].mark
            if number < len(writer.done):
                if writer.done[number].mark != mark:
                    raise UsageError(
                        f"The data is not what it was when the capture '{writer.run_id}' began, so it cannot go on. "
                        f"Drop it (traces runs rm {writer.run_id}) and run the same command again."
                    )
                _skip(shard, progress, _generated(writer, number) if generation is not None else 0, report)
                continue
            if generation is not None:
                shard = _completed(job, generation, shard, progress, report)
            writer.begin_shard(_shard_rows(job, shard), stored)
            for batch in shard:
                writer.put(_record(job, recorder, batch, table))
                progress.count(batch)
                report(progress)
            writer.end_shard(mark)
    return progress, share.data_hash


def _skip(shard: list[Batch], progress: Progress, generated: int, report: Report) -> None:
    for batch in shard:
        progress.count(batch)
    progress.tokens += generated
    progress.generated += generated
    progress.resumed_tokens = progress.tokens
    report(progress)


def _generated(writer: RunWriter, shard: int) -> int:
    """Tokens that an earlier process had the model generate in a shard."""
    column = "n_response_tokens"
    path = layout.part_path(layout.staging_dir(writer.root, writer.run_id), "responses", shard)
    return int(pc.sum(pq.read_table(path, columns=[column])[column]).as_py() or 0)


def _completed(job: Job, generation: Generation, shard: list[Batch], progress: Progress, report: Report) -> list[Batch]:
    found: list[Batch] = []
    for batch in shard:
        with _pass_told(job, batch):
            whole = generation.complete(batch)
        found += batches.parted(whole, job.holds)
        progress.generated += whole.tokens - batch.tokens
        report(progress)
    return found


def _record(job: Job, recorder: Recorder, batch: Batch, table: heads.HeadTable | None) -> traces.Batch:
    """One forward pass, its tensors and its rows."""
    tables = {}
    if batch.examples:
        tables = {"examples": job.rows.examples(batch.examples), **job.rows.annotations(batch.examples)}
    if not batch.sequences:
        specs = {k: recorder.tensors.get(k, spec) for k, spec in job.plan.stored.items()}
        none = {k: np.empty((0, *s.row_shape), DTYPES[s.dtype]) for k, s in specs.items()}
        return traces.Batch([], none, {k: [] for k in none}, tables)
    tokens, more = inputs(batch, job.loaded.model)
    with _pass_told(job, batch):
        with job.generation.reading(batch) if job.generation is not None else nullcontext():
            recording = recorder.run(tokens, **more)
        found = job.tables(batch, recording)
    tables |= {"tokens": job.rows.tokens(batch), **job.rows.prompts(batch.sequences), **found}

    def late() -> Mapping[str, pa.Table]:
        return {} if table is None else {"heads": _heads(job, table, batch, recording)}

    n = len(batch.sequences)
    averaged = {k: np.empty((n, *s.row_shape), np.float32) for k, s in job.plan.stored.items() if means.is_mean(k)}

    def ready() -> None:
        recording.ready()
        means.fill(averaged, recording.tensors, [s.parts for s in batch.sequences])

    return traces.Batch(
        [(s.example.example_id, s.seq) for s in batch.sequences],
        {k: averaged[k] if k in averaged else recording.tensors[k] for k in job.plan.stored},
        {**recording.rows, **{k: [1] * n for k in averaged}},
        tables,
        late,
        ready,
        recording.release,
    )


def _pass_told(job: Job, batch: Batch) -> AbstractContextManager[None]:
    """What the model raises on a batch becomes one line."""
    longest = max(len(part) for s in batch.sequences for part in s.parts.values())
    return pass_told(job.loaded.name, longest, _ASK_SHORTER if job.generation is not None else _CUT_SHORTER)


def _heads(job: Job, table: heads.HeadTable, batch: Batch, recording: Recording) -> pa.Table:
    """What each head does on each sequence, from the tensors as they are stored."""
    found, at = [], dict.fromkeys(recording.tensors, 0)
    for n, sequence in enumerate(batch.sequences):
        rows = {k: x[at[k] : at[k] + recording.rows[k][n]] for k, x in recording.tensors.items()}
        for k in at:
            at[k] += recording.rows[k][n]
        for side, part in sequence.parts.items():
            stack = job.anatomy.stacks[side]
            layers = {i: _head_layer(stack, i, rows) for i in stack.attention_layers}
            found.append(table.rows(sequence.example.example_id, sequence.seq, side, part.ids, layers))
    return pa.concat_tables(found)


def _head_layer(stack: Stack, i: int, rows: Mapping[Key, np.ndarray]) -> heads.Layer:
    q, k = Key(stack.side, "q", i), Key(stack.side, "k", i)
    formula = stack.layers[i].attends
    if formula is not None and q in rows and k in rows:
        return heads.from_qk(rows[q], rows[k], formula)
    return heads.from_stored(rows[Key(stack.side, "attn", i)], sites.row_kind("attn", stack.causal))


def _shard_rows(job: Job, shard: list[Batch]) -> dict[Key, int]:
    """How many rows of every stored tensor a shard will have."""
    lengths = [{side: len(p) for side, p in s.parts.items()} for batch in shard for s in batch.sequences]
    kinds = {(k.side, sites.row_kind(k.site, job.anatomy.stacks[k.side].causal)) for k in job.plan.stored}
    counts = {(side, kind): sum(sites.row_count(kind, side, n) for n in lengths) for side, kind in kinds}
    return {k: counts[k.side, sites.row_kind(k.site, job.anatomy.stacks[k.side].causal)] for k in job.plan.stored}


def _tokens_per_shard(job: Job) -> int:
    """From the dtype that was planned, promotions apart: a shard's batches must not change when a tensor is promoted. Stored
    attention is reckoned at the longest row that a batch can have."""
    reach = min(job.options.batch_tokens, job.sequencing.max_len or job.options.batch_tokens)
    pairs = (sites.TRIANGLE, sites.SQUARE, sites.CROSS)
    token_bytes = sum(
        spec.row_bytes * (reach if sites.row_kind(k.site, job.anatomy.stacks[k.side].causal) in pairs else 1)
        for k, spec in job.plan.stored.items()
    )
    most = _SHARD_TOKENS if job.generation is None else _SHARD_GENERATED
    return max(1, min(most, (job.options.shard_mb << 20) // max(token_bytes, 1)))


def _refusal(job: Job, progress: Progress) -> str | None:
    reason = job.refusal(progress) if progress.tokens else "there is no text in it."
    if reason and job.options.shard:
        return f"of shard {job.options.shard}: {reason} Use fewer shards: --shard i/n with a smaller n, in all of them."
    return reason
