"""`traces lens`: what each layer of a run would predict, from its stored residual stream."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.arguments import Model
from capture.cli.options import DeviceOption, ShardOfOption, TrustOption
from capture.cli.terminal import needs_capture_extra, progress, stopped_by_signals
from capture.sequences import partition
from warehouse.cli.options import RunArgument, WarehouseOption
from warehouse.errors import TracesError, UsageError


def lens(
    run: RunArgument,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many of the likeliest tokens to keep.")] = 50,
    layers: Annotated[
        str,
        typer.Option(
            help="Layer l is the output of block l: `0,5,mid`, `last`, `embed` (what the first block reads), or `all` of these."
        ),
    ] = "all",
    positions: Annotated[
        str,
        typer.Option(
            help="Which tokens: `all`, `last` (of each sequence), `response` (what the model generated), or numbers, `0,1,5`."
        ),
    ] = "all",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the run's model is now, if not where it was; the same weights."),
    ] = None,
    name: Annotated[str | None, typer.Option("--run", help="The new run's name; RUN-lens if left out.")] = None,
    shard: ShardOfOption = "",
    device: DeviceOption = "auto",
    trust_remote_code: TrustOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many rows there would be, and how large; write nothing.")
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Logit lens: what the model would predict if it stopped after each layer, from a run's stored residual stream.

    Its final norm and unembedding are applied to the stored states; its blocks are not run. For every token and layer the
    table `logit_lens` has the likeliest next tokens, rank and probability of the one that came, the entropy, and how far the
    distribution is from the model's own (KL, nats). It is a run of its own; the same command goes on where it was interrupted.

    Example: `traces lens first --top-k 50`, then `traces sql --query decision_depth --set run=first`
    """
    from warehouse.storage import paths
    from warehouse.storage.manifest import Manifest
    from warehouse.storage.paths import find_run

    root = paths.find_root(warehouse)
    folder = find_run(root, run)
    with needs_capture_extra():
        from capture.lens import logit_lens as job
        from capture.model import loading
    options = job.Options(top_k, layers, positions, shard)
    wanted = job.forecast(folder, options)
    if dry_run:
        typer.echo(f"{wanted.positions:,} positions × {wanted.layers} layers = {wanted.rows:,} rows of logit_lens")
        typer.echo(f"about {wanted.bytes / 1e6:,.1f} MB; nothing is written")
        return
    made = Manifest.read(folder).model
    asked = Model(
        model or made.name, "lm", device, None, made.dtype, None if model else made.revision, trust_remote_code
    )
    loading.find_device(device)
    try:
        loaded = asked.load()
    except TracesError as e:
        if model is not None:
            raise
        raise UsageError(f"{e} If the model of run '{run}' lies elsewhere now: --model PLACE") from None
    called = partition.part_run_name(name or f"{run}-lens", shard)
    with stopped_by_signals(), progress(None) as report:
        manifest = job.run(loaded, folder, options, root=root, run_id=called, report=report)
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['logit_lens']:,} rows in {manifest.seconds:.1f} s")
    if shard:
        typer.echo(f"next, when all shards are there: traces runs merge {name or f'{run}-lens'}")
        return
    typer.echo(f"next: traces sql --query decision_depth --set run={run}")
