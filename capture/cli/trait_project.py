"""`traces trait project`: project every token of a run on the vectors of traits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.options import PartOptions
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.values import split_list
from capture.cli.workers import make_in_parts
from capture.workers.assignment import tell_progress
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import RunArgument, WarehouseOption, run_option

if TYPE_CHECKING:
    from warehouse.storage.manifest import Manifest


@with_groups()
def project(
    run: RunArgument,
    part: PartOptions,
    traits: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="The traits, as in `sycophantic,humorous`.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ],
    vectors: Annotated[
        str | None,
        typer.Option(
            metavar="RUN,…",
            help="Runs to take vectors from; by default the newest run with vectors of each trait.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Layers, as in `5,10`, or `embed`; by default the best one.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="`mean_diff`, `probe`, …; by default the best one.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    components: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="`residual`, `attn_out` or both; by default the best one.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, help="Threshold of the commitment point.", rich_help_panel=Panel.COMPUTED)
    ] = 0.1,
    dynamics_only: Annotated[
        bool,
        typer.Option(
            "--dynamics-only",
            help="Keep only a row a response: the table `trait_dynamics`.",
            rich_help_panel=Panel.KEPT,
        ),
    ] = False,
    name: Annotated[
        str | None,
        run_option("RUN-traits"),
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Project every token of a run on traits' vectors, from its stored tensors: the tables `trait_projections` and `trait_dynamics`.

    Needs no model. The result is a run of its own; the same command again continues one that was interrupted. By default a
    trait's best vector is taken, as steering or evaluation found it, one of the residual stream before any of attn_out (view
    `trait_best`); the command says which, why, and whether it is better than a random direction. The formulas are in
    docs/traits.md.

    Examples:
        traces trait project wt2 --traits sycophantic,humorous
        traces sql --query trait_by_token --set run=wt2
    """
    from warehouse.warehouse import Warehouse

    with needs_capture_extra():
        from capture.api.derived import project_run
        from capture.traits import directions

    options = directions.Options(
        split_list(traits), split_list(vectors), directions.parse_layers(split_list(layers)), split_list(methods), split_list(components),
        dynamics_only, threshold, part.chosen,
    )  # fmt: skip
    with Warehouse(warehouse) as wh, stopped_by_signals():
        chosen = directions.choose_directions(wh, run, options)
        if part.divided:
            manifest = make_in_parts(part, wh.root, name, unit="sequences")
        else:
            manifest = project_run(wh, run, chosen, options, name, note, say=note)
            tell_progress(manifest.run_id, manifest.counts.sequences)
    show_projection(manifest)
    if manifest.counts.rows["trait_projections"]:
        typer.echo(f"next: traces sql --query trait_by_token --set run={run}")


def show_projection(manifest: Manifest) -> None:
    """Print a line about a run of projections.

    Args:
        manifest: The run's manifest.
    """
    rows = manifest.counts.rows
    typer.echo(
        f"{manifest.run_id}: {rows['trait_projections']:,} projections, {rows['trait_dynamics']:,} responses' dynamics "
        f"in {manifest.seconds:.1f} s"
    )
