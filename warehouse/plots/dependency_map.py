"""The picture of a dependency graph: through which heads which tokens reached a prediction, layer by layer.

In: an influence run. Out: a Figure of one prompt, or of what recurs over prompts made alike: a column a token, a row a layer; lines are heads,
as wide as the part of the prediction that comes over them, and the residual stream is grey.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from warehouse.analysis.dependency_graph import dependency_graph
from warehouse.errors import UsageError
from warehouse.plots.canvas import GREY, LINES, PLAIN, label, new_picture
from warehouse.plots.shown_tokens import run_facts
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 12
"""Heads that have their names beside them: the strongest."""
_BESIDE = 0.12
"""How far a head that reads its own token stands aside, in columns."""
_MOST = 60
"""Columns that a picture can show."""


def graph(
    wh: Warehouse,
    run: str,
    example: str | None = None,
    *,
    seq: int = 0,
    pos: int | None = None,
    least_flow: float = 0.02,
) -> Figure:
    """Draw the dependency graph of a prediction, or of what recurs over the predictions made from one position.

    Args:
        wh: The warehouse.
        run: An influence run, or the run that it explains, for the newest.
        example: The example's id, or the beginning of it; None: what recurs over all.
        seq: Which sequence of the example.
        pos: The position that the prediction is made from; None: of an example the last that is explained, of all the one that most
            prompts share.
        least_flow: The least part of the prediction that an edge carries, of what recurs on average.

    Returns:
        The picture. A token that prompts do not share is `…`.

    Raises:
        UsageError: The run has no dependency graphs, no head carries so much, or its edges are between too many positions.
        NotFoundError: There is no such example, sequence or position.
    """
    found = dependency_graph(wh, run, example, seq=seq, pos=pos, least_flow=least_flow)
    facts = found.graph
    if not any(edge["kind"] == "head" for *_, edge in found.edges(data=True)):
        raise UsageError(f"No head carries {least_flow:g} of the prediction: lower --least-flow.")
    columns = sorted({node["pos"] for _, node in found.nodes(data=True)})
    if len(columns) > _MOST:
        raise UsageError(f"This picture can show {_MOST} tokens, and {len(columns)} have edges: raise --least-flow.")
    meta = wh.run(facts["source_run"]).meta
    if "target" in facts:
        told = [f"example {facts['example_id']}", *([f"sequence {facts['seq']}"] if facts["seq"] else [])]
        title = f"What reached the prediction of {label(facts['target']).strip()} at position {facts['target_pos']}"
    else:
        told = [f"{facts['n_prompts']:,} {facts.get('role', '')} prompts".replace("  ", " ")]
        title = f"What reaches the predictions at position {facts['target_pos']}, prompt after prompt"
    return _draw(found, columns, title, [*run_facts(meta), *told, f"edges of {least_flow:g} of the prediction or more"])


def _draw(found: nx.MultiDiGraph, columns: list[int], title: str, facts: list[str]) -> Figure:
    from matplotlib.collections import LineCollection

    layers = sorted({node["layer"] for _, node in found.nodes(data=True)})
    tokens = {node["pos"]: node["token"] for _, node in found.nodes(data=True)}
    place = {name: (columns.index(node["pos"]), layers.index(node["layer"])) for name, node in found.nodes(data=True)}
    picture = new_picture(1.4 + max(0.5 * len(columns), 3.6), 1.6 + max(0.24 * len(layers), 1.6), title, facts)
    axes = picture.add_subplot()
    streams = [(a, b, edge) for a, b, edge in found.edges(data=True) if edge["kind"] == "stream"]
    axes.add_collection(
        LineCollection(
            [[place[a], place[b]] for a, b, _ in streams],
            linewidths=[_width(edge) for *_, edge in streams],
            colors="#CCCCCC",
            capstyle="round",
        )
    )
    _draw_heads(axes, found, place)
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(-0.6, len(layers) - 0.4))
    axes.set_xticks(
        range(len(columns)), [f"{label(tokens[pos])} {pos}" for pos in columns], fontsize=7, rotation=45, ha="right",
        rotation_mode="anchor", **PLAIN,
    )  # fmt: skip
    axes.set_yticks(range(len(layers)), ["embed" if layer < 0 else str(layer) for layer in layers], fontsize=7)
    axes.set_ylabel("layer", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return picture


def _draw_heads(axes: Axes, found: nx.MultiDiGraph, place: dict[str, tuple[int, int]]) -> None:
    """Draw edges through heads, and write the names of the strongest near the tokens that they read."""
    named: dict[tuple[float, float], list[str]] = {}
    heads: list[tuple[Any, Any, dict[str, Any]]] = [e for e in found.edges(data=True) if e[2]["kind"] == "head"]
    for number, (a, b, edge) in enumerate(sorted(heads, key=lambda e: -e[2]["flow"])):
        (x0, y0), (x1, y1) = place[a], place[b]
        aside = _BESIDE if x0 == x1 else 0.0  # beside the residual stream, which it would hide
        axes.plot([x0 + aside, x1 + aside], [y0, y1], color=LINES[0], linewidth=_width(edge), solid_capstyle="round")
        axes.plot([x0, x1], [y0, y1], "o", markersize=2.5, color=GREY, markeredgewidth=0, zorder=3)
        if number < _NAMED:
            at = (x0 + 0.2 * (x1 - x0) + 2.5 * aside, y0 + 0.2 * (y1 - y0) + (0.3 if aside else 0))
            named.setdefault(at, []).append(f"L{edge['layer']}H{edge['head']}")
    for (x, y), names in named.items():
        axes.text(
            x, y, "\n".join(names), fontsize=6, ha="left", va="center", linespacing=1.1, zorder=4,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip


def _width(edge: dict[str, Any]) -> float:
    """Return the width of an edge in points."""
    return 0.4 + 4 * float(edge["flow"])
