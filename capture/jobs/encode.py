"""The encode job: texts through a model without its head, tensors and nothing else. For encoders, for decoders whose
predictions don't matter, and for an encoder-decoder's encoder, or both its sides where targets are given."""

from __future__ import annotations

from pathlib import Path

from capture import job, models
from capture.data.example import Source
from capture.job import Options, Report, no_report
from capture.rows import Rows
from warehouse.manifest import Manifest

KIND = "encode"

__all__ = ["KIND", "Options", "forecast", "run"]


def run(
    loaded: models.Loaded,
    source: Source,
    options: Options,
    *,
    root: Path,
    run_id: str | None = None,
    report: Report = no_report,
) -> Manifest:
    """Captures one run, or goes on with it where it was interrupted, and publishes it.

    Raises UsageError or TracesError for what a user can cause; what was complete by then is kept.
    """
    return job.run(_prepared(loaded, source, options), root=root, run_id=run_id, report=report)


def forecast(loaded: models.Loaded, source: Source, options: Options) -> list[str]:
    """What a capture would read and write, in lines; tokenizes the data and writes nothing."""
    return job.forecast(_prepared(loaded, source, options))


def _prepared(loaded: models.Loaded, source: Source, options: Options) -> job.Job:
    rows = Rows(loaded.tokenizer)
    return job.prepare(KIND, loaded, source, options, rows, lambda _batch, _recording: {}, lambda _folder: None)
