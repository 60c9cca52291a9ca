"""`traces influence`: what made a run's predictions, from what it has stored."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.options import LoadOptions, PartOptions, RunModelOption
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.workers import make_in_parts
from capture.sequences import partition
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import RunArgument, WarehouseOption, dry_run_option, run_option


@with_groups(fixed={"revision": None, "dtype": "auto", "device_map": None})
def influence(
    run: RunArgument,
    loading: LoadOptions,
    part: PartOptions,
    model: RunModelOption = None,
    example: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="An example to explain, or the beginning of its id; several times for several. By default all.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The most examples; by default all.", rich_help_panel=Panel.READ)
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="last|response|A,B,…",
            help="Which predictions: at the end of each sequence, of each token that the model generated, or at positions, `0,1,5`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "last",
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The token whose logit is explained, its space with it. By default a task's targets, the chosen letter of a "
            "question, the generated token, else the likeliest.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The token whose logit is taken away. By default a task's wrong answers, the second letter, else none.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="`logit`: exact parts of the logit, by head and source token; `ifr`: shares of information flow, with the "
            "dependency graph; `value-norm`: attention weighted by the norms of what it reads; `occlusion`: what the logit loses "
            "without a token (it runs the model). By default logit, and ifr where the model's heads can be told apart.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    least_flow: Annotated[
        float,
        typer.Option(
            "--least-flow",
            help="Keep an edge of the dependency graph if at least this part of the prediction passes it.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = 0.01,
    name: Annotated[
        str | None,
        run_option("RUN-influence"),
    ] = None,
    dry_run: Annotated[
        bool,
        dry_run_option("Say how many predictions would be explained; write nothing."),
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Explain predictions: which source tokens, through which heads, MLPs and the embedding, made them.

    Computed from what a run has stored (`--capture resid,qkv`) and from the model's weights, without a forward pass. The parts in
    the table `logit_parts` add up to the logit, or to the difference of two; `influence` has each source token's share, `token_edges`
    the strongest paths from token to token, and `identity_errors` how exactly all of it adds up. The result is a run of its own; the
    same command again continues one that was interrupted.

    Examples:
        traces influence first --token " Paris" --against " London"
        traces sql --query why_this_token --set run=first-influence
    """
    from warehouse.storage import paths
    from warehouse.storage.run_list import check_free, find_run

    root = paths.find_root(warehouse)
    folder = find_run(root, run)
    with needs_capture_extra():
        from capture.api.progress import capture_progress
        from capture.influences import influence_run as job
    measures = () if measure is None else tuple(dict.fromkeys(word.strip() for word in measure.split(",")))
    examples = tuple(dict.fromkeys(example or ()))
    options = job.Options(target, token, against, measures, least_flow, examples, limit, part.chosen)
    wanted = job.forecast(folder, options)
    if dry_run:
        typer.echo(
            f"{wanted.predictions:,} predictions of {wanted.sequences:,} sequences, by {', '.join(measures) or 'logit, and ifr if possible'}"
        )
        typer.echo("nothing is written")
        return
    whole = name or f"{run}-influence"
    if part.divided:
        manifest = make_in_parts(part, root, whole, loading=loading, total=wanted.sequences)
    else:
        run_id = partition.part_run_name(whole, part.chosen)
        check_free(root, run_id)
        loaded = loading.load_of_run(folder, model)
        with stopped_by_signals(), capture_progress(wanted.sequences, note) as (report, say):
            manifest = job.run(loaded, folder, options, root=root, run_id=run_id, report=report, note=say)
    explained = manifest.counts.rows["influence_targets"]
    typer.echo(f"{manifest.run_id}: {explained:,} predictions explained in {manifest.seconds:.1f} s")
    if part.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {whole}")
    else:
        typer.echo(f"next: traces sql --query why_this_token --set run={manifest.run_id}")
