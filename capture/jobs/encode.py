"""The encode job: texts through a model without its head, tensors and nothing else. For encoders, for decoders whose
predictions don't matter, and for an encoder-decoder's encoder, or both its sides where targets are given."""

from __future__ import annotations

from capture import job, models
from capture.data.example import Source
from capture.job import Options
from capture.rows import Rows

KIND = "encode"

__all__ = ["KIND", "Options", "forecast", "run"]


def _prepared(loaded: models.Loaded, source: Source, options: Options) -> job.Job:
    rows = Rows(loaded.tokenizer)
    return job.prepare(KIND, loaded, source, options, rows, lambda _batch, _recording: {}, lambda _folder: None)


run, forecast = job.of_kind(_prepared)
