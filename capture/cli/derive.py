"""`traces derive`: make more of what a run stored, without its model."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.terminal import note, stopped_by_signals
from warehouse.cli.app import App
from warehouse.cli.options import RunArgument, WarehouseOption, run_option

derive_app = App(no_args_is_help=True, help="Make more of what a run stored, without its model.")


@derive_app.command("heads")
def derive_heads(
    run: RunArgument,
    name: Annotated[
        str | None,
        run_option("RUN-heads"),
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Compute what every attention head does on every example, from a run's stored q and k: the table `heads`.

    The result is a run of its own, whose rows name their source. The same command again continues one that was interrupted.

    Examples:
        traces derive heads wt2
        traces sql --query induction_heads --set run=wt2
    """
    from capture.api.progress import capture_progress
    from warehouse.analysis.derive_heads import derive_heads as derive
    from warehouse.storage import paths
    from warehouse.storage.run_list import find_run

    root = paths.find_root(warehouse)
    folder = find_run(root, run)
    with stopped_by_signals(), capture_progress(say=note) as (report, _):
        manifest = derive(folder, root=root, run_id=name or f"{run}-heads", report=report)
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['heads']:,} rows in {manifest.seconds:.1f} s")
    typer.echo(f"next: traces sql --query induction_heads --set run={run}")
