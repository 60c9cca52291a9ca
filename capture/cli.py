"""The entry point `traces`: capture and validate, and the reader's commands from `warehouse.cli`.

torch and transformers are imported inside the commands that run a model, so that `traces sql` starts without them.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from warehouse.cli import RunArgument, WarehouseOption, app, runs_app
from warehouse.errors import RunTaken, TracesError, UsageError

if TYPE_CHECKING:
    from capture.jobs.next_token import Progress

capture_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Run a model over data and keep what happens inside."
)
app.add_typer(capture_app, name="capture")

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="`smollm2` (packaged), a hub name, a folder, or a .gguf file.", show_default=False
    ),
]


@capture_app.callback()
def _capture() -> None:
    """Keeps `next-token` a subcommand while it is the only one."""


@capture_app.command("next-token")
def next_token(
    model: ModelOption,
    data: Annotated[
        str | None, typer.Option(help="A data set: `wikitext2`, `wikitext2-raw`.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="The data set's split.")] = "validation",
    from_: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="A local copy of the data set, instead of the hub's.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Your own texts: one a line (.txt), or .jsonl or .parquet; `-` is standard input."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="The text's column in .jsonl and .parquet files.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first N examples.")] = None,
    capture: Annotated[
        str,
        typer.Option(help="Tensors to keep: any of `hidden,resid,qkv,attn,q,k,v`, or `none` for diagnostics alone."),
    ] = "none",
    run: Annotated[
        str | None, typer.Option("--run", help="The run's name; made from model and data if left out.")
    ] = None,
    max_len: Annotated[
        str, typer.Option(help="Cut texts after so many tokens; `auto`: at the model's window.")
    ] = "auto",
    chunk: Annotated[
        bool, typer.Option("--chunk", help="Go on with the rest of a long text as the next `seq`.")
    ] = False,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens in a forward pass, padding counted.")] = 1024,
    top_k: Annotated[int, typer.Option(min=1, help="Most probable tokens to keep for each position.")] = 5,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1` or `mps`.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Compute in `float32`, `float16` or `bfloat16`; `auto`: as the weights are.")
    ] = "auto",
    store_dtype: Annotated[
        str,
        typer.Option(
            help="Keep tensors in `float16`, `bfloat16` or `float32`; `auto`: as computed, but float16 for float32."
        ),
    ] = "auto",
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a tensor file, MB: how much a kill can cost.")] = 256,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of a hub model.")] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run Python code that comes with the model, with your account's rights. Only for a publisher you trust.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be captured and how large it gets; write nothing.")
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Next-token diagnostics at every position, and the tensors behind them.

    The same command again goes on with a capture that was interrupted.

    Examples: `traces capture next-token --model smollm2 --text my.txt --run first`,
    `traces capture next-token --model smollm2 --data wikitext2 --from validation.txt --limit 500 --capture hidden,resid,qkv,attn`
    """
    from capture.data import open_data
    from warehouse import layout, sites
    from warehouse.blobs import NAMES

    root = layout.find_root(warehouse)
    sites.resolve(capture)
    if store_dtype not in ("auto", *NAMES):
        raise UsageError(f"--store-dtype {store_dtype}: use auto, {', '.join(NAMES)}.")
    length = _max_len(max_len)
    if run is not None and layout.run_dir(root, layout.check_run_name(run)).exists():
        raise RunTaken(run)
    source = open_data(data, text, split, from_, text_column)
    with _needs_capture_extra():
        from capture import models
        from capture.jobs import next_token as job
    _note(f"loading {model}")
    loaded = models.load(
        model, revision=revision, device=device, dtype=dtype, trust_remote_code=trust_remote_code, note=_note
    )
    options = job.Options(capture, limit, length, chunk, batch_tokens, top_k, store_dtype, shard_mb)
    if dry_run:
        for line in job.forecast(loaded, source, options):
            typer.echo(line)
        return
    with _stopped_by_signals(), _progress(limit) as report:
        manifest = job.run(loaded, source, options, root=root, run_id=run, report=report)
    c = manifest.counts
    typer.echo(
        f"{manifest.run_id}: {c.examples:,} examples, {c.tokens:,} tokens in {manifest.seconds:.1f} s, "
        f"perplexity {manifest.perplexity:.2f}"
    )
    if c.truncated:
        typer.echo(
            f"{c.truncated:,} texts were longer than {length or loaded.window} tokens and were cut: see --max-len, --chunk"
        )
    typer.echo(f"next: traces runs show {manifest.run_id}")


@runs_app.command("validate")
def validate(
    run: RunArgument,
    warehouse: WarehouseOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also run the model again on a sample, and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check a run: checksums, shapes, keys, values, tokens against text, attention, the residual stream.

    Exit code 0 where all is sound, 1 where anything is not. Example: `traces runs validate wt2 --deep`
    """
    import json
    from dataclasses import asdict

    from warehouse import layout
    from warehouse.catalog import find_run
    from warehouse.validate import Check
    from warehouse.validate import validate as checks_of

    folder = find_run(layout.find_root(warehouse), run)
    found: list[Check] = []

    def tell(checks: Iterator[Check]) -> None:
        for check in checks:
            found.append(check)
            if not as_json:
                mark = {True: "ok  ", False: "FAIL", None: "--  "}[check.passed]
                typer.echo(f"{mark} {check.name}: {check.detail}")

    tell(checks_of(folder))
    if deep and all(c.passed is not False for c in found):
        with _needs_capture_extra():
            from capture.recheck import recheck
        tell(recheck(folder))
    if as_json:
        typer.echo(json.dumps([asdict(c) for c in found], indent=1))
    failed = [c.name for c in found if c.passed is False]
    if failed:
        raise TracesError(f"Run '{run}' is not sound: {', '.join(failed)}.")


def _max_len(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 2:
        raise UsageError(f"--max-len {text}: use 'auto' or a number of tokens from 2 up.")
    return int(text)


def _note(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _needs_capture_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name and e.name.split(".")[0] in ("torch", "transformers", "datasets", "accelerate"):
            raise UsageError(f"Running models needs {e.name}: pip install 'trace-warehouse[capture]'") from None
        raise


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """A polite kill ends a capture as Ctrl-C does: what is complete is kept."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise TracesStopped("Stopped. What was complete is kept: run the same command again to go on.") from None
    finally:
        signal.signal(signal.SIGTERM, before)


class TracesStopped(TracesError):
    exit_code = 130


@contextmanager
def _progress(limit: int | None) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, a line now and then elsewhere; on standard error."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("examples, {task.fields[rate]}"),
        bars.TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    start = said = time.monotonic()
    resumed_said = False
    with bar:
        task = bar.add_task("capturing", total=limit, rate="")

        def report(p: Progress) -> None:
            nonlocal said, resumed_said
            new = p.tokens - p.resumed_tokens
            rate = f"{new / max(time.monotonic() - start, 1e-9):,.0f} tokens/s"
            bar.update(task, completed=p.begun, description=p.run_id, rate=rate)
            if p.resumed_tokens and new and not resumed_said:
                resumed_said = True
                console.print(f"going on after {p.resumed_tokens:,} tokens")
            if not console.is_terminal and time.monotonic() - said > 10:
                said = time.monotonic()
                _note(f"{p.run_id}: {p.begun:,} examples, {p.tokens:,} tokens, {rate}")

        yield report


def main() -> None:
    """Runs `traces`. What a user can cause ends in one line and an exit code; anything else keeps its traceback."""
    try:
        app()
    except TracesError as e:
        _note(f"traces: {e}")
        sys.exit(e.exit_code)
    except BrokenPipeError:  # `traces sql … | head`
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as e:  # a folder that may not be written to, a disk that is full or gone
        _note(f"traces: {e}")
        sys.exit(1)
    except Exception as e:
        if type(e).__module__ not in ("duckdb", "_duckdb"):
            raise
        import duckdb

        _note(f"traces: {e}")
        sys.exit(2 if isinstance(e, duckdb.ProgrammingError) else 1)


if __name__ == "__main__":
    main()
