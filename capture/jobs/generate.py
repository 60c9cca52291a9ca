"""The generate job: a model goes on with prompts, then reads prompt and response once, as any other text.

That one clean pass is what is recorded: row i of a response is the state *at* its token i, the same that a next-token capture of
that text would have, and not what a cache held when the token was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from capture.data.example import Source
from capture.jobs import job, prepare, run_job
from capture.jobs.generation import Chat, Generator, PromptCompleter, Sampling
from capture.jobs.next_token import diagnosed
from capture.model import loading
from capture.model.anatomy import Anatomy, examine
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
    max_new_tokens: int = 50
    temperature: float = 0.7
    top_p: float = 1.0
    sample_top_k: int = 0
    seed: int = 0
    samples: int = 1
    """Responses to each prompt, `seq` being the sample."""
    top_k: int = 5

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.sample_top_k, self.seed)


def for_kind(kind: str) -> tuple[job.Run, job.Forecast]:
    """`run` and `forecast` of a kind of capture in which the model goes on with prompts, and nothing else is done to it."""

    def whole(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
        anatomy = decoder(loaded)
        generator = Generator(loaded, anatomy.body, options.sampling)
        completing = PromptCompleter(generator, loaded.tokenizer, options.max_new_tokens)
        return prepared(kind, loaded, source, options, anatomy, completing)

    return run_job.define_kind(whole)


def decoder(loaded: loading.Loaded) -> Anatomy:
    """Looks at the model. Raises UsageError where it is none that goes on with a text."""
    anatomy = examine(loaded.model)
    if anatomy.body.encoder_decoder or anatomy.body.side == "enc":
        raise UsageError(
            f"{loaded.name} is no decoder: it does not go on with a prompt. traces capture encode records what it makes of it."
        )
    return anatomy


def prepared(
    kind: str, loaded: loading.Loaded, source: Source, options: Options, anatomy: Anatomy, completing: PromptCompleter
) -> job.Job:
    """What kinds of capture share that have the model generate."""
    bos = resolve_bos(loaded, options.prepend_bos)
    chat, rows = Chat(loaded, options.max_new_tokens, options.samples, bos), Rows(loaded.tokenizer)
    predictions = diagnosed(anatomy, rows, options.top_k)

    def tables(batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        return {"responses": rows.responses(batch.sequences), **predictions(batch, recording)}

    begins = None if chat.templated else find_frame(loaded.tokenizer, bos).first_token
    sequencing = SequenceMaker(
        chat.tokenize, ("dec",), loaded.window, keep_together=True, first_token=begins, chat_template=chat.templated
    )
    return prepare.prepare(
        kind, loaded, source, options, rows, tables, mean_loss, anatomy=anatomy, sequencing=sequencing, generation=completing
    )  # fmt: skip


run, forecast = for_kind(KIND)
