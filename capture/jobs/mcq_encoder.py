"""The mcq-encoder job: multiple-choice questions put to an encoder with a multiple-choice head.

It reads the question with each choice as a pair. Tensors are of every pair; `seq` numbers the choices.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from capture.data.example import Source
from capture.jobs import job, prepare, run_job
from capture.jobs.choice_scores import Scores, check_questions, score_tables
from capture.jobs.job import Options
from capture.jobs.next_token import check_score_values
from capture.model import loading
from capture.model.body import padding_id
from capture.model.choice_head import ChoiceHead
from capture.model.examine import examine
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import Batch
from capture.sequences.question_pairs import PairMaker
from capture.sequences.tokenize import SequenceMaker
from warehouse.errors import UsageError

KIND = "mcq-encoder"

__all__ = ["KIND", "Options", "forecast", "run"]


def _prepare(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
    check_questions(source)
    anatomy = examine(loaded.model)
    body = anatomy.body
    if body.encoder_decoder or body.side != "enc":
        raise UsageError(
            f"{loaded.name} is not an encoder, which reads a question and a choice together. traces capture mcq-prompt asks a decoder."
        )
    pairs = PairMaker(loaded.tokenizer, loaded.name, job.resolve_max_len(loaded, options.max_len))
    head = ChoiceHead(body)

    def tables(batch: Batch, _recording: Recording) -> Mapping[str, pa.Table]:
        ids, mask = map(torch.from_numpy, batch.padded(padding_id(loaded.model))["enc"])
        logits = head.logits(ids, mask).float().cpu().numpy()
        check_score_values(logits, batch, anatomy)
        questions = {s.example.example_id: s.example for s in batch.sequences}
        scores: dict[str, list[float]] = {example_id: [] for example_id in questions}
        for s, logit in zip(batch.sequences, logits, strict=True):
            scores[s.example.example_id].append(logit)  # in the order of the choices, which share a batch
        return score_tables(
            list(questions.values()), [Scores(np.asarray(x, np.float32)) for x in scores.values()], "head"
        )

    return prepare.prepare(
        KIND,
        loaded,
        source,
        options,
        Rows(loaded.tokenizer),
        tables,
        lambda _folder: None,
        anatomy=anatomy,
        sequencing=SequenceMaker(pairs.tokenize, ("enc",), pairs.max_len, keep_together=True),
        model_context=head,
    )


run, forecast = run_job.define_kind(_prepare)
