"""The mcq-encoder job: multiple-choice questions put to an encoder with a multiple-choice head, the question with each choice as
a pair. Tensors are of every pair, `seq` being the choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from capture.data.example import Source
from capture.jobs import job, prepare, run_job
from capture.jobs.choice_scores import Scores, check_questions, tables
from capture.jobs.job import Options
from capture.jobs.next_token import check_numbers
from capture.model import loading
from capture.model.anatomy import examine
from capture.model.body import padding_id
from capture.model.choice_head import ChoiceHead
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import Batch
from capture.sequences.question_pairs import PairMaker
from capture.sequences.tokenize import SequenceMaker
from warehouse.errors import UsageError

KIND = "mcq-encoder"

__all__ = ["KIND", "Options", "forecast", "run"]


def _prepared(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
    check_questions(source)
    anatomy = examine(loaded.model)
    body = anatomy.body
    if body.encoder_decoder or body.side != "enc":
        raise UsageError(
            f"{loaded.name} is no encoder, which reads a question and a choice together. traces capture mcq-prompt asks a decoder."
        )
    if not body.ignores_padding:
        raise UsageError(
            f"{loaded.name} computes other values where a sequence is padded, so that the choices of a question, which differ in "
            "length, cannot be compared."
        )
    pairing = PairMaker(loaded.tokenizer, loaded.name, job.max_len(loaded, options.max_len))
    head = ChoiceHead(body)

    def rows(batch: Batch, _recording: Recording) -> Mapping[str, pa.Table]:
        ids, mask = map(torch.from_numpy, batch.padded(padding_id(loaded.model))["enc"])
        logits = head.logits(ids, mask).float().cpu().numpy()
        check_numbers(logits, batch, anatomy)
        asked = {s.example.example_id: s.example for s in batch.sequences}
        found: dict[str, list[float]] = {question: [] for question in asked}
        for s, logit in zip(batch.sequences, logits, strict=True):
            found[s.example.example_id].append(logit)  # in the order of the choices: they are not parted
        return tables(list(asked.values()), [Scores(np.asarray(x, np.float32)) for x in found.values()], "head")

    return prepare.prepare(
        KIND,
        loaded,
        source,
        options,
        Rows(loaded.tokenizer),
        rows,
        lambda _folder: None,
        anatomy=anatomy,
        sequencing=SequenceMaker(pairing.tokenize, ("enc",), pairing.max_len, keep_together=True),
        around=head,
    )


run, forecast = run_job.for_kind(_prepared)
