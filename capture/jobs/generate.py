"""The generate job: a model goes on with prompts, then reads prompt and response once, as any other text.

That one clean pass is recorded. Row i of a response is the state *at* its token i, the same that a next-token capture of the text
would have, and not what a cache held when the token was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from capture.data.example import Source
from capture.jobs import job, prepare, run_job
from capture.jobs.generation import Generator, PromptCompleter, Sampling, Watch
from capture.jobs.next_token import next_token_tables
from capture.jobs.open_prompts import OpenPromptMaker
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import Batch
from capture.sequences.bos import resolve_bos
from capture.sequences.encoding import find_frame
from capture.sequences.tokenize import SequenceMaker
from warehouse.errors import UsageError
from warehouse.storage.losses import mean_loss

KIND = "generate"


@dataclass(frozen=True)
class Options(job.Options):
    """What the user chose, with how responses are drawn."""

    max_new_tokens: int = 50
    temperature: float = 0.7
    top_p: float = 1.0
    sample_top_k: int = 0
    seed: int = 0
    samples: int = 1
    """Responses to each prompt; `seq` numbers them."""
    top_k: int = 5
    """How many predicted tokens are kept at each position."""

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.sample_top_k, self.seed)


def define_kind(kind: str, watch: Watch | None = None) -> tuple[job.Run, job.Forecast]:
    """Make `run` and `forecast` of a kind of capture in which the model goes on with prompts, and nothing else is done to it.

    Args:
        kind: The kind of capture.
        watch: Called with tokens as they are drawn; None: nobody looks on.

    Returns:
        Both functions.
    """

    def prepare_job(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
        anatomy = examine_decoder(loaded)
        generator = Generator(loaded, anatomy.body, options.sampling, watch)
        completer = PromptCompleter(generator, loaded.tokenizer, options.max_new_tokens)
        return prepare_generation(kind, loaded, source, options, anatomy, completer)

    return run_job.define_kind(prepare_job)


def examine_decoder(loaded: loading.Loaded) -> Anatomy:
    """Examine a model; raises UsageError where it does not go on with a text."""
    anatomy = examine(loaded.model)
    if anatomy.body.encoder_decoder or anatomy.body.side == "enc":
        raise UsageError(
            f"{loaded.name} is no decoder: it does not go on with a prompt. traces capture encode records how it reads one."
        )
    return anatomy


def prepare_generation(
    kind: str, loaded: loading.Loaded, source: Source, options: Options, anatomy: Anatomy, completer: PromptCompleter
) -> job.Job:
    """Prepare a job in which the model goes on with prompts.

    Args:
        kind: The kind of capture.
        loaded: A decoder and its tokenizer.
        source: The prompts.
        options: What the user chose.
        anatomy: The model's.
        completer: Generates the responses.

    Returns:
        The job.
    """
    bos = resolve_bos(loaded, options.prepend_bos)
    prompts = OpenPromptMaker(loaded, options.max_new_tokens, options.samples, bos)
    rows = Rows(loaded.tokenizer)
    predictions = next_token_tables(anatomy, rows, options.top_k)

    def tables(batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        return {"responses": rows.responses(batch.sequences), **predictions(batch, recording)}

    first_token = None if prompts.templated else find_frame(loaded.tokenizer, bos).first_token
    sequencing = SequenceMaker(
        prompts.tokenize,
        ("dec",),
        loaded.window,
        keep_together=True,
        first_token=first_token,
        chat_template=prompts.templated,
    )
    return prepare.prepare(
        kind,
        loaded,
        source,
        options,
        rows,
        tables,
        mean_loss,
        anatomy=anatomy,
        sequencing=sequencing,
        generation=completer,
    )


run, forecast = define_kind(KIND)
