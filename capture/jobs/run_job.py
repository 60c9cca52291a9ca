"""What every capture does, whatever its kind: batches through the model, tensors and rows to the writer, a run at the end.

Reads as it runs: shard by shard record, make rows and hand over to the writer, which publishes at the end. A capture that was
killed walks through the same batches again and skips the shards that are done. What a kind adds (next-token diagnostics, say)
it gives as a function from a batch and its recording to tables; `capture/jobs/` has one file a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capture.data.example import Source
from capture.jobs import run_manifest
from capture.jobs.job import Forecast, Generation, Job, Options, Progress, Report, Run, no_note, no_report
from capture.jobs.prepare import _ASK_SHORTER, _CUT_SHORTER, _batches, _proven, _read
from capture.model import loading, model_info
from capture.model.anatomy import Stack
from capture.model.attention_hook import eager_attention
from capture.model.failures import explain_forward_errors, explain_memory_errors
from capture.recording import means
from capture.recording.forward_pass import DtypeOverflow
from capture.recording.recorder import Recorder, Recording, model_inputs
from capture.sequences import batches
from capture.sequences.batches import Batch
from capture.sequences.partition import Partition
from warehouse.analysis import heads
from warehouse.catalog import build
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.blobs import DTYPES
from warehouse.storage.manifest import Manifest
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_writer import RunWriter
from warehouse.vectors import index_spec, ingest

_SHARD_TOKENS = 1 << 16
"""Most tokens between two points from which a capture can go on, however little is stored for each."""
_SHARD_GENERATED = 1 << 12
"""The same where the model generates them: a token then takes several times as long."""


def for_kind(prepared: Callable[[loading.Loaded, Source, Any], Job]) -> tuple[Run, Forecast]:
    """`run` and `forecast` of a kind of capture; its module says which job model, data and options make."""

    def run_kind(
        loaded: loading.Loaded,
        source: Source,
        options: Any,
        *,
        root: Path,
        run_id: str | None = None,
        report: Report = no_report,
        note: Callable[[str], None] = no_note,
    ) -> Manifest:
        with explain_memory_errors(f"run {loaded.name}", _less_memory(options)):
            found = prepared(loaded, source, options)
            manifest = _run(found, root, run_id, report, note)
        if found.indexed:
            ingest.add(root, manifest.run_id, index_spec.from_index_option(options.index, found.plan.stored), note=note)
            build.refresh(root)
        return manifest

    return run_kind, lambda loaded, source, options: _forecast(prepared(loaded, source, options))


def _run(job: Job, root: Path, run_id: str | None, report: Report, note: Callable[[str], None]) -> Manifest:
    with job.around, eager_attention(job.loaded.model) if job.plan.eager else nullcontext():
        job = _proven(job, note)
        model = model_info.model_info(job.loaded, job.anatomy)
        identity = run_manifest.identity(job, model)
        run_id = run_id or run_manifest.default_name(job.loaded.name, job.source, identity)
        with ExitStack() as stack:
            table = stack.enter_context(heads.HeadTable(run_id)) if job.plan.heads else None
            writer = stack.enter_context(RunWriter(root, run_id, identity))
            progress, data_hash = _capture(job, writer, table, report)
            if reason := _refusal(job, progress):
                writer.discard()
                raise UsageError(f"{job.source.origin}: {reason}")
            return publish(writer, lambda published: run_manifest.manifest(job, published, model, progress, data_hash))


def _less_memory(options: Options) -> str:
    """What helps, by the options that every command of such a job has."""
    if (new := getattr(options, "max_new_tokens", None)) is not None:
        return f"Lower --max-new-tokens (now {new:,}), shorten the prompts, or compute in a smaller dtype, such as bfloat16."
    return (
        f"Lower --batch-tokens (now {options.batch_tokens:,}), cut texts with --max-len, or compute in a smaller dtype: --dtype "
        "bfloat16."
    )


def _forecast(job: Job) -> list[str]:
    n, lengths = 0, list[Mapping[str, int]]()
    growth = 0 if job.generation is None else job.generation.growth
    for t in _read(job):
        n += 1
        lengths += [{side: len(part) + growth for side, part in s.sides.items()} for s in t.sequences]
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


# -- through the model -------------------------------------------------------------------------------------------------


def _capture(job: Job, writer: RunWriter, table: heads.HeadTable | None, report: Report) -> tuple[Progress, str]:
    """Runs every batch that is not on disk yet; returns what was done, by earlier processes too, and the data's hash."""
    while True:
        try:
            return _walk(job, writer, table, report)
        except DtypeOverflow as e:
            writer.promote(dict.fromkeys(e.tensors, "F32"))


def _walk(job: Job, writer: RunWriter, table: heads.HeadTable | None, report: Report) -> tuple[Progress, str]:
    share, generation = Partition(job.options.shard), job.generation
    found = _batches(job, _read(job, share))
    growth = 0
    if generation is not None:
        growth, found = generation.growth, batches.with_own_examples(found)
    shards = batches.group_into_shards(found, _tokens_per_shard(job), growth)
    progress, mark = Progress(writer.run_id), ""
    with Recorder(job.anatomy, job.plan.tensors, writer.promoted, job.plan.derives) as recorder:
        stored = {k: recorder.tensors.get(k, spec) for k, spec in job.plan.stored.items()}
        for number, shard in enumerate(shards):
            mark = shard[-1].resume_point
            if number < len(writer.done):
                if writer.done[number].resume_point != mark:
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
    path = paths.staged_table_path(paths.staging_dir(writer.root, writer.run_id), "responses", shard)
    return int(pc.sum(pq.read_table(path, columns=[column])[column]).as_py() or 0)


def _completed(job: Job, generation: Generation, shard: list[Batch], progress: Progress, report: Report) -> list[Batch]:
    found: list[Batch] = []
    for batch in shard:
        with _pass_told(job, batch):
            whole = generation.complete(batch)
        found += batches.split_batch(whole, job.batching)
        progress.generated += whole.n_tokens - batch.n_tokens
        report(progress)
    return found


def _record(job: Job, recorder: Recorder, batch: Batch, table: heads.HeadTable | None) -> RecordedBatch:
    """One forward pass, its tensors and its rows."""
    tables = {}
    if batch.examples:
        tables = {"examples": job.rows.examples(batch.examples), **job.rows.annotations(batch.examples)}
    if not batch.sequences:
        specs = {k: recorder.tensors.get(k, spec) for k, spec in job.plan.stored.items()}
        none = {k: np.empty((0, *s.row_shape), DTYPES[s.dtype]) for k, s in specs.items()}
        return RecordedBatch([], none, {k: [] for k in none}, tables)
    tokens, more = model_inputs(batch, job.loaded.model)
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
        means.fill(averaged, recording.tensors, [s.sides for s in batch.sequences])

    return RecordedBatch(
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
    longest = max(len(part) for s in batch.sequences for part in s.sides.values())
    return explain_forward_errors(
        job.loaded.name, longest, _ASK_SHORTER if job.generation is not None else _CUT_SHORTER
    )


def _heads(job: Job, table: heads.HeadTable, batch: Batch, recording: Recording) -> pa.Table:
    """What each head does on each sequence, from the tensors as they are stored."""
    found, at = [], dict.fromkeys(recording.tensors, 0)
    for n, sequence in enumerate(batch.sequences):
        rows = {k: x[at[k] : at[k] + recording.rows[k][n]] for k, x in recording.tensors.items()}
        for k in at:
            at[k] += recording.rows[k][n]
        for side, part in sequence.sides.items():
            stack = job.anatomy.stacks[side]
            layers = {i: _head_layer(stack, i, rows) for i in stack.attention_layers}
            found.append(table.rows(sequence.example.example_id, sequence.seq, side, part.ids, layers))
    return pa.concat_tables(found)


def _head_layer(stack: Stack, i: int, rows: Mapping[Key, np.ndarray]) -> heads.LayerHeads:
    q, k = Key(stack.side, "q", i), Key(stack.side, "k", i)
    formula = stack.layers[i].formula
    if formula is not None and q in rows and k in rows:
        return heads.from_qk(rows[q], rows[k], formula)
    return heads.from_stored(rows[Key(stack.side, "attn", i)], sites.row_kind("attn", stack.causal))


def _shard_rows(job: Job, shard: list[Batch]) -> dict[Key, int]:
    """How many rows of every stored tensor a shard will have."""
    lengths = [{side: len(p) for side, p in s.sides.items()} for batch in shard for s in batch.sequences]
    kinds = {(k.side, sites.row_kind(k.site, job.anatomy.stacks[k.side].causal)) for k in job.plan.stored}
    counts = {(side, kind): sum(sites.row_count(kind, side, n) for n in lengths) for side, kind in kinds}
    return {k: counts[k.side, sites.row_kind(k.site, job.anatomy.stacks[k.side].causal)] for k in job.plan.stored}


def _tokens_per_shard(job: Job) -> int:
    """From the dtype that was planned, promotions apart: a shard's batches must not change when a tensor is promoted. Stored
    attention is reckoned at the longest row that a batch can have.
    """
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
        return f"of part {job.options.shard}: {reason} Use fewer parts: --part i/n with a smaller n, in all of them."
    return reason
