"""From model, data and options to a job: resolves what is stored, and proves what a batch may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from capture.data.example import Example, Source
from capture.jobs.job import Generation, Job, Options, Progress, Tables, max_len
from capture.model import loading
from capture.model.anatomy import Anatomy, examine
from capture.model.attention_formula import eager_error
from capture.model.attention_hook import eager_attention
from capture.model.body import vocabulary_size
from capture.model.failures import explain_forward_errors
from capture.model.forward_trace import attention_outputs, probe_tokens
from capture.model.tolerances import formula_tolerance
from capture.recording import batch_independence
from capture.recording.plan import ATTN_HOMES, plan
from capture.recording.recorder import store_dtype
from capture.recording.rows import Rows
from capture.sequences import batches
from capture.sequences.batches import ONE_LENGTH, ONE_TEXT, PADDED, Batch
from capture.sequences.encoding import resolve_bos
from capture.sequences.partition import Partition
from capture.sequences.sequence import TokenizedExample, check_ids
from capture.sequences.tokenize import SequenceMaker, TokenizeOptions
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.vectors import index_spec

_CUT_SHORTER = "If that is too long for it, cut texts shorter: --max-len."


_ASK_SHORTER = "If that is too long for it, shorten the prompts, or lower --max-new-tokens."
"""The same where the model goes on with them."""


_NO_COMPARISON = "The choices of a question, which differ in length, cannot be compared."


def prepare(
    kind: str,
    loaded: loading.Loaded,
    source: Source,
    options: Options,
    rows: Rows,
    tables: Tables,
    mean_loss: Callable[[Path], float | None],
    refusal: Callable[[Progress], str | None] = lambda _: None,
    anatomy: Anatomy | None = None,
    sequencing: SequenceMaker | None = None,
    around: AbstractContextManager[Any] | None = None,
    generation: Generation | None = None,
) -> Job:
    """Looks at the model and resolves what is to be stored. `sequencing`: how examples become sequences; left out, their texts
    do. Raises UsageError where they don't go together.
    """
    sites.resolve(options.capture)
    if options.attn not in ATTN_HOMES:
        raise UsageError(f"--attn {options.attn}: use {' or '.join(ATTN_HOMES)}.")
    anatomy = anatomy or examine(loaded.model)
    sequencing = sequencing or _tokenizing(loaded, anatomy, options).sequence_maker()
    store = store_dtype(loaded.dtype, options.store_dtype)
    internals = _layers(options.layer_internals, len(anatomy.main.layers))
    chosen = plan(anatomy, options.capture, options.attn, store, sequencing.sides, internals)
    n_layers = {side: len(stack.layers) for side, stack in anatomy.stacks.items()}
    indexed = index_spec.choose_keys(
        index_spec.from_index_option(options.index, chosen.stored), chosen.stored, n_layers, anatomy.main.side
    )
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


def _proven(job: Job, note: Callable[[str], None]) -> Job:
    """Finds what batches may hold, on the data that will be read. Raises UsageError where sequences that cannot be parted would
    not fit that, and TracesError where a text is read differently the second time.
    """
    body, loaded = job.anatomy.body, job.loaded
    found = batch_independence.find_extremes(_batches(job, _read(job)))
    if found is None:
        return job
    growth = 0 if job.generation is None else job.generation.growth
    longest = max(found.longest.lengths.values())
    with explain_forward_errors(loaded.name, longest, _ASK_SHORTER if job.generation is not None else _CUT_SHORTER):
        proven = batch_independence.prove(body, found, loaded.name, growth, loaded.window)
    body.ignores_padding, body.ignores_batch = proven.batches == PADDED, proven.batches != ONE_TEXT
    if line := proven.line(loaded.name):
        note(line)
        compared = job.sequencing.keep_together and job.generation is None
        if compared and any(len(t.sequences) > 1 for t in _read(job)):
            raise UsageError(f"{line}. {_NO_COMPARISON}")
    return replace(job, batching=proven.batches)


def _tokenized(job: Job, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
    """Raises UsageError where a token is not in the model's embedding."""
    loaded, size = job.loaded, vocabulary_size(job.loaded.model)
    for t in job.sequencing.tokenize(examples):
        for s in t.sequences:
            for part in s.sides.values():
                where = f"{job.source.origin}, example {t.example.row.source_id}"
                check_ids(part.ids, size, loaded.tokenizer, loaded.name, where)
        yield t


def _read(job: Job, share: Partition | None = None) -> Iterator[TokenizedExample]:
    """The examples of the run, as sequences."""
    share = share or Partition(job.options.shard)
    return share.renumber(_tokenized(job, share.select(islice(job.source.read(), job.options.limit))))


def _batches(job: Job, examples: Iterable[TokenizedExample]) -> Iterator[Batch]:
    """As they go through the model: where it is to go on with them, as prompts."""
    growth, holds = 0, job.batching
    if job.generation is not None:
        growth = job.generation.growth
        if holds == PADDED and not job.generation.pads:
            holds = ONE_LENGTH
    return batches.make_batches(examples, job.options.batch_tokens, holds, job.sequencing.keep_together, growth)


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


def _tokenizing(loaded: loading.Loaded, anatomy: Anatomy, options: Options) -> TokenizeOptions:
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
    bos = resolve_bos(loaded, options.prepend_bos)
    return TokenizeOptions(loaded.tokenizer, side, limit, chunk, target, start, target_limit, options.stride, bos)


def _check_given(loaded: loading.Loaded, anatomy: Anatomy) -> None:
    """Raises UsageError where the attention that would be stored is not what the model applies."""
    with eager_attention(loaded.model):
        calls = attention_outputs(anatomy.body, probe_tokens(anatomy.body))
    worst = max((eager_error(call) for call in calls), default=0.0)
    if worst > 10 * formula_tolerance(loaded.model.dtype):
        raise UsageError(
            f"{loaded.name} gives other attention probabilities than it applies (off by {worst:.1e}), so that they are not "
            "stored. Leave out --attn stored where attention can be derived (traces model check), or attn and heads."
        )


def _start_id(loaded: loading.Loaded) -> int:
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
