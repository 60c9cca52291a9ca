"""What every command that asks a judge shares: its options, the question before money is spent, a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.sequences import partition
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from capture.traits.judge import Judge
    from capture.traits.judge_run import JudgeProgress
    from warehouse.storage.manifest import Manifest

JUDGE_HELP = "Who judges: `openai:MODEL`, `anthropic:MODEL`, `http://host:port/v1:MODEL` or `local:MODEL`."
JudgeOption = Annotated[str, typer.Option("--judge", metavar="JUDGE", help=JUDGE_HELP, show_default=False)]
ConcurrencyOption = Annotated[
    int, typer.Option("--concurrency", min=1, max=1000, help="Requests in flight at a time; a local model gets one.")
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price",
        metavar="IN,OUT",
        help="What a million tokens in and out cost, in dollars: the estimate then has a price.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Ask a paid judge without asking here first.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that an answer may take.")]


def judged(
    root: Path,
    run: str,
    name: str | None,
    spec: str,
    *,
    concurrency: int,
    timeout: float,
    price: str | None,
    yes: bool,
    dry_run: bool = False,
    device: str = "auto",
    shard: str = "",
) -> Manifest | None:
    """Judges a run's responses, after the question whether a paid judge is to be asked. None where nothing was to be asked.

    Raises as `capture.traits.judge_run.judge_run` and `open_judge` do, and UsageError where nobody is there to say yes.
    """
    prices = _prices(price)
    with needs_capture_extra():
        from capture.traits import judge_run
        from capture.traits.judge_clients import open_judge

        name = partition.part_run_name(name or judge_run.default_run_name(run), shard)
        ahead = judge_run.estimate(root, run, name, shard)
        judge = open_judge(spec, timeout=timeout, device=device, note=note)
    cost = f", about ${ahead.dollars(*prices):,.2f}" if prices is not None else ""
    note(
        f"{judge.name}: {ahead.requests:,} requests, about {ahead.tokens_in:,} tokens in and at most {ahead.tokens_out:,} out{cost}"
    )
    if dry_run:
        return None
    if ahead.requests:
        _confirm(judge, yes)
    with stopped_by_signals(), _bar() as report:
        return judge_run.judge_run(
            root, run, judge, name=name, concurrency=concurrency, shard=shard, report=report, note=note
        )


def check_judge(spec: str, *, price: str | None, yes: bool) -> None:
    """Raises, before there are responses, what `judged` would raise once there are; a local model is not loaded yet."""
    _prices(price)
    if spec.startswith("local:"):
        return
    with needs_capture_extra():
        from capture.traits.judge_clients import open_judge
    _check_asked(open_judge(spec), yes)


def _check_asked(judge: Judge, yes: bool) -> None:
    if judge.paid and not yes and not sys.stdin.isatty():
        raise UsageError(f"{judge.name} may cost money, and nobody is there to be asked: add --yes.")


def _confirm(judge: Judge, yes: bool) -> None:
    _check_asked(judge, yes)
    if yes or not judge.paid:
        return
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def _prices(price: str | None) -> tuple[float, float] | None:
    if price is None:
        return None
    try:
        of_in, of_out = (float(p) for p in price.split(","))
    except ValueError:
        of_in = of_out = -1.0
    if not (0 <= of_in < 1e6 and 0 <= of_out < 1e6):
        raise UsageError(f"--price {price}: write dollars for a million tokens in and out, as in 0.15,0.60.")
    return of_in, of_out


@contextmanager
def _bar() -> Iterator[Callable[[JudgeProgress], None]]:
    """On a terminal a bar, elsewhere a line now and then; on standard error."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("responses, {task.fields[told]}"),
        bars.TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    said = time.monotonic()
    begun = False
    with bar:
        task = bar.add_task("judging", total=None, told="")

        def report(j: JudgeProgress) -> None:
            nonlocal said, begun
            fresh = j.done - j.resumed
            told = f"{fresh - j.scored - j.refused:,} without a score, {j.refused:,} refused"
            bar.update(task, total=j.total, completed=j.done, description=j.run_id, told=told)
            if j.resumed and not begun:
                note(f"going on after {j.resumed:,} responses")
            begun = True
            if not console.is_terminal and time.monotonic() - said > 10:
                said = time.monotonic()
                note(f"{j.run_id}: {j.done:,} of {j.total:,} responses, {told}")

        yield report
