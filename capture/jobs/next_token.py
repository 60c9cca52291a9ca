"""The next-token job: texts through a model, diagnostics at every position that has a next token, tensors where asked for.

Reads as it runs: look at the model, then shard by shard record, diagnose and hand over to the writer, which publishes at the
end. A capture that was killed walks through the same batches again and skips the shards that are done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
import xxhash

from capture import batches, models
from capture.anatomy import Anatomy, Head, examine
from capture.batches import Batch
from capture.data.example import Source
from capture.diagnostics import Diagnostics, next_token_diagnostics
from capture.record import DtypeOutgrown, Recorder, store_dtype
from capture.rows import Rows
from capture.versions import versions
from warehouse import layout, sites
from warehouse import writer as traces
from warehouse.blobs import DTYPES, TensorSpec
from warehouse.errors import TracesError, UsageError
from warehouse.manifest import Counts, DataInfo, Manifest, ModelInfo, SiteInfo
from warehouse.quoting import sql_path
from warehouse.schema import SCHEMA_VERSION
from warehouse.writer import Published, RunWriter

KIND = "next-token"

_SHARD_TOKENS = 1 << 16
"""Most tokens between two points from which a capture can go on, however little is stored for each."""


@dataclass(frozen=True)
class Options:
    """What the user chose, besides model and data. All of it is part of what a capture is: resuming compares it."""

    capture: str = ""
    limit: int | None = None
    max_len: int | None = None
    """None: as long as the text is, at most the model's window."""
    chunk: bool = False
    batch_tokens: int = 1024
    top_k: int = 5
    store_dtype: str = "auto"
    shard_mb: int = 256


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
    truncated: int = 0
    resumed_tokens: int = 0
    """Tokens that an earlier process had captured."""

    def count(self, batch: Batch) -> None:
        self.examples += len(batch.examples)
        self.truncated += sum(t.truncated for t in batch.examples)
        self.begun += sum(s.seq == 0 for s in batch.sequences)
        self.sequences += len(batch.sequences)
        self.tokens += batch.tokens
        self.predictions += batch.tokens - len(batch.sequences)


@dataclass(frozen=True)
class _Job:
    """What stays the same from the first batch to the last."""

    loaded: models.Loaded
    anatomy: Anatomy
    sites: tuple[str, ...]
    store: str
    options: Options
    head: Head
    rows: Rows
    vocabulary: int
    report: Callable[[Progress], None]


def run(
    loaded: models.Loaded,
    source: Source,
    options: Options,
    *,
    root: Path,
    run_id: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Captures one run, or goes on with it where it was interrupted, and publishes it.

    Raises UsageError or TracesError for what a user can cause; what was complete by then is kept.
    """
    wanted = sites.resolve(options.capture)
    limit = _length_limit(loaded, options.max_len)
    anatomy = examine(loaded.model)
    if anatomy.layer_attention is None and "attn" in sites.names(options.capture):
        raise TracesError(
            f"{loaded.name}: attention cannot be derived from q and k: times v it is off by {anatomy.attention_error:.1e} of "
            "the attention's output on a probe. Capture q, k and v as they are: --capture qkv"
        )
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    store = store_dtype(loaded.dtype, options.store_dtype)
    job = _Job(
        loaded, anatomy, wanted, store, options, Head(loaded.model), Rows(loaded.tokenizer), vocabulary, report
    )  # fmt: skip
    model = _model_info(loaded, anatomy, vocabulary)
    identity = _identity(model, source, options)
    run_id = run_id or default_name(loaded.name, source, identity)
    with RunWriter(root, run_id, identity) as writer:
        progress, data_hash = _capture(job, source, limit, writer)
        if not progress.predictions:
            writer.discard()
            raise UsageError(f"{source.origin}: no text has a second token, so there is no next token to predict.")
        return writer.publish(lambda published: _manifest(job, published, model, source, progress, data_hash))


def forecast(loaded: models.Loaded, source: Source, options: Options) -> list[str]:
    """What a capture would read and write, in lines; tokenizes the data and writes nothing."""
    wanted = sites.resolve(options.capture)
    anatomy = examine(loaded.model)
    store = store_dtype(loaded.dtype, options.store_dtype)
    examples = islice(source.read(), options.limit)
    n = sequences = tokens = 0
    for t in batches.tokenize(examples, loaded.tokenizer, _length_limit(loaded, options.max_len), options.chunk):
        n += 1
        sequences += len(t.sequences)
        tokens += sum(map(len, t.sequences))
    size = tokens * _token_bytes(anatomy, wanted, store)
    return [
        f"{source.origin}: {n:,} examples, {sequences:,} sequences, {tokens:,} tokens",
        f"tensors: {', '.join(wanted) or 'none'}, {size / 1e6:,.1f} MB as {store}",
    ]


def default_name(model: str, source: Source, identity: dict[str, Any]) -> str:
    """`smollm2-wikitext2-validation-a1b2`: the same for the same capture, so that running it again goes on with it."""
    digest = xxhash.xxh3_64_hexdigest(repr(sorted(identity.items())).encode())[:4]
    words = [Path(model).name.removesuffix(".gguf"), source.dataset, *([source.split] if source.split else []), digest]
    name = "-".join("".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in w) for w in words)
    return layout.check_run_name(name.strip("-.")[:100])


def _capture(job: _Job, source: Source, limit: int | None, writer: RunWriter) -> tuple[Progress, str]:
    """Runs every batch that is not on disk yet; returns what was done, by earlier processes too, and the data's hash."""
    while True:
        try:
            return _walk(job, source, limit, writer)
        except DtypeOutgrown as e:
            writer.promote(dict.fromkeys(e.tensors, "F32"))


def _walk(job: _Job, source: Source, limit: int | None, writer: RunWriter) -> tuple[Progress, str]:
    options = job.options
    examples = islice(source.read(), options.limit)
    tokenized = batches.tokenize(examples, job.loaded.tokenizer, limit, options.chunk)
    shards = batches.shards(batches.batches(tokenized, options.batch_tokens), _tokens_per_shard(job))
    progress, mark = Progress(writer.run_id), ""
    with Recorder(job.loaded.model, job.anatomy, job.sites, job.store, writer.promoted) as recorder:
        for number, shard in enumerate(shards):
            mark = shard[-1].mark
            if number < len(writer.done):
                if writer.done[number].mark != mark:
                    raise UsageError(
                        f"The data is not what it was when the capture '{writer.run_id}' began, so it cannot go on. "
                        f"Drop it (traces runs rm {writer.run_id}) and run the same command again."
                    )
                _skip(shard, progress, job.report)
                continue
            writer.begin_shard(sum(b.tokens for b in shard), recorder.tensors)
            for batch in shard:
                writer.put(_record(job, recorder, batch))
                progress.count(batch)
                job.report(progress)
            writer.end_shard(mark)
    return progress, mark.split()[-1]


def _skip(shard: list[Batch], progress: Progress, report: Callable[[Progress], None]) -> None:
    for batch in shard:
        progress.count(batch)
    progress.resumed_tokens = progress.tokens
    report(progress)


def _record(job: _Job, recorder: Recorder, batch: Batch) -> traces.Batch:
    """One forward pass, its tensors and its rows."""
    tables = {"examples": job.rows.examples(batch.examples)} if batch.examples else {}
    if not batch.sequences:
        none = {key: _no_rows(spec) for key, spec in recorder.tensors.items()}
        return traces.Batch([], none, tables, release=lambda: None)
    ids, mask = (torch.from_numpy(a) for a in batch.padded(job.loaded.tokenizer.pad_token_id or 0))
    recording = recorder.run(ids, mask)
    tables["tokens"] = job.rows.tokens(batch.sequences)
    if batch.tokens > len(batch.sequences):
        tables["next_token"] = job.rows.next_token(batch.sequences, _diagnose(job, batch, recording.last))
    sequences = [(s.example.example_id, s.seq, len(s)) for s in batch.sequences]
    return traces.Batch(sequences, recording.tensors, tables, recording.release)


def _diagnose(job: _Job, batch: Batch, last: torch.Tensor) -> Diagnostics:
    """`last` (N, D) holds every token of the batch; the last of each sequence has no next one and is left out."""
    lengths = torch.tensor([len(s) for s in batch.sequences])
    has_next = torch.ones(len(last), dtype=torch.bool)
    has_next[lengths.cumsum(0) - 1] = False
    true_ids = torch.cat([torch.from_numpy(s.ids[1:]) for s in batch.sequences])
    hidden = last[has_next.to(last.device)]
    return next_token_diagnostics(job.head, hidden, true_ids, job.vocabulary, job.options.top_k)


def _no_rows(spec: TensorSpec) -> np.ndarray:
    return np.empty((0, *spec.row_shape), DTYPES[spec.dtype])


def _tokens_per_shard(job: _Job) -> int:
    """From the dtype that was planned, promotions apart: a shard's batches must not change when a tensor is promoted."""
    token_bytes = _token_bytes(job.anatomy, job.sites, job.store)
    return max(1, min(_SHARD_TOKENS, (job.options.shard_mb << 20) // max(token_bytes, 1)))


def _token_bytes(anatomy: Anatomy, wanted: tuple[str, ...], store: str) -> int:
    """Bytes that one token's tensors take."""
    dims = anatomy.dims
    return sum(
        TensorSpec(store, sites.row_shape(site, dims)).row_bytes * len(sites.layers_of(site, dims.n_layers))
        for site in wanted
    )


def _length_limit(loaded: models.Loaded, max_len: int | None) -> int | None:
    if max_len is not None and loaded.window is not None and max_len > loaded.window:
        raise UsageError(f"--max-len {max_len} is more than {loaded.name} was made for: {loaded.window} tokens.")
    return max_len or loaded.window


def _model_info(loaded: models.Loaded, anatomy: Anatomy, vocabulary: int) -> ModelInfo:
    d = anatomy.dims
    return ModelInfo(
        name=loaded.name,
        revision=loaded.revision,
        architecture=type(loaded.model).__name__,
        weights_hash=models.weights_hash(loaded.model),
        tokenizer_hash=models.tokenizer_hash(loaded.tokenizer),
        dtype=loaded.dtype,
        device=str(loaded.device),
        attn_implementation=loaded.model.config.get_text_config()._attn_implementation,
        trust_remote_code=loaded.trust_remote_code,
        n_layers=d.n_layers,
        d_model=d.d_model,
        n_heads=d.n_heads,
        n_kv_heads=d.n_kv_heads,
        d_head=d.d_head,
        d_value=d.d_value,
        vocab_size=vocabulary,
        window=loaded.window,
        attention=list(anatomy.layer_attention) if anatomy.layer_attention else None,
        attention_error=anatomy.attention_error,
    )


def _identity(model: ModelInfo, source: Source, options: Options) -> dict[str, Any]:
    """What makes two captures the same one, so that the second goes on where the first stopped. Where model and data were
    read from is no part of it; what they hold is."""
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "model": model.model_dump(
            include={"architecture", "weights_hash", "tokenizer_hash", "dtype", "device", "attn_implementation"}
        ),
        "data": {"dataset": source.dataset, "config": source.config, "split": source.split},
        "options": asdict(options),
        "versions": {k: v for k, v in versions().items() if k in ("torch", "transformers", "tokenizers")},
    }


def _manifest(
    job: _Job, published: Published, model: ModelInfo, source: Source, progress: Progress, data_hash: str
) -> Manifest:
    mean_loss = _mean_loss(published.folder)
    return Manifest(
        run_id=progress.run_id,
        kind=KIND,
        created_at=published.created_at,
        seconds=published.seconds,
        model=model,
        data=DataInfo(
            dataset=source.dataset, config=source.config, split=source.split, source=source.origin, hash=data_hash
        ),
        options=asdict(job.options),
        store_dtype=job.store,
        sites=_site_infos(job, published.promoted),
        counts=Counts(
            examples=progress.examples,
            sequences=progress.sequences,
            tokens=progress.tokens,
            predictions=progress.predictions,
            truncated=progress.truncated,
            rows=published.rows,
        ),
        mean_loss=mean_loss,
        perplexity=math.exp(mean_loss),
        bytes=sum(f.bytes for f in published.files),
        files=published.files,
        versions=versions(),
    )


def _mean_loss(folder: Path) -> float:
    with duckdb.connect() as con:
        row = con.sql(
            f"SELECT avg(loss::DOUBLE) FROM read_parquet({sql_path(folder / layout.table_name('next_token'))})"
        ).fetchone()
    assert row is not None
    return float(row[0])


def _site_infos(job: _Job, promoted: dict[str, str]) -> list[SiteInfo]:
    dims = job.anatomy.dims
    infos: Iterable[SiteInfo] = (
        SiteInfo(
            site=site,
            layers=layers,
            row_shape=list(sites.row_shape(site, dims)),
            dtype=job.store,
            promoted={n: promoted[n] for n in (layout.tensor_name(site, layer) for layer in layers) if n in promoted},
        )
        for site in job.sites
        for layers in [sites.layers_of(site, dims.n_layers)]
    )
    return list(infos)
