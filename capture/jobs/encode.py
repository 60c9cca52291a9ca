"""The encode job: texts through a model without its head, tensors and nothing else.

It is for encoders, for decoders whose predictions don't matter, and for an encoder-decoder's encoder, or both its sides where
targets are given.
"""

from __future__ import annotations

from capture.data.example import Source
from capture.jobs import job, prepare, run_job
from capture.jobs.job import Options
from capture.model import loading
from capture.recording.rows import Rows

KIND = "encode"

__all__ = ["KIND", "Options", "forecast", "run"]


def _prepare(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
    rows = Rows(loaded.tokenizer)
    return prepare.prepare(KIND, loaded, source, options, rows, lambda _batch, _recording: {}, lambda _folder: None)


run, forecast = run_job.define_kind(_prepare)
