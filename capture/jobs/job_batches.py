"""A job's data as it goes through the model: examples → sequences → batches → shards.

In goes a `Job`; out come its examples with their sequences, its batches and its shards, each a generator. `run_job` runs them;
`prepare` does not read data, so that what a batch may hold is proven here, on the batches themselves (`prove_batch_rule`).

All of it follows from the data and the options alone. A capture that was killed therefore finds the same batches and shards
again, and skips those that are on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice

from capture.data.example import Example
from capture.jobs.job import Job
from capture.model.body import vocabulary_size
from capture.model.failures import explain_forward_errors
from capture.recording import batch_independence
from capture.sequences import batches
from capture.sequences.batches import ONE_LENGTH, ONE_TEXT, PADDED, Batch
from capture.sequences.partition import Partition
from capture.sequences.sequence import TokenizedExample, check_ids
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.storage.chosen_examples import in_sample

SHORTEN_TEXTS = "If that is too long for it, cut texts shorter: --max-len."
"""What helps against a sequence that a model cannot take."""
SHORTEN_PROMPTS = "If that is too long for it, shorten the prompts, or lower --max-new-tokens."
"""What helps where the model generates."""

_SHARD_TOKENS = 1 << 16
"""Most tokens of a shard, however little is stored for each: a capture that was killed goes on from the last whole shard."""
_SHARD_GENERATED = 1 << 12
"""Most tokens of a shard that the model generates, since a token then takes several times as long."""


def read_examples(job: Job, part: Partition | None = None) -> Iterator[TokenizedExample]:
    """Read the examples of a run, as sequences.

    Args:
        job: The job.
        part: The part of the data that this run takes, which hashes what it reads; None: that of the job's options.

    Returns:
        Examples in the order of the data, with their sequences.
    """
    part = part or Partition(job.options.shard)
    examples, share = job.source.read(), job.options.sample
    if share is not None:
        examples = (x for x in examples if in_sample(x.example_id, share))
    return part.renumber(_tokenize(job, part.select(islice(examples, job.options.limit))))


def _tokenize(job: Job, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
    """Yield examples with their sequences; raises UsageError where a token is not in the model's embedding."""
    loaded, size = job.loaded, vocabulary_size(job.loaded.model)
    for t in job.sequencing.tokenize(examples):
        for s in t.sequences:
            for part in s.sides.values():
                where = f"{job.source.origin}, example {t.example.row.source_id}"
                check_ids(part.ids, size, loaded.tokenizer, loaded.name, where)
        yield t


def make_batches(job: Job, part: Partition | None = None) -> Iterator[Batch]:
    """Put the sequences of a run into batches; where the model generates, these hold prompts.

    Args:
        job: The job, whose `batch_rule` says what one may hold.
        part: As in `read_examples`.

    Returns:
        Batches in the order in which they are run.
    """
    growth, rule = 0, job.batch_rule
    if job.generation is not None:
        growth = job.generation.growth
        if rule == PADDED and not job.generation.ignores_padding:
            rule = ONE_LENGTH
    examples = read_examples(job, part)
    return batches.make_batches(examples, job.options.batch_tokens, rule, job.sequencing.keep_together, growth)


def make_shards(job: Job, part: Partition) -> Iterator[list[Batch]]:
    """Group the batches of a run into shards.

    Args:
        job: The job.
        part: As in `read_examples`.

    Returns:
        The batches of one shard after another.
    """
    all_batches, growth = make_batches(job, part), 0
    if job.generation is not None:
        growth, all_batches = job.generation.growth, batches.with_own_examples(all_batches)
    return batches.group_into_shards(all_batches, _tokens_per_shard(job), growth)


def _tokens_per_shard(job: Job) -> int:
    """Return the most tokens of a shard.

    It follows from the planned dtypes, without promotions: batches must not change when a tensor is promoted. Stored attention
    counts with the longest row that a batch can have.

    Returns:
        At least 1.
    """
    longest_row = min(job.options.batch_tokens, job.sequencing.max_len or job.options.batch_tokens)
    token_bytes = sum(
        spec.stored_row_bytes * (longest_row if spec.row_kind in sites.PAIRS else 1)
        for spec in job.plan.stored.values()
    )
    most = _SHARD_TOKENS if job.generation is None else _SHARD_GENERATED
    return max(1, min(most, (job.options.shard_mb << 20) // max(token_bytes, 1)))


def prove_batch_rule(job: Job, note: Callable[[str], None]) -> Job:
    """Prove what batches may hold, on the data that the job will read.

    Args:
        job: The job, before its first batch.
        note: Called with one line where batches cannot hold texts of any length.

    Returns:
        The job with its `batch_rule`.

    Raises:
        UsageError: An example's sequences belong in one batch, and a batch cannot hold them.
        TracesError: A text gives something else when it is read a second time.
    """
    body, loaded = job.anatomy.body, job.loaded
    extremes = batch_independence.find_extremes(make_batches(job))
    if extremes is None:
        return job
    growth = 0 if job.generation is None else job.generation.growth
    with explain_errors(job, max(extremes.longest.lengths.values())):
        proof = batch_independence.prove(body, extremes, loaded.name, growth, loaded.window)
    body.ignores_padding, body.ignores_batch = proof.batches == PADDED, proof.batches != ONE_TEXT
    if line := proof.line(loaded.name):
        note(line)
        compared = job.sequencing.keep_together and job.generation is None
        if compared and any(not batches.may_share_batch(t.sequences, proof.batches) for t in read_examples(job)):
            raise UsageError(f"{line}. So the choices of a question, or the prompts of a pair, cannot be compared.")
    return replace(job, batch_rule=proof.batches)


def explain_errors(job: Job, longest: int) -> AbstractContextManager[None]:
    """Turn what a model raises on a batch, whose longest sequence has `longest` tokens, into one line with a remedy."""
    return explain_forward_errors(
        job.loaded.name, longest, SHORTEN_PROMPTS if job.generation is not None else SHORTEN_TEXTS
    )
