"""The next-token job: texts through a language model, diagnostics at every position that has a next token, tensors where asked
for. An encoder-decoder reads the text with its encoder, and its decoder is given a target, whose tokens are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from capture import job, models
from capture.anatomy import Anatomy, examine
from capture.batches import Batch
from capture.body import vocabulary_size
from capture.data.example import Source
from capture.diagnostics import next_token_diagnostics
from capture.head import Head
from capture.job import Progress
from capture.record import Recording
from capture.rows import Rows
from warehouse.errors import TracesError, UsageError
from warehouse.losses import mean_loss

KIND = "next-token"


@dataclass(frozen=True)
class Options(job.Options):
    top_k: int = 5


def _prepared(loaded: models.Loaded, source: Source, options: Options) -> job.Job:
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
    return job.prepare(KIND, loaded, source, options, rows, tables, mean_loss, _refusal, anatomy)


def diagnosed(anatomy: Anatomy, rows: Rows, top_k: int) -> job.Tables:
    """Makes the table `next_token` of a batch that a decoder has read."""
    head, vocabulary = Head(anatomy.body), vocabulary_size(anatomy.body.model)

    def tables(batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        """The decoder's states hold every token; the last of each sequence has no next one and is left out."""
        lengths = torch.tensor([len(s.parts["dec"]) for s in batch.sequences])
        if int(lengths.sum()) == len(lengths):
            return {}
        last = recording.last["dec"]
        has_next = torch.ones(len(last), dtype=torch.bool)
        has_next[lengths.cumsum(0) - 1] = False
        true_ids = torch.cat([torch.from_numpy(s.parts["dec"].ids[1:]) for s in batch.sequences])
        hidden = last[has_next.to(last.device)]
        found = next_token_diagnostics(head, hidden, true_ids, vocabulary, top_k)
        check_numbers(found.loss, batch, anatomy)
        return {"next_token": rows.next_token(batch.sequences, found)}

    return tables


def check_numbers(scores: np.ndarray, batch: Batch, anatomy: Anatomy) -> None:
    """Raises TracesError where what a model makes of a batch is not a number."""
    if np.isnan(scores).any():
        model, first = anatomy.body.model, batch.sequences[0].example.row.source_id
        dtype = str(model.dtype).removeprefix("torch.")
        remedy = "Its weights are too large for any dtype." if dtype == "float32" else "Try --dtype float32."
        raise TracesError(
            f"{type(model).__name__} computes NaN in {dtype}, in the batch with example {first}: nothing can be said of its "
            f"predictions. {remedy}"
        )


run, forecast = job.of_kind(_prepared)


def _refusal(progress: Progress) -> str | None:
    return None if progress.predictions else "no text has a second token, so there is no next token to predict."
