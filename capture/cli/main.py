"""The entry point `traces`: every command, registered in the order of `traces --help`.

torch and transformers are imported inside the commands that run a model, so that `traces sql` starts without them.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Annotated, Any

import typer

from capture.cli import (
    compare,
    effects,
    export,
    features_train,
    generate,
    import_traces,
    influence,
    lens,
    nearest,
    validate,
)
from capture.cli.capture import capture_app
from capture.cli.circuit import circuit_app
from capture.cli.data import data_app
from capture.cli.derive import derive_app
from capture.cli.features import features_app
from capture.cli.finetune import finetune_app
from capture.cli.model import model_app
from capture.cli.task import task_app
from capture.cli.trait import trait_app
from warehouse.cli import graph, probe, sql
from warehouse.cli.app import App, Refusal, refusal
from warehouse.cli.console import console_app
from warehouse.cli.export import export_app
from warehouse.cli.index import index_app
from warehouse.cli.option_groups import Panel
from warehouse.cli.plot import plot_app
from warehouse.cli.runs import runs_app
from warehouse.cli.terminal import note
from warehouse.errors import (
    LeftOutWarning,
    TracesError,
    UncertainResultWarning,
    UsageError,
    on_one_line,
    without_number,
)
from warehouse.storage.strict_json import half_pair

app = App(no_args_is_help=True)
app.add_typer(capture_app, name="capture")
capture_app.command("generate")(generate.generate)
app.add_typer(model_app, name="model")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs", invoke_without_command=True)
runs_app.command("validate")(validate.validate)
app.command("sql")(sql.sql)
app.command("shell", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(sql.shell)
app.command("refresh")(sql.refresh)
app.add_typer(index_app, name="index")
app.command("nearest")(nearest.nearest)
app.command("probe")(probe.probe)
app.add_typer(plot_app, name="plot")
app.command("import")(import_traces.import_traces)
app.add_typer(export_app, name="export")
export_app.command("sae-lens")(export.sae_lens)
export_app.command("trait-tensors")(export.trait_tensors)
app.add_typer(console_app, name="console", invoke_without_command=True)
app.add_typer(derive_app, name="derive")
app.command("lens")(lens.lens)
app.add_typer(features_app, name="features")
features_app.command("train")(features_train.train)
app.command("compare")(compare.compare)
app.command("influence")(influence.influence)
app.command("graph")(graph.graph)
app.command("ablate")(effects.ablate)
app.command("patch")(effects.patch)
app.add_typer(task_app, name="task")
app.add_typer(circuit_app, name="circuit")
app.add_typer(trait_app, name="trait")
app.add_typer(finetune_app, name="finetune")


def _print_versions(wanted: bool) -> None:
    """Print the versions that a report about a defect needs, and end; nothing is imported for that."""
    from importlib.metadata import PackageNotFoundError, version

    if not wanted:
        return
    for name in ("trace-warehouse", "duckdb", "torch", "transformers"):
        try:
            typer.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} is not installed")
    raise typer.Exit


@app.callback()
def traces(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of trace-warehouse and of what it runs on.",
            rich_help_panel=Panel.GENERAL,
        ),
    ] = False,
) -> None:
    """Record what happens inside a text model while it reads your texts, and ask about it in SQL.

    Examples:
        traces capture next-token --model smollm2 --text my.txt --capture hidden,resid,qkv,attn --run first
        traces sql "SELECT token, avg(loss) FROM token_diagnostics GROUP BY token ORDER BY 2 DESC LIMIT 20"
    """


def main() -> None:
    """Run `traces`: what a user can cause ends in one line and an exit code, and anything else keeps its traceback."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):  # names from outside may hold what cannot be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        for number, argument in enumerate(sys.argv[1:], 1):
            if half_pair(argument):
                raise UsageError(f"Argument {number} is not UTF-8 text: {argument}")
        sys.exit(app(prog_name="traces", standalone_mode=False) or 0)
    except BrokenPipeError:  # `traces sql … | head`
        sys.stderr.close()
        sys.exit(0)
    except (Exception, KeyboardInterrupt) as e:
        if (known := ending(e)) is None:
            raise
        line, code = known
        if line:
            note(f"traces: {line}")
        sys.exit(code)


def ending(e: BaseException) -> tuple[str, int] | None:
    """Return how a command ends: the line that says why, empty where that is said or known, and the exit code.

    Args:
        e: What the command raised.

    Returns:
        Both; None for a defect, which keeps its traceback.
    """
    match e:
        case TracesError():
            return on_one_line(str(e)), e.exit_code
        case KeyboardInterrupt():
            return "", 130
        case SystemExit():
            return "", e.code if isinstance(e.code, int) else 1
        case typer.Abort():  # a question that nobody answered
            return "Aborted.", 1
        case OSError():  # a folder that may not be written to, a disk that is full or gone
            return on_one_line(without_number(e)), 1
        case MemoryError():
            return "There is too little memory for this. A capture needs less with a smaller --batch-tokens.", 1
        case Exception() if isinstance(e, Refusal):
            printed = type(e).__name__ == "NoArgsIsHelpError"  # which has printed the help already
            return "" if printed else on_one_line(refusal(e)), 2
    if type(e).__module__ not in ("duckdb", "_duckdb"):
        return None
    import duckdb

    return str(e), 2 if isinstance(e, duckdb.ProgrammingError) else 1


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Print our own warnings on one line; those of libraries are for their authors."""
    if issubclass(category, (LeftOutWarning, UncertainResultWarning)):
        note(f"warning: {message}")


if __name__ == "__main__":
    main()
