"""The picture of a circuit: what adds to the residual stream, layer above layer, and the edges through which it is read.

In: a run with a circuit. Out: a Figure of the largest circuit with at most so many edges that all lie on a path from the embedding to the
logits. Colours are ports, widths sizes of scores, and an edge that works against the metric is dashed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from warehouse.analysis.circuit_graph import graph_of
from warehouse.analysis.circuit_selection import SELECTIONS
from warehouse.analysis.graph_files import OTHER_COLOUR, PORT_COLOURS, check_networkx
from warehouse.analysis.stored_circuit import StoredCircuit, load_circuit
from warehouse.errors import NotFoundError, UsageError
from warehouse.plots.canvas import new_picture
from warehouse.plots.shown_tokens import run_facts
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _ROW = 7.5, 0.42
"""Inches: of the picture, and from one row to the next."""
_GAP = 0.13
"""From one node of a row to the next, at least, where there is room: of the picture's width."""
_SWEEPS = 8
"""How often rows are put in the order of what they are linked with."""


def circuit(wh: Warehouse, run: str, *, edges: int = 40, selection: str = "abs") -> Figure:
    """Draw a circuit, layer by layer.

    Args:
        wh: The warehouse.
        run: RUN, or RUN/CIRCUIT where the run has several.
        edges: The most edges that are drawn, those dropped that lead from or to nothing in the circuit.
        selection: `abs`: the largest scores; `signed`: the most negative, which is what helps; `greedy`: the largest that lead on to the
            logits.

    Returns:
        The picture.

    Raises:
        UsageError: The run has no such circuit with edges, or none of so few that leads to the logits.
        NotFoundError: There is no such run, circuit or selection.
    """
    if selection not in SELECTIONS:
        raise NotFoundError("selection", selection, SELECTIONS)
    if edges < 1:
        raise UsageError(f"--edges {edges}: draw at least one.")
    check_networkx()
    found = load_circuit(wh, run)
    keep, taken = _largest(found, edges, selection)
    if not keep.any():
        raise UsageError(
            f"The strongest edges of circuit '{found.run_id}/{found.name}' make no path to the logits with at most {edges} of them: more "
            "--edges, or --selection greedy."
        )
    meta = wh.run(found.run_id).meta
    told = [found.facts["task"], found.facts["metric"]]
    facts = [
        *run_facts(meta),
        *(str(fact) for fact in told if fact),
        f"{keep.sum():,} of {len(keep):,} edges: of the {taken:,} {_SAID[selection]}, those on a path to the logits",
    ]
    return _draw(graph_of(found, keep, selection), f"Circuit {found.name}", facts)


_SAID = {"abs": "largest scores", "signed": "most negative scores", "greedy": "largest scores from the logits upwards"}


def _largest(found: StoredCircuit, most: int, selection: str) -> tuple[np.ndarray, int]:
    """Return the largest circuit with at most so many edges, (E,) booleans, and how many scores it is of."""
    found.choose(1, selection)  # refuses one without scores
    order = found.order(selection)
    order = order[np.nan_to_num(found.edge_values["score"][order]) != 0]
    low, high = 0, len(order)  # more scores never make a smaller circuit
    while low < high:
        middle = (low + high + 1) // 2
        if found.lead_somewhere(order[:middle]).sum() <= most:
            low = middle
        else:
            high = middle - 1
    return found.lead_somewhere(order[:low]), low


def _draw(graph: nx.MultiDiGraph, title: str, facts: list[str]) -> Figure:
    from matplotlib.lines import Line2D

    levels = sorted({_level(facts) for _, facts in graph.nodes(data=True)})
    places = _places(graph, levels)
    picture = new_picture(_WIDTH, 1.6 + _ROW * len(levels), title, facts)
    axes = picture.add_subplot()
    across = [x for x, _ in places.values()]
    axes.set(xlim=(min(across) - 0.07, max(across) + 0.07), ylim=(-0.6, len(levels) - 0.4))
    axes.set_axis_off()
    scores = [abs(facts["score"]) for *_, facts in graph.edges(data=True)]
    for source, sink, port, edge in sorted(graph.edges(keys=True, data=True), key=lambda e: abs(e[3]["score"])):
        _draw_edge(axes, places[source], places[sink], port, edge["score"], max(scores) or 1.0)
    for node, place in places.items():
        fill = "#EEEEEE" if graph.nodes[node]["kind"] == "mlp" else "white"
        box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": "#999999", "linewidth": 0.6}
        axes.text(*place, node, fontsize=7, ha="center", va="center", bbox=box, zorder=3)
    used = {facts.get("port") for *_, facts in graph.edges(data=True)}
    lines = [Line2D([], [], color=colour, label=port) for port, colour in PORT_COLOURS.items() if port in used]
    lines += [Line2D([], [], color=OTHER_COLOUR, label="into an MLP or the logits")]
    lines += [
        Line2D([], [], color="black", label="score below 0: helps"),
        Line2D([], [], color="black", ls="--", label="above 0"),
    ]
    axes.legend(
        handles=lines, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(lines), fontsize=7, frameon=False
    )
    return picture


def _draw_edge(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], port: str, score: float, most: float
) -> None:
    """Draw an edge, bent the more, the more rows it passes, and each port in its own way, so that none hides another."""
    from matplotlib.patches import FancyArrowPatch

    bend = {"q": -1, "v": 1}.get(port, 0) * 0.08 + 0.03 * (end[1] - start[1] - 1) * (1 if start[0] <= end[0] else -1)
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>,head_length=3,head_width=1.5",
            connectionstyle=f"arc3,rad={min(max(bend, -0.35), 0.35):.2f}",
            shrinkA=7,
            shrinkB=7,
            color=PORT_COLOURS.get(port, OTHER_COLOUR),
            linewidth=0.5 + 3.0 * abs(score) / most,
            linestyle="--" if score > 0 else "-",
            alpha=0.85,
        )
    )


def _level(facts: dict[str, Any]) -> tuple[int, bool]:
    return facts["layer"], facts["kind"] == "mlp"


def _places(graph: nx.MultiDiGraph, levels: list[tuple[int, bool]]) -> dict[str, tuple[float, float]]:
    """Place nodes: rows by layer, the embedding below; in a row near to what each is linked with, so that few lines cross."""
    rows = [[node for node, facts in graph.nodes(data=True) if _level(facts) == level] for level in levels]
    linked = graph.to_undirected(as_view=True)
    x = {node: 0.5 + 0.1 * (-1) ** y for y, row in enumerate(rows) for node in row}
    for sweep in range(_SWEEPS):
        for y in range(len(rows)) if sweep % 2 else reversed(range(len(rows))):
            aside = 0.05 * (-1) ** y  # a node right above another would hide the lines that pass it
            wanted = {node: aside + np.mean([x[other] for other in linked[node]] or [x[node]]) for node in rows[y]}
            rows[y].sort(key=lambda node: (wanted[node], node))
            x |= dict(zip(rows[y], _apart([wanted[node] for node in rows[y]]), strict=True))
    return {node: (float(x[node]), float(y)) for y, row in enumerate(rows) for node in row}


def _apart(wanted: list[float]) -> np.ndarray:
    """Return places from 0 to 1 near the wanted ones, which ascend, none on another."""
    gap = min(_GAP, 1 / max(1, len(wanted) - 1))
    steps = gap * np.arange(len(wanted))
    places = np.maximum.accumulate(np.array(wanted) - steps)
    places += np.mean(np.array(wanted) - steps - places)
    found: np.ndarray = np.clip(places, 0, 1 - steps[-1]) + steps
    return found
