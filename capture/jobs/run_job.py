"""What every capture does, whatever its kind: batches through the model, tensors and rows to the writer, a run at the end.

In goes a `Job`; out comes the manifest of a published run. It reads as it runs: prove what a batch may hold, open a writer, and
shard by shard record each batch, make its rows and hand both over. A capture that was killed walks through the same shards again
and skips those that are done.

A kind of capture (next-token diagnostics, say) adds a function from a batch and its recording to tables. Each kind has one file
in `capture/jobs/`, whose `run` and `forecast` are made by `define_kind`; commands call those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capture.data.example import Source
from capture.interventions.intervene import check_not_held
from capture.jobs import run_manifest
from capture.jobs.head_rows import head_rows
from capture.jobs.job import Forecast, Generation, Job, Options, Progress, Report, Run, no_note, no_report
from capture.jobs.job_batches import explain_errors, make_shards, prove_batch_rule, read_examples
from capture.model import loading, model_info
from capture.model.attention_hook import eager_attention
from capture.model.failures import explain_memory_errors
from capture.model.in_memory import in_eval_mode
from capture.recording import means
from capture.recording.forward_pass import DtypeOverflow
from capture.recording.recorder import Recorder, model_inputs
from capture.sequences import batches
from capture.sequences.batches import Batch
from capture.sequences.partition import Partition
from capture.workers.assignment import assigned_part
from warehouse.analysis import heads
from warehouse.catalog import build
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.blobs import DTYPES
from warehouse.storage.chosen_examples import keeps_tensors
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parts import read_part
from warehouse.storage.run_writer import RunWriter
from warehouse.vectors import index_spec, ingest


def define_kind(prepare_job: Callable[[loading.Loaded, Source, Any], Job]) -> tuple[Run, Forecast]:
    """Make the functions `run` and `forecast` of a kind of capture.

    Args:
        prepare_job: Makes the job from a model, data and options.

    Returns:
        Both functions.
    """

    def run_kind(
        loaded: loading.Loaded,
        source: Source,
        options: Any,
        *,
        root: AnyPath,
        run_id: str | None = None,
        report: Report = no_report,
        note: Callable[[str], None] = no_note,
    ) -> Manifest:
        check_not_held(loaded.model)
        with explain_memory_errors(f"run {loaded.name}", _memory_remedy(options)), in_eval_mode(loaded.model):
            job = prepare_job(loaded, source, options)
            manifest = _run(job, root, run_id, report, note)
        if job.indexed and not assigned_part():  # the merged run is made searchable, not its parts
            ingest.add(root, manifest.run_id, index_spec.from_index_option(options.index, job.plan.stored), note=note)
            build.refresh(root)
        return manifest

    def forecast_kind(loaded: loading.Loaded, source: Source, options: Any) -> list[str]:
        with in_eval_mode(loaded.model):
            return _forecast(prepare_job(loaded, source, options))

    return run_kind, forecast_kind


def _run(job: Job, root: AnyPath, run_id: str | None, report: Report, note: Callable[[str], None]) -> Manifest:
    """Run a job from its first batch to its published run."""
    with job.model_context, eager_attention(job.loaded.model) if job.plan.eager else nullcontext():
        job = prove_batch_rule(job, note)
        model = model_info.model_info(job.loaded, job.anatomy)
        identity = run_manifest.identity(job, model)
        run_id = run_id or run_manifest.default_name(job.loaded.name, job.source, identity)
        with ExitStack() as stack:
            table = stack.enter_context(heads.HeadTable(run_id)) if job.plan.heads else None
            writer = stack.enter_context(RunWriter(root, run_id, identity.to_dict()))
            progress, data_hash = _capture(job, writer, table, report)
            if reason := _refusal(job, progress):
                writer.discard()
                raise UsageError(f"{job.source.origin}: {reason}")
            return publish(writer, lambda staged: run_manifest.manifest(job, staged, model, progress, data_hash))


def _capture(job: Job, writer: RunWriter, table: heads.HeadTable | None, report: Report) -> tuple[Progress, str]:
    """Capture every shard that is not on disk yet, with wider dtypes where values turn out to need them.

    Returns:
        What was captured, by earlier processes too, and the data's hash.
    """
    while True:
        try:
            return _capture_shards(job, writer, table, report)
        except DtypeOverflow as e:
            writer.promote(dict.fromkeys(e.tensors, "F32"))


def _capture_shards(job: Job, writer: RunWriter, table: heads.HeadTable | None, report: Report) -> tuple[Progress, str]:
    """Go through all shards: skip those on disk, and record and write the others."""
    part = Partition(job.options.shard)
    progress = Progress(writer.run_id)
    with Recorder(job.anatomy, job.plan.tensors, writer.promoted, job.plan.derives) as recorder:
        stored = {k: recorder.tensors.get(k, spec) for k, spec in job.plan.stored.items()}
        for number, shard in enumerate(make_shards(job, part)):
            resume_point = shard[-1].resume_point
            if number < len(writer.done):
                if writer.done[number].resume_point != resume_point:
                    raise UsageError(
                        f"The data is not what it was when the capture '{writer.run_id}' began, so it cannot go on. "
                        f"Drop it (traces runs rm {writer.run_id}) and run the same command again."
                    )
                _count_done_shard(shard, progress, 0 if job.generation is None else _generated_tokens(writer, number))
                report(progress)
                continue
            if job.generation is not None:
                shard = _generate(job, job.generation, shard, progress, report)
            writer.begin_shard(_tensor_rows(job, shard), stored)
            for batch in shard:
                writer.put(_record(job, recorder, batch, table))
                progress.count(batch)
                report(progress)
            writer.end_shard(resume_point)
    return progress, part.data_hash


def _count_done_shard(shard: list[Batch], progress: Progress, generated: int) -> None:
    """Count a shard that is on disk, in which the model generated `generated` tokens."""
    for batch in shard:
        progress.count(batch)
    progress.tokens += generated
    progress.generated += generated
    progress.resumed_tokens = progress.tokens


def _generated_tokens(writer: RunWriter, shard: int) -> int:
    """Return how many tokens an earlier process had the model generate in a shard."""
    column = "n_response_tokens"
    path = paths.staged_table_path(paths.staging_dir(writer.root, writer.run_id), "responses", shard)
    return int(pc.sum(read_part(path)[column]).as_py() or 0)


def _generate(job: Job, generation: Generation, shard: list[Batch], progress: Progress, report: Report) -> list[Batch]:
    """Return a shard's batches of prompts with the responses that the model generates, split where they no longer fit."""
    completed: list[Batch] = []
    for batch in shard:
        with _explain_errors(job, batch):
            whole = generation.complete(batch)
        completed += batches.split_batch(whole, job.batch_rule)
        progress.generated += whole.n_tokens - batch.n_tokens
        report(progress)
    return completed


def _record(job: Job, recorder: Recorder, batch: Batch, table: heads.HeadTable | None) -> RecordedBatch:
    """Run one forward pass, and return its tensors and rows for the writer."""
    tables = {}
    if batch.examples:
        tables = {"examples": job.rows.examples(batch.examples), **job.rows.annotations(batch.examples)}
    if not batch.sequences:
        specs = {k: recorder.tensors.get(k, spec) for k, spec in job.plan.stored.items()}
        empty = {k: np.empty((0, *s.row_shape), DTYPES[s.dtype]) for k, s in specs.items()}
        return RecordedBatch([], empty, {k: [] for k in empty}, tables)
    tokens, more = model_inputs(batch, job.loaded.model)
    with _explain_errors(job, batch):
        with job.generation.reading(batch) if job.generation is not None else nullcontext():
            recording = recorder.run(tokens, **more)
        kind_tables = job.tables(batch, recording)
    tables |= {"tokens": job.rows.tokens(batch), **job.rows.prompts(batch.sequences), **kind_tables}

    def deferred_tables() -> Mapping[str, pa.Table]:
        return {} if table is None else {"heads": head_rows(job.anatomy, table, batch, recording)}

    n = len(batch.sequences)
    averaged = {k: np.empty((n, *s.row_shape), np.float32) for k, s in job.plan.stored.items() if means.is_mean(k)}
    tensors = {k: averaged[k] if k in averaged else recording.tensors[k] for k in job.plan.stored}
    rows = {**recording.rows, **{k: [1] * n for k in averaged}}
    kept = [keeps_tensors(s.example.example_id, job.options.keep_every) for s in batch.sequences]
    stored = tensors
    if not all(kept):
        masks = {k: np.repeat(kept, rows[k]) for k in tensors}
        stored = {k: np.empty((int(masks[k].sum()), *x.shape[1:]), x.dtype) for k, x in tensors.items()}
        rows = {k: list(compress(rows[k], kept)) for k in tensors}

    def ready() -> None:
        recording.ready()
        means.fill(averaged, recording.tensors, [s.sides for s in batch.sequences])
        for k, x in stored.items() if stored is not tensors else ():
            np.compress(masks[k], tensors[k], axis=0, out=x)

    return RecordedBatch(
        sequences=[(s.example.example_id, s.seq) for s in compress(batch.sequences, kept)],
        tensors=stored,
        rows=rows,
        tables=tables,
        deferred_tables=deferred_tables,
        ready=ready,
        release=recording.release,
    )


def _tensor_rows(job: Job, shard: list[Batch]) -> dict[Key, int]:
    """Return how many rows of every stored tensor a shard will have."""
    lengths = [
        {side: len(p) for side, p in s.sides.items()}
        for batch in shard
        for s in batch.sequences
        if keeps_tensors(s.example.example_id, job.options.keep_every)
    ]
    kinds = {(k.side, s.row_kind) for k, s in job.plan.stored.items()}
    counts = {(side, kind): sum(sites.row_count(kind, side, n) for n in lengths) for side, kind in kinds}
    return {k: counts[k.side, s.row_kind] for k, s in job.plan.stored.items()}


def _explain_errors(job: Job, batch: Batch) -> AbstractContextManager[None]:
    """Turn what the model raises on a batch into one line with a remedy."""
    return explain_errors(job, max(len(part) for s in batch.sequences for part in s.sides.values()))


def _memory_remedy(options: Options) -> str:
    """Return what helps against too little memory, in options that every command of such a job has."""
    if (new := getattr(options, "max_new_tokens", None)) is not None:
        return f"Lower --max-new-tokens (now {new:,}), shorten the prompts, or compute in a smaller dtype, such as bfloat16."
    return (
        f"Lower --batch-tokens (now {options.batch_tokens:,}), cut texts with --max-len, or compute in a smaller dtype: --dtype "
        "bfloat16."
    )


def _refusal(job: Job, progress: Progress) -> str | None:
    """Return why the data that was read makes no run, if so."""
    reason = job.refusal(progress) if progress.tokens else "there is no text in it."
    if reason and job.options.shard:
        return f"of part {job.options.shard}: {reason} Use fewer parts: --part i/n with a smaller n, in all of them."
    return reason


def _forecast(job: Job) -> list[str]:
    """Return lines that say what a job would read and store; tokenizes the data and runs nothing."""
    examples, kept, lengths, of_kept = 0, 0, list[Mapping[str, int]](), list[Mapping[str, int]]()
    growth = 0 if job.generation is None else job.generation.growth
    for t in read_examples(job):
        examples += 1
        of_example = [{side: len(part) + growth for side, part in s.sides.items()} for s in t.sequences]
        lengths += of_example
        if keeps_tensors(t.example.example_id, job.options.keep_every):
            kept += 1
            of_kept += of_example
    tokens = sum(sum(n.values()) for n in lengths)
    size = job.plan.bytes(of_kept)
    names = dict.fromkeys(f"{'enc.' if k.side == 'enc' else ''}{k.site}" for k in job.plan.stored)
    most = "at most " if growth else ""
    return [
        f"{job.source.origin}: {examples:,} examples, {len(lengths):,} sequences, {most}{tokens:,} tokens",
        f"tensors: {', '.join(names) or 'none'}, {most}{size / 1e6:,.1f} MB as {job.store}"
        + (f", of {kept:,} examples (--keep-every {job.options.keep_every})" if kept < examples else ""),
        *(f"missing: {site}: {reason}" for site, reason in job.plan.missing.items()),
    ]
