"""The entry point `traces`: every command, registered in the order of `traces --help`.

torch and transformers are imported inside the commands that run a model, so that `traces sql` starts without them.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import typer

from capture.cli import generate, lens, nearest, validate
from capture.cli.capture import capture_app
from capture.cli.data import data_app
from capture.cli.derive import derive_app
from capture.cli.finetune import finetune_app
from capture.cli.model import model_app
from capture.cli.trait import trait_app
from warehouse.cli import probe, sql
from warehouse.cli.index import index_app
from warehouse.cli.runs import runs_app
from warehouse.cli.terminal import note
from warehouse.errors import LeftOutWarning, TracesError, UncertainResultWarning, UsageError, on_one_line
from warehouse.storage.strict_json import half_pair

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)
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
app.add_typer(derive_app, name="derive")
app.command("lens")(lens.lens)
app.add_typer(trait_app, name="trait")
app.add_typer(finetune_app, name="finetune")


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
    if issubclass(category, (LeftOutWarning, UncertainResultWarning)):
        note(f"warning: {message}")


if __name__ == "__main__":
    main()
