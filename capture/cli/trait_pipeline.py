"""`traces trait run`: from definitions to vectors that were tried, each step leaving a run of its own.

`capture.traits.pipeline` has the steps; here are the options, and what a user sees of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture.cli.judge_options import JudgeOptions, check_judge, judge_responses
from capture.cli.options import LoadOptions, ModelOption, SamplingOptions
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.trait_project import show_projection
from capture.cli.trait_respond import show_effects, show_responses
from capture.cli.trait_vectors import (
    FilterOption,
    ThresholdOption,
    show_evaluation,
    show_vectors,
)
from capture.cli.values import parse_numbers, parse_threshold, split_list
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import FormatOption, WarehouseOption, dry_run_option
from warehouse.cli.output import Format
from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.model.loading import Loaded
    from warehouse.storage.manifest import Manifest, ModelInfo


@with_groups(defaults={"max_new_tokens": 64}, fixed={"top_p": 1.0, "sample_top_k": 0})
def run(
    traits: Annotated[
        str,
        typer.Option(
            "--traits",
            metavar="A,B,…",
            help="Definitions, or names of those that come with traces.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ],
    model: ModelOption,
    loading: LoadOptions,
    sampling: SamplingOptions,
    asking: JudgeOptions,
    n: Annotated[
        int,
        typer.Option("--n", "-n", min=1, help="Responses of each polarity.", rich_help_panel=Panel.RESPONSES),
    ] = 100,
    threshold: ThresholdOption = "50",
    filter: FilterOption = "pairs",
    coefficients: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Coefficients to try when steering at the best layer.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "-4,-2,0,2,4",
    projected: Annotated[
        str,
        typer.Option(
            "--project",
            metavar="RUN,…",
            help="Runs whose tokens are projected on the traits' best vectors.",
            rich_help_panel=Panel.READ,
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        dry_run_option("Say which steps are done and which are left."),
    ] = False,
    warehouse: WarehouseOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Respond, judge, extract, evaluate, steer at the best layer, project: for several traits, one after the other.

    Every step is a run of its own (`sarcasm-smollm2-responses`, `sarcasm-smollm2-vectors`, …). Runs that exist are left as they
    are, so that the same command again continues one that was interrupted. Without a judge all responses count.

    Examples:
        traces trait run --traits sarcasm,formality --model smollm2 --judge openai:gpt-4.1-mini

    Raises:
        UsageError: No trait is named.
    """
    from warehouse.storage import paths
    from warehouse.storage.run_list import find_run

    root = paths.find_root(warehouse)
    sources = split_list(projected)
    for source in sources:
        find_run(root, source)
    added = tuple(parse_numbers("--coefficients", coefficients))
    with needs_capture_extra():
        from capture.traits import definition, pipeline
    options = pipeline.Options(
        n, parse_threshold(threshold), filter, added, sampling.max_new_tokens, sampling.temperature, sampling.seed
    )
    pipeline.check_options(options)
    if asking.judge is not None and not dry_run:
        check_judge(asking.judge, asking)
    definitions = [definition.load(path) for path in dict.fromkeys(split_list(traits))]
    if not definitions:
        raise UsageError("--traits: name at least one.")
    if dry_run:
        for step in pipeline.plan_steps(root, definitions, model, with_judge=asking.judge is not None):
            typer.echo(f"{step.run_id}: {'done' if step.is_done else 'to do'}")
        for source in sources:
            typer.echo(f"{source}: projected, if it is not yet")
        return

    def load(info: ModelInfo | None) -> Loaded:
        if info is None:
            return loading.load(model, "lm")
        revision = info.revision if model == info.name else None
        return replace(loading, dtype=info.dtype, revision=revision).load(model, "lm")

    def judge(source: str, name: str) -> None:
        judge_responses(root, source, name, asking.judge or "", asking, device=loading.device)

    pipeline.run_pipeline(
        root,
        definitions,
        model,
        options,
        _Terminal(root, fmt),
        load=load,
        judge=judge if asking.judge is not None else None,
        projected=sources,
    )


@dataclass(frozen=True)
class _Terminal:
    """Shows a pipeline on the terminal: progress and notes on standard error, results on standard output."""

    root: AnyPath
    fmt: Format

    def note(self, line: str) -> None:
        note(line)

    @contextmanager
    def watch(self, kind: str, total: int | None) -> Iterator[Callable[[Any], None]]:
        from capture.api.progress import pipeline_progress

        with stopped_by_signals(), pipeline_progress(kind, total, note) as report:
            yield report

    def finish(self, kind: str, manifest: Manifest) -> None:
        if kind == "respond":
            show_responses(manifest)
        elif kind == "extract":
            show_vectors(manifest)
        elif kind == "evaluate":
            show_evaluation(self.root, manifest.run_id, self.fmt)
        elif kind == "steer":
            show_effects(self.root, manifest.run_id, self.fmt)
        elif kind == "project":
            show_projection(manifest)
