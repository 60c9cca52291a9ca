"""`traces trait respond` and `steer`: a model answers a trait's questions, as it is asked to or with the trait's vector added."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture.cli.judge_options import JudgeOptions, check_judge, judge_responses
from capture.cli.options import (
    MODEL_HELP,
    CaptureOptions,
    LoadOptions,
    ModelOption,
    RunOptions,
    SamplingOptions,
    SkipExistingOption,
)
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.values import parse_numbers
from capture.cli.workers import make_in_parts
from capture.sequences import partition
from capture.workers.assignment import assigned_part
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import FormatOption
from warehouse.cli.output import Format
from warehouse.errors import RunExistsError, UsageError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.model.loading import Loaded
    from warehouse.storage.manifest import Manifest

_KEEP_MEANS = {"capture": "means", "batch_tokens": 4096, "max_new_tokens": 64}
_TENSORS = {"attn": "auto", "store_dtype": "auto", "shard_mb": 256, "index": ["none"]}
"""What responses to a trait's questions have no options for."""


@with_groups(defaults=_KEEP_MEANS, fixed=_TENSORS)
def respond(
    trait: Annotated[
        str,
        typer.Option(
            "--trait",
            metavar="FILE",
            help="A definition, or the name of one that comes with traces.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ],
    model: ModelOption,
    loading: LoadOptions,
    sampling: SamplingOptions,
    capture: CaptureOptions,
    asking: JudgeOptions,
    target: RunOptions,
    n: Annotated[
        int,
        typer.Option("--n", "-n", min=1, help="Responses of each polarity.", rich_help_panel=Panel.RESPONSES),
    ] = 100,
    skip_existing: SkipExistingOption = False,
) -> None:
    """Have a model answer a trait's questions, asked to show the trait (`pos`) and asked not to (`neg`); a judge scores how it did.

    Kept of each response are the means over its tokens at every layer (`--capture means`), which vectors are made from. The same
    command again continues one that was interrupted.

    Examples:
        traces trait respond --trait sarcasm --model smollm2 --n 100 --judge openai:gpt-4.1-mini
    """
    _check_one_part(asking.judge, target)
    shared = capture.checked(part=target.chosen)
    with needs_capture_extra():
        from capture.traits import definition as definitions
        from capture.traits import respond as job
    definition = definitions.load(trait)
    options = job.Options(**shared, **asdict(sampling), trait=definition.model_dump(), n=n)
    name = partition.part_run_name(target.run or job.default_run_name(definition.name, model), target.chosen)
    source = job.source(definition, n)
    if asking.judge is not None and not target.dry_run:
        check_judge(asking.judge, asking)
    manifest = _generate(
        job.run,
        job.forecast,
        source,
        options,
        loading,
        lambda: loading.load(model, "lm"),
        name,
        target,
        skip_existing,
        asking,
    )
    if manifest is None:
        return
    show_responses(manifest)
    if target.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {name.rpartition('.shard-')[0]}")
    elif asking.judge is not None:
        _judge(name, asking, loading.device, target.warehouse)
        typer.echo(f"next: traces trait extract --traits {definition.name}")
    else:
        typer.echo(
            f"next: traces trait judge {name} --judge …, or traces trait extract --traits {definition.name} --threshold none"
        )


@with_groups(
    defaults=_KEEP_MEANS,
    fixed={**_TENSORS, "revision": None, "dtype": "auto", "top_p": 1.0, "sample_top_k": 0},
)
def steer(
    trait: Annotated[
        str,
        typer.Option("--trait", help="A trait that has vectors.", show_default=False, rich_help_panel=Panel.READ),
    ],
    loading: LoadOptions,
    sampling: SamplingOptions,
    capture: CaptureOptions,
    asking: JudgeOptions,
    target: RunOptions,
    vectors: Annotated[
        str | None,
        typer.Option(
            "--vectors",
            metavar="RUN",
            help="The run with the vectors; by default the newest that has some of the trait.",
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=f"Where the vectors' model lies now, if not where it was. {MODEL_HELP}",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    coefficients: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="How much of the vector is added, in distances between the means of the two polarities along it.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "-4,-2,0,2,4",
    layers: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="`mid`, `best` (as traces trait evaluate found), or numbers.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "mid",
    method: Annotated[
        str,
        typer.Option(
            help="Which vector: `mean_diff`, `probe`, `ica`, `gradient` or `random`.", rich_help_panel=Panel.COMPUTED
        ),
    ] = "mean_diff",
    component: Annotated[
        str, typer.Option(help="`residual` or `attn_out`.", rich_help_panel=Panel.COMPUTED)
    ] = "residual",
    questions: Annotated[
        int | None,
        typer.Option(
            "--n",
            "-n",
            min=1,
            help="How many questions to ask; by default all that were held out.",
            rich_help_panel=Panel.RESPONSES,
        ),
    ] = None,
    skip_existing: SkipExistingOption = False,
    fmt: FormatOption = Format.table,
) -> None:
    """Add a trait's vector to a block's output while the model answers: does it change the text, and is it still coherent?

    The questions are ones that no vector was made from. The same command again continues one that was interrupted.

    Examples:
        traces trait steer --trait sarcasm --coefficients -4,-2,0,2,4 --layers mid --judge openai:gpt-4.1-mini
    """
    from warehouse.storage import paths
    from warehouse.warehouse import Warehouse as OpenWarehouse

    _check_one_part(asking.judge, target)
    shared = capture.checked(part=target.chosen)
    wanted = layers if layers in ("mid", "best") else [int(x) for x in parse_numbers("--layers", layers)]
    added = parse_numbers("--coefficients", coefficients)
    root = paths.find_root(target.warehouse)
    with needs_capture_extra():
        from capture.traits import steer as job
    choice = job.choose_vectors(root, trait, vectors, method, component, wanted)
    if not target.divided:
        with OpenWarehouse(root) as wh:
            for line in choice.lines(wh):
                note(line)
    if asking.judge is not None and not target.dry_run:
        check_judge(asking.judge, asking)
    m = choice.model
    loading = replace(loading, dtype=m.dtype, revision=m.revision if model in (None, m.name) else None)
    options = job.make_options(choice, added, questions, **shared, **asdict(sampling))
    name = partition.part_run_name(target.run or job.default_run_name(choice.vectors_run), target.chosen)
    run_job, forecast = job.define_kind(choice.vectors, m.space)
    manifest = _generate(
        run_job, forecast, job.source(options), options, loading, lambda: loading.load(model or m.name, "lm"), name, target,
        skip_existing, asking,
    )  # fmt: skip
    if manifest is None:
        return
    if target.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {name.rpartition('.shard-')[0]}")
        return
    if asking.judge is not None:
        _judge(name, asking, loading.device, target.warehouse)
    show_effects(root, name, fmt)


def show_responses(manifest: Manifest) -> None:
    """Print a line about a run of responses.

    Args:
        manifest: The run's manifest.
    """
    counts = manifest.counts
    typer.echo(
        f"{manifest.run_id}: {counts.sequences:,} responses, {counts.tokens:,} tokens in {manifest.seconds:.1f} s"
    )


def show_effects(root: AnyPath, run: str, fmt: Format) -> None:
    """Print a steered run's table: what each coefficient did.

    Args:
        root: The warehouse root.
        run: The steered run.
        fmt: How the table is printed.
    """
    from warehouse.cli.output import write
    from warehouse.schema.quoting import sql_text
    from warehouse.warehouse import Warehouse

    with Warehouse(root) as wh:
        answer = wh.sql(
            "SELECT layer, coefficient, n, round(trait_score, 1) AS trait_score, round(coherence_score, 1) AS coherence_score "
            f"FROM steering_effects WHERE run_id = {sql_text(run)} ORDER BY layer, coefficient"
        )
        write(answer, fmt, None)


def _generate(
    run_job: Any,
    forecast: Any,
    source: Any,
    options: Any,
    loading: LoadOptions,
    load: Callable[[], Loaded],
    name: str,
    target: RunOptions,
    skip_existing: bool,
    asking: JudgeOptions,
) -> Manifest | None:
    """Run a job that generates responses.

    A run that exists, was made with the same options and has not been judged yet is taken as it is if a judge is asked.

    Returns:
        The run's manifest; None for a dry run, and for a run that exists and is left alone.

    Raises:
        RunExistsError: A run of that name exists, and is neither to be judged nor to be skipped.
    """
    from capture.api.progress import capture_progress
    from warehouse.storage import paths, run_list
    from warehouse.storage.manifest import Manifest

    options.sampling.check()
    root = paths.find_root(target.warehouse)
    folder = paths.run_dir(root, paths.check_run_name(name))
    divided = target.divided and not target.dry_run
    if divided:
        from warehouse.maintenance.merge import finish_merge

        finish_merge(root, name)
    if run_list.is_taken(root, name):
        to_judge = asking.judge is not None and not target.dry_run
        if to_judge and not run_list.is_taken(root, f"{name}-judged"):
            existing, wanted = Manifest.read(folder), json.loads(json.dumps(asdict(options)))
            if {k: v for k, v in existing.options.items() if k in wanted} == wanted:  # the job adds facts of its own
                note(f"{name} exists already: going on with its judge")
                return existing
        if not skip_existing or assigned_part():
            raise RunExistsError(name)
        typer.echo(f"{name} exists already: nothing to do")
        return None
    if divided:
        return make_in_parts(target, root, name, loading=loading)
    loaded = load()
    if target.dry_run:
        for line in forecast(loaded, source, options):
            typer.echo(line)
        return None
    with stopped_by_signals(), capture_progress(say=note) as (report, say):
        manifest: Manifest = run_job(loaded, source, options, root=root, run_id=name, report=report, note=say)
    return manifest


def _check_one_part(judge: str | None, target: RunOptions) -> None:
    """Raise UsageError if a part of a run is to be judged: judgements name the run that the parts become."""
    if judge is not None and (target.part or target.shard):
        raise UsageError("--judge and --part don't go together: merge the parts, then traces trait judge RUN.")


def _judge(run: str, asking: JudgeOptions, device: str, warehouse: str | None) -> None:
    """Judge a run, and print a line about it."""
    from warehouse.storage import paths

    manifest = judge_responses(paths.find_root(warehouse), run, None, asking.judge or "", asking, device=device)
    if manifest is not None:
        typer.echo(f"{manifest.run_id}: {manifest.counts.rows['judgements']:,} judgements in {manifest.seconds:.1f} s")
