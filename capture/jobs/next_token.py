"""The next-token job: texts through a language model, with diagnostics at every position that has a next token.

Tensors are stored as `--capture` says. An encoder-decoder reads the text with its encoder, and its decoder is given a target,
whose tokens are predicted.
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
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
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
    """What the user chose, with how many predicted tokens are kept."""

    top_k: int = 5


def prepare_job(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
    """Prepare a job in which a language model reads texts; raises UsageError where the model predicts no next token."""
    anatomy = examine(loaded.model)
    if anatomy.body.side == "enc":
        raise UsageError(
            f"{loaded.name} is an encoder: a token changes what comes before it, so there is no next token to predict. "
            "traces capture encode records it."
        )
    if anatomy.body.encoder_decoder and options.target_column is None:
        raise UsageError(
            f"{loaded.name} is an encoder-decoder: its decoder predicts a target for each text. Name the targets' column in "
            "a .jsonl or .parquet file: --target-column. traces capture encode records the encoder alone."
        )
    rows = Rows(loaded.tokenizer)
    tables = next_token_tables(anatomy, rows, options.top_k)
    return prepare.prepare(KIND, loaded, source, options, rows, tables, mean_loss, _refusal, anatomy)


def next_token_tables(anatomy: Anatomy, rows: Rows, top_k: int) -> job.Tables:
    """Return a function that makes the table `next_token` of a batch.

    Args:
        anatomy: That of a model with a decoder and a language model's head.
        rows: Makes the rows.
        top_k: How many predicted tokens are kept at each position.

    Returns:
        The function; it raises TracesError where predictions are NaN or +infinity.
    """
    head = LMHead(anatomy.body)

    def tables(batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        # The last token of each sequence has no next one; one that an earlier sequence has predicted is not predicted again.
        parts = [s.sides["dec"] for s in batch.sequences]
        has_next = np.concatenate([np.append(p.is_predicted, False) for p in parts])
        if not has_next.any():
            return {}
        last = recording.last["dec"]
        true_ids = np.concatenate([p.ids[1:][p.is_predicted] for p in parts])
        head.check_targets(true_ids)
        hidden = last[torch.from_numpy(has_next).to(last.device)]
        diagnostics = next_token_diagnostics(head, hidden, torch.from_numpy(true_ids), head.vocabulary, top_k)
        check_score_values(-diagnostics.loss, batch, anatomy)
        return {"next_token": rows.next_token(batch.sequences, diagnostics)}

    return tables


def check_score_values(scores: np.ndarray, batch: Batch, anatomy: Anatomy) -> None:
    """Check logits or log-probabilities; one of -infinity is right, and says that a token or choice cannot come.

    Args:
        scores: Those of a batch, of any shape.
        batch: The batch.
        anatomy: The model's.

    Raises:
        TracesError: A score is NaN or +infinity.
    """
    if not (scores < np.inf).all():
        model, first = anatomy.body.model, batch.sequences[0].example.row.source_id
        dtype = str(model.dtype).removeprefix("torch.")
        remedy = "Its weights are too large for any dtype." if dtype == "float32" else "Try it in float32."
        raise TracesError(
            f"{type(model).__name__} computes NaN or infinity in {dtype}, in the batch with example {first}: nothing can be said "
            f"about its predictions. {remedy}"
        )


run, forecast = run_job.define_kind(prepare_job)


def _refusal(progress: Progress) -> str | None:
    return None if progress.predictions else "no text has a second token, so there is no next token to predict."
