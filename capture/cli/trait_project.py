"""`traces trait project`: project every token of a run on the vectors of traits."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.arguments import split_list
from capture.cli.options import ShardOfOption
from warehouse.cli.options import WarehouseOption


def project(
    trait: Annotated[str, typer.Option("--trait", help="The traits, as in `sycophantic,humorous`.")],
    run: Annotated[str, typer.Option("--run", help="The run whose tokens are projected.")],
    vectors: Annotated[
        str | None,
        typer.Option(help="Runs to take vectors from; for each trait the newest that has any.", show_default=False),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Layers, as in `5,10`, or `embed`; the best one if left out.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="`mean_diff`, `probe`, …; the best one if left out.", show_default=False),
    ] = None,
    component: Annotated[
        str | None,
        typer.Option(help="`residual`, `attn_out` or both; the best one if left out.", show_default=False),
    ] = None,
    dynamics_only: Annotated[
        bool, typer.Option("--dynamics-only", help="Only a row a response: the table `trait_dynamics`.")
    ] = False,
    threshold: Annotated[float, typer.Option(min=0, help="Of the commitment point.")] = 0.1,
    name: Annotated[str | None, typer.Option("--name", help="The new run's name; RUN-traits if left out.")] = None,
    shard: ShardOfOption = "",
    warehouse: WarehouseOption = None,
) -> None:
    """Project every token of a run on traits' vectors, from its stored tensors: the tables `trait_projections` and `trait_dynamics`.

    Needs no model. Makes a run of its own; the same command again goes on where it was interrupted. Where nothing else is asked, a
    trait's best vector is taken, by steering or by evaluation, one of the residual stream before any of attn_out (view `trait_best`);
    which, why, and whether it is better than a random direction is said. The formulas are in docs/traits.md.

    Example: `traces trait project --trait sycophantic,humorous --run wt2`, then `traces sql --query trait_by_token --set run=wt2`
    """
    from capture.cli.terminal import needs_capture_extra, note, progress, stopped_by_signals
    from warehouse.warehouse import Warehouse

    with needs_capture_extra():
        from capture.traits import directions
        from capture.traits.best_vector import weak_vector_warnings
        from capture.traits.project import project as projected

    options = directions.Options(
        split_list(trait), split_list(vectors), directions.parse_layers(split_list(layer)), split_list(method), split_list(component),
        dynamics_only, threshold, shard,
    )  # fmt: skip
    with Warehouse(warehouse) as wh:
        chosen = directions.choose_directions(wh, run, options)
        for d in chosen:
            note(f"{d.trait}: {d.method}, {d.component}, layer {d.layer_name}, of run {d.vectors_run_id} ({d.reason})")
            for line in weak_vector_warnings(wh, d.vectors_run_id, d.trait, d.method, d.component, [d.layer]):
                note(line)
        with stopped_by_signals(), progress(wh.cached_run(run).meta.counts.sequences) as report:
            manifest = projected(wh, run, chosen, options, name, report)
    rows = manifest.counts.rows
    typer.echo(
        f"{manifest.run_id}: {rows['trait_projections']:,} projections, {rows['trait_dynamics']:,} responses' dynamics "
        f"in {manifest.seconds:.1f} s"
    )
    if rows["trait_projections"]:
        typer.echo(f"next: traces sql --query trait_by_token --set run={run}")
