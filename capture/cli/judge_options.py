"""What every command that asks a judge shares: its options, the question before money is spent, a progress bar."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.options import LoadOptions, PartOptions
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.workers import make_in_parts
from capture.sequences import partition
from capture.workers.assignment import assigned_part
from warehouse.cli.option_groups import Panel
from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.traits.judge import Judge
    from warehouse.storage.manifest import Manifest

_JUDGE_HELP = "Who judges: `openai:MODEL`, `anthropic:MODEL`, `http://host:port/v1:MODEL` or `local:MODEL`."

JudgeOption = Annotated[
    str,
    typer.Option("--judge", metavar="JUDGE", help=_JUDGE_HELP, show_default=False, rich_help_panel=Panel.JUDGE),
]


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """How a judge is asked."""

    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            min=1,
            max=1000,
            help="Requests in flight at a time; a local model gets one.",
            rich_help_panel=Panel.JUDGE,
        ),
    ] = 20
    price: Annotated[
        str | None,
        typer.Option(
            "--price",
            metavar="IN,OUT",
            help="Dollars for a million tokens in and out: the estimate then has a price.",
            show_default=False,
            rich_help_panel=Panel.JUDGE,
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.1, help="How many seconds an answer may take.", rich_help_panel=Panel.JUDGE),
    ] = 60.0
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Ask a paid judge without confirmation.", rich_help_panel=Panel.JUDGE),
    ] = False


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(AskingOptions):
    """Whether a judge is asked, which one, and how."""

    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="JUDGE",
            help=f"{_JUDGE_HELP} By default there is no judge; `traces trait judge` can score the responses later.",
            show_default=False,
            rich_help_panel=Panel.JUDGE,
        ),
    ] = None


def judge_responses(
    root: AnyPath,
    run: str,
    name: str | None,
    judge: str,
    asking: AskingOptions,
    *,
    dry_run: bool = False,
    device: str = "auto",
    part: PartOptions | None = None,
) -> Manifest | None:
    """Judge a run's responses, after asking whether a paid judge may be used.

    Args:
        root: The warehouse root.
        run: The run with the responses.
        name: The name of the run that is written; None: RUN-judged.
        judge: Which judge, as in `openai:MODEL`.
        asking: How it is asked.
        dry_run: Only say how many requests there would be.
        device: Where a local judge runs.
        part: Which of the responses, and by how many processes; None: all, by this one.

    Returns:
        The manifest of the run of judgements; None for a dry run.
    """
    prices, part, local = _parse_prices(asking.price), part or PartOptions(), judge.startswith("local:")
    with needs_capture_extra():
        from capture.api.progress import judge_progress
        from capture.traits import judge_run
        from capture.traits.judge_clients import open_judge

        name = partition.part_run_name(name or judge_run.default_run_name(run), part.chosen)
        if part.divided:
            from warehouse.maintenance.merge import finish_merge

            finish_merge(root, name)
        estimate = judge_run.estimate(root, run, name, part.chosen)
        client = (
            None
            if part.divided and local  # only workers load it
            else open_judge(judge, timeout=asking.timeout, device=device, note=note)
        )
    cost = f", about ${estimate.dollars(*prices):,.2f}" if prices is not None else ""
    if not assigned_part():
        note(
            f"{judge if client is None else client.name}: {estimate.requests:,} requests, about {estimate.tokens_in:,} tokens in and at "
            f"most {estimate.tokens_out:,} out{cost}"
        )
    if dry_run:
        return None
    if estimate.requests and client is not None:
        _confirm(client, asking.yes)
    if part.divided or client is None:
        loading = LoadOptions(device=device) if local else None
        return make_in_parts(part, root, name, loading=loading, total=estimate.requests // 2, unit="responses")
    with stopped_by_signals(), judge_progress(note) as report:
        return judge_run.judge_run(
            root, run, client, name=name, concurrency=asking.concurrency, shard=part.chosen, report=report, note=note
        )


def check_judge(judge: str, asking: AskingOptions) -> None:
    """Raise, before there are responses, what `judge_responses` would raise once there are; no local model is loaded.

    Args:
        judge: Which judge, as in `openai:MODEL`.
        asking: How it is asked.
    """
    _parse_prices(asking.price)
    if judge.startswith("local:"):
        return
    with needs_capture_extra():
        from capture.traits.judge_clients import open_judge
    _check_confirmable(open_judge(judge), asking.yes)


def _check_confirmable(judge: Judge, yes: bool) -> None:
    """Raise UsageError if a judge costs money and nobody can confirm that."""
    if judge.paid and not yes and not assigned_part() and not sys.stdin.isatty():
        raise UsageError(f"{judge.name} may cost money, and there is no terminal to confirm that on: add --yes.")


def _confirm(judge: Judge, yes: bool) -> None:
    """Ask on the terminal whether a judge that costs money may be used."""
    _check_confirmable(judge, yes)
    if yes or not judge.paid or assigned_part():  # the driver has asked
        return
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def _parse_prices(price: str | None) -> tuple[float, float] | None:
    """Return dollars for a million tokens in and out; None: no price is given."""
    if price is None:
        return None
    try:
        price_in, price_out = (float(p) for p in price.split(","))
    except ValueError:
        price_in = price_out = -1.0
    if not (0 <= price_in < 1e6 and 0 <= price_out < 1e6):
        raise UsageError(f"--price {price}: write dollars for a million tokens in and out, as in 0.15,0.60.")
    return price_in, price_out
