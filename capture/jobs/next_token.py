"""The next-token job: texts through a language model, diagnostics at every position that has a next token, tensors where asked
for. An encoder-decoder reads the text with its encoder, and its decoder is given a target, whose tokens are predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from capture.data.example import Source
from capture.jobs import job, prepare, run_job
from capture.jobs.job import Progress
from capture.model import loading
from capture.model.anatomy import Anatomy, examine
from capture.model.lm_head import LMHead
from capture.recording.diagnostics import next_token_diagnostics
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import Batch
from warehouse.errors import TracesError, UsageError
from warehouse.storage.losses import mean_loss

KIND = "next-token"


@dataclass(frozen=True)
class Options(job.Options):
    top_k: int = 5


def _prepared(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
    anatomy = examine(loaded.model)
    if anatomy.body.side == "enc":
        raise UsageError(
            f"{loaded.name} is an encoder: a token changes what comes before it, so that it has no next token to predict. "
            "traces capture encode records it."
        )
    if anatomy.body.encoder_decoder and options.target_column is None:
        raise UsageError(
            f"{loaded.name} is an encoder-decoder: its decoder predicts a target for each text. Name the targets' column in "
            "a .jsonl or .parquet file: --target-column. traces capture encode records the encoder alone."
        )
    rows = Rows(loaded.tokenizer)
    tables = diagnosed(anatomy, rows, options.top_k)
    return prepare.prepare(KIND, loaded, source, options, rows, tables, mean_loss, _refusal, anatomy)


def diagnosed(anatomy: Anatomy, rows: Rows, top_k: int) -> job.Tables:
    """Makes the table `next_token` of a batch that a decoder has read."""
    head = LMHead(anatomy.body)

    def tables(batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        """The decoder's states hold every token; the last of each sequence has no next one and is left out, as are those before
        a token that an earlier sequence has predicted.
        """
        parts = [s.sides["dec"] for s in batch.sequences]
        has_next = np.concatenate([np.append(p.is_predicted, False) for p in parts])
        if not has_next.any():
            return {}
        last = recording.last["dec"]
        true_ids = np.concatenate([p.ids[1:][p.is_predicted] for p in parts])
        head.check_targets(true_ids)
        hidden = last[torch.from_numpy(has_next).to(last.device)]
        found = next_token_diagnostics(head, hidden, torch.from_numpy(true_ids), head.vocabulary, top_k)
        check_numbers(-found.loss, batch, anatomy)
        return {"next_token": rows.next_token(batch.sequences, found)}

    return tables


def check_numbers(scores: np.ndarray, batch: Batch, anatomy: Anatomy) -> None:
    """Raises TracesError where logits or log-probabilities of a batch say nothing: they are NaN or +infinity. One of -infinity
    says that a token or choice cannot come.
    """
    if not (scores < np.inf).all():
        model, first = anatomy.body.model, batch.sequences[0].example.row.source_id
        dtype = str(model.dtype).removeprefix("torch.")
        remedy = "Its weights are too large for any dtype." if dtype == "float32" else "Try it in float32."
        raise TracesError(
            f"{type(model).__name__} computes NaN or infinity in {dtype}, in the batch with example {first}: nothing can be said "
            f"of its predictions. {remedy}"
        )


run, forecast = run_job.for_kind(_prepared)


def _refusal(progress: Progress) -> str | None:
    return None if progress.predictions else "no text has a second token, so there is no next token to predict."
