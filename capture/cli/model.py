"""`traces model`: what can be recorded of a model, and changed in it."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.options import MODEL_HELP, LoadOptions
from capture.cli.terminal import needs_capture_extra
from warehouse.cli.app import App
from warehouse.cli.option_groups import with_groups
from warehouse.cli.options import ReportFormatOption
from warehouse.cli.output import ReportFormat
from warehouse.errors import TracesError

model_app = App(no_args_is_help=True, help="Check what can be recorded of a model, and changed in it.")


@model_app.command("check")
@with_groups()
def check_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    loading: LoadOptions,
    fmt: ReportFormatOption = ReportFormat.table,
) -> None:
    """Try everything that can be recorded of a model, or changed in it, and say how each part was verified.

    A few tokens go through the model (random ids where it has no tokenizer). Exit code 0 if every site is right, or rightly
    reported as missing, else 1.

    Examples:
        traces model check smollm2 --format json

    Raises:
        TracesError: A site came out wrong.
    """
    import json
    from dataclasses import asdict

    with needs_capture_extra():
        from capture.verification.model_check import check
    loaded = loading.load(model, None, tokenizer=False)
    report = check(loaded.model, loaded.tokenizer, model)
    if fmt is ReportFormat.json:
        typer.echo(json.dumps({**asdict(report), "passed": report.passed}, indent=1))
    else:
        for line in report.lines("\t" if fmt is ReportFormat.tsv else None):
            typer.echo(line)
    if not report.passed:
        raise TracesError(f"{model}: {', '.join(report.wrong)} came out wrong.")
