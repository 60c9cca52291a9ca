"""The entry point `traces`: capture and validate, and the reader's commands from `warehouse.cli`.

torch and transformers are imported inside the commands that run a model, so that `traces sql` starts without them.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from capture.options import (
    MODEL_HELP,
    AttnOption,
    BatchTokensOption,
    CaptureOption,
    ChunkOption,
    DataOption,
    DeviceMapOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    FromOption,
    LimitOption,
    MaxLenOption,
    ModelOption,
    RevisionOption,
    RunOption,
    ShardOption,
    SplitOption,
    StoreDtypeOption,
    TargetColumnOption,
    TextColumnOption,
    TextOption,
    TrustOption,
)
from warehouse import sites
from warehouse.cli import RunArgument, WarehouseOption, app, runs_app
from warehouse.errors import RunTaken, TracesError, UsageError
from warehouse.output import ReportFormat

if TYPE_CHECKING:
    from capture.job import Options, Progress
    from capture.models import Loaded
    from warehouse.derive import Counted

capture_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Run a model over data and keep what happens inside."
)
app.add_typer(capture_app, name="capture")

model_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="What can be recorded of a model.")
app.add_typer(model_app, name="model")
derive_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Make more of what a run stored, without its model."
)
app.add_typer(derive_app, name="derive")


@capture_app.command("next-token")
def next_token(
    model: ModelOption,
    data: DataOption = None,
    split: SplitOption = "validation",
    from_: FromOption = None,
    text: TextOption = None,
    text_column: TextColumnOption = "text",
    target_column: TargetColumnOption = None,
    limit: LimitOption = None,
    capture: CaptureOption = "none",
    attn: AttnOption = "auto",
    run: RunOption = None,
    max_len: MaxLenOption = "auto",
    chunk: ChunkOption = False,
    batch_tokens: BatchTokensOption = 1024,
    top_k: Annotated[int, typer.Option(min=1, help="Most probable tokens to keep for each position.")] = 5,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    store_dtype: StoreDtypeOption = "auto",
    shard_mb: ShardOption = 256,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Next-token diagnostics at every position, and the tensors behind them.

    The same command again goes on with a capture that was interrupted.

    Examples: `traces capture next-token --model smollm2 --text my.txt --run first`,
    `traces capture next-token --model smollm2 --data wikitext2 --from validation.txt --limit 500 --capture hidden,resid,qkv,attn`
    """
    fixed = _checked(capture, attn, limit, max_len, chunk, target_column, batch_tokens, store_dtype, shard_mb)
    asked = _Asked(model, True, device, device_map, dtype, revision, trust_remote_code)
    with _needs_capture_extra():
        from capture.jobs import next_token as kind
    options = kind.Options(**fixed, top_k=top_k)
    _run_capture(kind, options, asked, (data, text, split, from_, text_column), run, dry_run, warehouse)


@capture_app.command("encode")
def encode(
    model: ModelOption,
    data: DataOption = None,
    split: SplitOption = "validation",
    from_: FromOption = None,
    text: TextOption = None,
    text_column: TextColumnOption = "text",
    target_column: TargetColumnOption = None,
    limit: LimitOption = None,
    capture: CaptureOption = "hidden",
    attn: AttnOption = "auto",
    run: RunOption = None,
    max_len: MaxLenOption = "auto",
    chunk: ChunkOption = False,
    batch_tokens: BatchTokensOption = 1024,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    store_dtype: StoreDtypeOption = "auto",
    shard_mb: ShardOption = 256,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """The tensors alone, without next-token diagnostics: of encoders, and of decoders without their head.

    An encoder-decoder is recorded on its encoder's side, and on both where targets are given.

    Example: `traces capture encode --model my-bert --text my.txt --capture hidden,resid,qkv,attn`
    """
    fixed = _checked(capture, attn, limit, max_len, chunk, target_column, batch_tokens, store_dtype, shard_mb)
    asked = _Asked(model, False, device, device_map, dtype, revision, trust_remote_code)
    with _needs_capture_extra():
        from capture.jobs import encode as kind
    options = kind.Options(**fixed)
    _run_capture(kind, options, asked, (data, text, split, from_, text_column), run, dry_run, warehouse)


class _Asked(NamedTuple):
    """The model, as the command line names it."""

    name: str
    head: bool | None
    device: str
    device_map: str | None
    dtype: str
    revision: str | None
    trust_remote_code: bool

    def load(self, tokenizer: bool = True) -> Loaded:
        from capture import models

        _note(f"loading {self.name}")
        return models.load(
            self.name,
            head=self.head,
            revision=self.revision,
            device=self.device,
            device_map=self.device_map,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            tokenizer=tokenizer,
            note=_note,
        )


def _checked(
    capture: str,
    attn: str,
    limit: int | None,
    max_len: str,
    chunk: bool,
    target_column: str | None,
    batch_tokens: int,
    store_dtype: str,
    shard_mb: int,
) -> dict[str, Any]:
    """The options that all kinds of capture share, before anything heavy is imported. Raises UsageError."""
    from warehouse import sites
    from warehouse.blobs import NAMES

    sites.resolve(capture)
    if attn not in ("auto", "stored"):
        raise UsageError(f"--attn {attn}: use auto or stored.")
    if store_dtype not in ("auto", *NAMES):
        raise UsageError(f"--store-dtype {store_dtype}: use auto, {', '.join(NAMES)}.")
    return {
        "capture": capture,
        "attn": attn,
        "limit": limit,
        "max_len": _max_len(max_len),
        "chunk": chunk,
        "target_column": target_column,
        "batch_tokens": batch_tokens,
        "store_dtype": store_dtype,
        "shard_mb": shard_mb,
    }


def _run_capture(
    kind: Any,
    options: Options,
    asked: _Asked,
    data: tuple[str | None, str | None, str, str | None, str],
    run: str | None,
    dry_run: bool,
    warehouse: Path | None,
) -> None:
    """What the commands of `traces capture` do, `kind` being the module of the job."""
    from capture.data import open_data
    from warehouse import layout

    root = layout.find_root(warehouse)
    if run is not None and layout.run_dir(root, layout.check_run_name(run)).exists():
        raise RunTaken(run)
    source = open_data(*data)
    loaded = asked.load()
    if dry_run:
        for line in kind.forecast(loaded, source, options):
            typer.echo(line)
        return
    with _stopped_by_signals(), _progress(options.limit) as report:
        manifest = kind.run(loaded, source, options, root=root, run_id=run, report=report)
    c = manifest.counts
    perplexity = "" if manifest.perplexity is None else f", perplexity {manifest.perplexity:.2f}"
    typer.echo(
        f"{manifest.run_id}: {c.examples:,} examples, {c.tokens:,} tokens in {manifest.seconds:.1f} s{perplexity}"
    )
    if c.truncated:
        length = options.max_len or loaded.window
        typer.echo(f"{c.truncated:,} texts were longer than {length} tokens and were cut: see --max-len, --chunk")
    asked_for = set(sites.resolve(options.capture))
    for stack in filter(None, (manifest.model, manifest.model.encoder)):
        for site, reason in stack.missing.items():
            if site in asked_for:
                typer.echo(f"not there: {site}: {reason}")
    typer.echo(f"next: traces runs show {manifest.run_id}")


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

    with _needs_capture_extra():
        from capture.check import check
    loaded = _Asked(model, None, device, device_map, dtype, revision, trust_remote_code).load(tokenizer=False)
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
    with _stopped_by_signals(), _progress(None) as report:
        manifest = derive(folder, root=root, run_id=name or f"{run}-heads", report=report)
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['heads']:,} rows in {manifest.seconds:.1f} s")
    typer.echo(f"next: traces sql --run induction_heads --set run={run}")


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
def _progress(limit: int | None) -> Iterator[Callable[[Progress | Counted], None]]:
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

        def report(p: Progress | Counted) -> None:
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
