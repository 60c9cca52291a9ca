"""`traces lens`: what each layer of a run would predict, from its stored residual stream."""

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
def lens(
    run: RunArgument,
    loading: LoadOptions,
    part: PartOptions,
    model: RunModelOption = None,
    layers: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Layer l is the output of block l: `0,5,mid`, `last`, `embed` (the input of the first block), or `all` of these.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "all",
    positions: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Which tokens: `all`, `last` (of each sequence), `response` (what the model generated), or numbers, `0,1,5`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "all",
    top_k: Annotated[
        int,
        typer.Option("--top-k", min=1, help="How many of the likeliest tokens to keep.", rich_help_panel=Panel.KEPT),
    ] = 50,
    name: Annotated[
        str | None,
        run_option("RUN-lens"),
    ] = None,
    dry_run: Annotated[
        bool,
        dry_run_option("Say how many rows there would be, and how large; write nothing."),
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Apply the logit lens: what the model would predict if it stopped after each layer, from a run's stored residual stream.

    The model's final norm and unembedding are applied to the stored states; its blocks are not run. For every token and layer
    the table `logit_lens` has the likeliest next tokens, rank and probability of the one that came, the entropy, and the
    distance from the model's own distribution (KL, nats). The result is a run of its own; the same command again continues one
    that was interrupted.

    Examples:
        traces lens first --top-k 50
        traces sql --query decision_depth --set run=first
    """
    from warehouse.storage import paths
    from warehouse.storage.run_list import check_free, find_run
    from warehouse.storage.trace_store import TraceStore

    root = paths.find_root(warehouse)
    folder = find_run(root, run)
    with needs_capture_extra():
        from capture.api.progress import capture_progress
        from capture.logit_lens import lens_run as job
    options = job.Options(top_k, layers, positions, part.chosen)
    wanted = job.forecast(folder, options)
    if line := TraceStore(folder).left_out():
        note(line)
    if dry_run:
        typer.echo(f"{wanted.positions:,} positions × {wanted.layers} layers = {wanted.rows:,} rows of logit_lens")
        typer.echo(f"about {wanted.bytes / 1e6:,.1f} MB; nothing is written")
        return
    whole = name or f"{run}-lens"
    if part.divided:
        manifest = make_in_parts(part, root, whole, loading=loading, unit="sequences")
    else:
        run_id = partition.part_run_name(whole, part.chosen)
        check_free(root, run_id)
        loaded = loading.load_of_run(folder, model)
        with stopped_by_signals(), capture_progress(say=note) as (report, _):
            manifest = job.run(loaded, folder, options, root=root, run_id=run_id, report=report)
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['logit_lens']:,} rows in {manifest.seconds:.1f} s")
    if part.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {whole}")
    else:
        typer.echo(f"next: traces sql --query decision_depth --set run={run}")
