"""`traces graph`: the dependency graph of a prediction, or what recurs over many, as a table or a file for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import FormatOption, WarehouseOption
from warehouse.cli.output import Format, write
from warehouse.cli.terminal import note, say

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """Options that say which dependency graph is meant."""

    example: Annotated[
        str | None,
        typer.Option(
            help="The example, by id or the beginning of one; by default what recurs over all.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    seq: Annotated[
        int,
        typer.Option(min=0, help="Its sequence: of a task's pair 0 clean, 1 corrupted.", rich_help_panel=Panel.READ),
    ] = 0
    pos: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The position that the prediction is made from; by default of an example the last that is explained, of all the one "
            "that most prompts share.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    least_flow: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The least part of the prediction that an edge carries; of recurring edges, on average.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 0.02


@with_groups()
def graph(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="An influence run, or the run that it explains, for the newest.")
    ],
    chosen: GraphOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the graph to this file: .graphml or .dot; by default its edges through heads are printed.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = None,
    fmt: FormatOption = Format.table,
    warehouse: WarehouseOption = None,
) -> None:
    """Show the dependency graph of a prediction: through which heads which tokens reached it, layer by layer.

    An edge of layer l leads from a token before its attention to a token after it, through a head or along the residual stream. Its
    flow is the part of the prediction that comes over it. Without `--example`: the edges that recur over the prompts whose
    prediction is made from one position, with how often and how strong they are.

    Examples:
        traces influence demo --run why
        traces graph why --example c1e0
        traces graph why --least-flow 0.05 -o why.graphml

    Raises:
        UsageError: The run has no dependency graphs, or the file's name no format of graphs.
    """
    from warehouse.analysis.dependency_graph import dependency_graph
    from warehouse.analysis.graph_files import check_graph_file, write_graph
    from warehouse.catalog.statements import check_target
    from warehouse.warehouse import Warehouse

    with Warehouse(warehouse) as wh:
        if output is not None:
            check_graph_file(output)
            check_target(output, wh.root)
        found = dependency_graph(wh, run, chosen.example, seq=chosen.seq, pos=chosen.pos, least_flow=chosen.least_flow)
        note(_describe(found))
        if output is not None:
            write_graph(found, output)
            say(str(output))
            return
        rows = _rows(found)
        if not rows:
            note(f"no head carries {chosen.least_flow:g} of it: lower --least-flow")
            return
        import pyarrow as pa

        write(wh.cursor().from_arrow(pa.Table.from_pylist(rows)), fmt, None)


def _describe(graph: nx.MultiDiGraph) -> str:
    """Say what a graph is of, and what it is not over."""
    facts = graph.graph
    of = f"run {facts['run']}, explained position {facts['target_pos']}"
    if "example_id" in facts:
        return f"{of}: example {facts['example_id']}, seq {facts['seq']}, target {facts['target']!r}"
    prompts = f"{facts['n_prompts']:,} {facts.get('role', '')} prompts".replace("  ", " ")
    if not facts["left_out"]:
        return f"{of}: {prompts}"
    other = "at another position, or of the other prompts of the pairs" if "role" in facts else "at another position"
    return f"{of}: {prompts}; {facts['left_out']:,} other predictions are left out: {other}"


def _rows(graph: nx.MultiDiGraph) -> list[dict[str, Any]]:
    """Return the edges through heads as rows, the strongest first."""
    rows = []
    for source, sink, edge in graph.edges(data=True):
        if edge["kind"] != "head":
            continue
        a, b = graph.nodes[source], graph.nodes[sink]
        place = {"layer": edge["layer"], "head": edge["head"], "source_pos": a["pos"], "source": a["token"]}
        numbers = {name: value for name, value in edge.items() if name not in ("kind", "layer", "head", "flow")}
        rows.append(place | {"pos": b["pos"], "token": b["token"], "flow": edge["flow"]} | numbers)
    rows.sort(key=lambda row: -row["flow"])
    rows = [{name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()} for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]
