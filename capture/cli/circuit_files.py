"""`traces circuit export` and `traces circuit import`: circuits as files that other tools read and write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capture.cli.options import MODEL_HELP, LoadOptions
from capture.cli.terminal import needs_capture_extra, note
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import WarehouseOption


def export_circuit(
    circuit: Annotated[
        str,
        typer.Argument(
            metavar="RUN[/CIRCUIT]", help="A run with a circuit; of several, the circuit's name behind a /."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file: .json, .graphml or .dot.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ],
    size: Annotated[
        float | None,
        typer.Option(
            help="A share of all edges, or above 1 their number; by default 0.01, and of an imported circuit what its file says.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    selection: Annotated[
        str,
        typer.Option(
            help="`abs`: the largest scores; `signed`: the most negative, which is what helps; `greedy`: the largest that lead on to "
            "the logits.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "abs",
    warehouse: WarehouseOption = None,
) -> None:
    """Write a circuit to a file that other programs read.

    JSON has all edges with their scores, and says which are in the circuit, as EAP-IG and the Mechanistic Interpretability Benchmark keep
    it: scores are of a loss there, above 0 where an edge helps, and every query head has a key and a value edge of its own. GraphML and dot
    have the circuit alone, without edges that lead nowhere.

    Examples:
        traces circuit export ioi-circuit -o ioi.json --size 0.01
        traces circuit export ioi-circuit/eap-ig -o ioi.dot --size 200 --selection greedy
    """
    from warehouse.analysis.circuit_files import write_circuit
    from warehouse.warehouse import Warehouse

    with Warehouse(warehouse) as wh:
        found, n = write_circuit(wh, circuit, output, size, selection)
    note(f"circuit {found.run_id}/{found.name}: {n:,} of {len(found.edge_nodes):,} edges")
    typer.echo(str(output))


@with_groups()
def import_circuit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .json file as EAP-IG or `traces circuit export` writes it.")
    ],
    name: Annotated[
        str,
        typer.Option(
            "--run", metavar="NAME", help="The new run's name.", show_default=False, rich_help_panel=Panel.WRITTEN
        ),
    ],
    loading: LoadOptions,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=f"The model that the circuit is of: {MODEL_HELP} Without it the run cannot tell whose weights it is of.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Make a run of a circuit that EAP-IG wrote, or that was handed in to the Mechanistic Interpretability Benchmark.

    The circuit is called `imported`; it can be evaluated, drawn and compared like one that was found here.

    Examples:
        traces circuit import ioi.json --model gpt2 --run published
        traces circuit evaluate published ioi
    """
    from capture.api.arguments import existing_run
    from warehouse.analysis.circuit_json import read_circuit_file
    from warehouse.storage import paths

    root = paths.find_root(warehouse)
    existing_run(root, name, skip_existing=False)
    read_circuit_file(file)  # refuses what is no circuit before a model is loaded
    with needs_capture_extra():
        from capture.circuits import import_circuit as job
    loaded = None if model is None else loading.load(model, "lm")
    manifest = job.run(file, loaded, root=root, run_id=name)
    rows = manifest.counts.rows
    typer.echo(f"{name}: a circuit of {rows['circuit_edges']:,} edges, {rows['circuit_nodes']:,} nodes")
    typer.echo(f"next: traces plot circuit {name}")
