"""`traces model`: what can be recorded of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.arguments import Model
from capture.cli.options import MODEL_HELP, DeviceMapOption, DeviceOption, DtypeOption, RevisionOption, TrustOption
from capture.cli.terminal import needs_capture_extra
from warehouse.cli import index, probe  # noqa: F401
from warehouse.cli.output import ReportFormat
from warehouse.errors import TracesError

model_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="What can be recorded of a model.")


@model_app.command("check")
def check_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    fmt: Annotated[ReportFormat, typer.Option("--format", "-f", help="How to print the report.")] = ReportFormat.table,
) -> None:
    """Try everything that can be recorded of a model, and say how each part was verified.

    A few tokens go through the model (random ids where it has no tokenizer). Exit code 0 where every site is right, or
    rightly reported as not there, else 1. Example: `traces model check smollm2 --format json`
    """
    import json
    from dataclasses import asdict

    with needs_capture_extra():
        from capture.verification.model_check import check
    loaded = Model(model, None, device, device_map, dtype, revision, trust_remote_code).load(tokenizer=False)
    found = check(loaded.model, loaded.tokenizer, model)
    if fmt is ReportFormat.json:
        typer.echo(json.dumps({**asdict(found), "passed": found.passed}, indent=1))
    else:
        for line in found.lines("\t" if fmt is ReportFormat.tsv else None):
            typer.echo(line)
    if not found.passed:
        raise TracesError(
            f"{model}: {', '.join(f.site for f in found.findings if f.status == 'wrong')} came out wrong."
        )
