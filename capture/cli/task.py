"""`traces task`: pairs of prompts whose answers are known, put to a model as a capture that interventions start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.capture import run_capture
from capture.cli.data_options import PrependBosOption
from capture.cli.listing import show_rows
from capture.cli.options import CaptureOptions, LoadOptions, ModelOption, RunOptions, TopKOption
from capture.cli.terminal import needs_capture_extra
from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import ReportFormatOption
from warehouse.cli.output import ReportFormat
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.data.example import Source

task_app = App(
    no_args_is_help=True, help="Put pairs of prompts to a model whose answers are known, clean and corrupted."
)


@task_app.command("list")
def list_tasks(fmt: ReportFormatOption = ReportFormat.table) -> None:
    """List the tasks that come with traces: what each asks for, and its metric.

    Examples:
        traces task list --format tsv
    """
    from capture.data.tasks.registry import TASKS

    show_rows([{"name": t.name, "about": t.about, "metric": t.metric} for t in TASKS.values()], fmt)
    if fmt is ReportFormat.table:
        typer.echo(
            "Pairs of your own: a .csv, .tsv, .jsonl or .parquet file with the columns clean, corrupted, answer and wrong."
        )


@task_app.command("prepare")
@with_groups(defaults={"capture": "resid,qkv"})
def prepare(
    task: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="A task that `traces task list` knows, or a .csv, .tsv, .jsonl or .parquet file of pairs.",
        ),
    ],
    model: ModelOption,
    loading: LoadOptions,
    capture: CaptureOptions,
    target: RunOptions,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            min=1,
            help="The most pairs; by default 200, or all of a file.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed for drawing pairs.", rich_help_panel=Panel.READ)] = 0,
    prepend_bos: PrependBosOption = "auto",
    top_k: TopKOption = 5,
) -> None:
    """Put the pairs of prompts of a task to a model: how it answers them, and the tensors behind that.

    An example is a pair: `seq` 0 is its clean prompt, `seq` 1 its corrupted one, of as many tokens. The table `task_scores` has
    every metric of both. A file has the columns `clean`, `corrupted`, `answer` and `wrong`: texts as they stand after the prompt,
    one token each (` Mary`); or `clean`, `corrupted` and `label`, two digits that the number to come should be greater than.

    Examples:
        traces task prepare indirect_object --model smollm2 --run names
        traces task prepare mine.csv --model smollm2 --run mine
    """
    shared = capture.checked(part=target.chosen)
    from capture.data.tasks.registry import find_task

    found = find_task(task)
    with needs_capture_extra():
        from capture.jobs import task as job
    options = job.Options(**shared, n=n, seed=seed, prepend_bos=prepend_bos, top_k=top_k)
    load = cache(lambda: loading.load(model, "lm"))
    data = _Pairs(lambda: job.open_pairs(load(), found, options))
    run_capture(job, options, data, target, model, loading, load)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a task, which need the model's tokenizer to be opened."""

    open_pairs: Callable[[], Source]

    def open(self, root: AnyPath | None) -> Source:
        """Open them; they do not depend on the warehouse."""
        return self.open_pairs()
