"""The entry point `traces`: capture and validate, and the reader's commands from `warehouse.cli`.

torch and transformers are imported inside the commands that run a model, so that `traces sql` starts without them.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from capture import (  # noqa: F401  each adds its commands to the app
    capture_cli,
    data_cli,
    finetune_cli,
    generate_cli,
    lens_cli,
    nearest_cli,
    respond_cli,
    trait_cli,
    trait_run_cli,
    vectors_cli,
)
from capture.asked import Model
from capture.console import needs_capture_extra, progress, stopped_by_signals
from capture.options import MODEL_HELP, DeviceMapOption, DeviceOption, DtypeOption, RevisionOption, TrustOption
from warehouse import index_cli, probe_cli  # noqa: F401
from warehouse.cli import RunArgument, WarehouseOption, app, runs_app
from warehouse.errors import Doubt, LeftOut, TracesError, UsageError
from warehouse.output import ReportFormat
from warehouse.strict_json import half_pair
from warehouse.terminal import note, on_one_line, say

model_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="What can be recorded of a model.")
app.add_typer(model_app, name="model")
derive_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Make more of what a run stored, without its model."
)
app.add_typer(derive_app, name="derive")


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
        from capture.check import check
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


@derive_app.command("heads")
def derive_heads(
    run: RunArgument,
    name: Annotated[str | None, typer.Option("--run", help="The new run's name; RUN-heads if left out.")] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """What every attention head does on every example, from a run's stored q and k: the table `heads`.

    Makes a run of its own, whose rows name their source; the same command again goes on where it was interrupted.

    Example: `traces derive heads wt2`, then `traces sql --run induction_heads --set run=wt2`
    """
    from warehouse import layout
    from warehouse.catalog import find_run
    from warehouse.derive import derive_heads as derive

    root = layout.find_root(warehouse)
    folder = find_run(root, run)
    with stopped_by_signals(), progress(None) as report:
        manifest = derive(folder, root=root, run_id=name or f"{run}-heads", report=report)
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['heads']:,} rows in {manifest.seconds:.1f} s")
    typer.echo(f"next: traces sql --run induction_heads --set run={run}")


@runs_app.command("validate")
def validate(
    run: RunArgument,
    warehouse: WarehouseOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also run the model again on a sample, and compare.")] = False,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check a run: checksums, shapes, keys, values, tokens against text, attention, the residual stream.

    Exit code 0 where all is sound, 1 where anything is not. Example: `traces runs validate wt2 --deep`
    """
    import json
    from dataclasses import asdict

    from warehouse import layout
    from warehouse.catalog import find_run
    from warehouse.check import Check
    from warehouse.validate import validate as checks_of

    folder = find_run(layout.find_root(warehouse), run)
    found: list[Check] = []

    def tell(checks: Iterator[Check]) -> None:
        for check in checks:
            found.append(check)
            if not as_json:
                mark = {True: "ok  ", False: "FAIL", None: "--  "}[check.passed]
                say(f"{mark} {check.name}: {check.detail}")

    tell(checks_of(folder))
    if deep and all(c.passed is not False for c in found):
        with needs_capture_extra():
            from capture.recheck import recheck
        tell(recheck(folder, trust_remote_code))
    if as_json:
        typer.echo(json.dumps([asdict(c) for c in found], indent=1))
    failed = [c.name for c in found if c.passed is False]
    if failed:
        raise TracesError(f"Run '{run}' is not sound: {', '.join(failed)}.")


def main() -> None:
    """Runs `traces`. What a user can cause ends in one line and an exit code; anything else keeps its traceback."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):  # names from outside may hold what cannot be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        for number, argument in enumerate(sys.argv[1:], 1):
            if half_pair(argument):
                raise UsageError(f"Argument {number} is not UTF-8 text: {argument}")
        app()
    except TracesError as e:
        note(f"traces: {on_one_line(str(e))}")
        sys.exit(e.exit_code)
    except BrokenPipeError:  # `traces sql … | head`
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as e:  # a folder that may not be written to, a disk that is full or gone
        note(f"traces: {on_one_line(str(e))}")
        sys.exit(1)
    except MemoryError:
        note("traces: There is too little memory for this. A capture needs less with a smaller --batch-tokens.")
        sys.exit(1)
    except Exception as e:
        if type(e).__module__ not in ("duckdb", "_duckdb"):
            raise
        import duckdb

        note(f"traces: {e}")
        sys.exit(2 if isinstance(e, duckdb.ProgrammingError) else 1)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Ours in one line; what libraries warn of is for who wrote them."""
    if issubclass(category, (LeftOut, Doubt)):
        note(f"warning: {message}")


if __name__ == "__main__":
    main()
