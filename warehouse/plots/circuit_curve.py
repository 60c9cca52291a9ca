"""The picture of a circuit's faithfulness by its size: how few edges keep what the model does, and how many random ones would.

In: an evaluation of a circuit, or the circuit's run. Out: a Figure with a panel for each task and kind of ablation, and in it a line a
circuit and selection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from warehouse.errors import UsageError
from warehouse.plots.canvas import GREY, LINES, PLAIN, new_picture
from warehouse.plots.shown_tokens import Run, open_run, rows, run_facts
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 6
"""Panels that a picture can show."""
_COLUMNS = 3

_NUMBERS = ("size", "faithfulness", "low", "high", "complement", "random", "random_low", "random_high")


class _Panel(NamedTuple):
    """What the lines of a panel have in common."""

    task: str
    ablation: str
    metric: str
    level: str


_Lines = dict[tuple[str, str], list[tuple[float, ...]]]
"""By circuit and selection: the numbers of each size."""


def curve(wh: Warehouse, run: Run) -> Figure:
    """Draw what circuits keep of a task's metric, by their size.

    Args:
        wh: The warehouse.
        run: An evaluation of a circuit, or the circuit's run, whose newest is drawn.

    Returns:
        The picture. 1 is the model as it is, 0 every edge ablated; bands are 95 % intervals, in grey that of random circuits of as many
        edges; the dotted line is the complement, all edges but the circuit's.

    Raises:
        UsageError: The run has no evaluation, or one on too many tasks and kinds of ablation.
    """
    named = open_run(wh, run).meta.run_id
    chosen = rows(
        wh,
        "SELECT run_id FROM runs WHERE (run_id = ? OR parents[1] = ?) AND list_contains(tables, 'circuit_values') "
        "ORDER BY run_id = ? DESC, created_at DESC, run_id DESC LIMIT 1",
        named,
        named,
        named,
    )
    if not chosen:
        raise UsageError(f"Run '{named}' has no evaluation of a circuit. See traces circuit evaluate --help")
    ((run_id,),) = chosen
    found = rows(
        wh,
        f"SELECT coalesce(task, source_run_id), ablation, metric, level, circuit, selection, n, {', '.join(_NUMBERS)} "
        "FROM circuit_curve WHERE run_id = ? AND part = 'all' ORDER BY source_run_id, ablation, metric, level, circuit, selection, size",
        run_id,
    )
    panels: dict[_Panel, _Lines] = {}
    for task, ablation, metric, level, circuit, selection, _, *numbers in found:
        lines = panels.setdefault(_Panel(task, ablation, metric, level), {})
        lines.setdefault((circuit, selection), []).append(tuple(np.nan if x is None else x for x in numbers))
    if not panels:
        raise UsageError(f"No pair of run '{run_id}' was held out, so that there is no curve.")
    if len(panels) > _MOST:
        raise UsageError(
            f"This picture can show {_MOST} tasks and kinds of ablation, and run '{run_id}' has {len(panels)}."
        )
    pairs = sorted({row[6] for row in found})
    counted = f"{pairs[0]:,} to {pairs[-1]:,}" if len(pairs) > 1 else f"{pairs[0]:,}"
    facts = [
        *run_facts(wh.run(run_id).meta),
        f"{counted} pairs",
        "band: 95 % interval",
        "dotted: all edges but the circuit's",
    ]
    return _draw(panels, facts)


def _draw(panels: dict[_Panel, _Lines], facts: list[str]) -> Figure:
    across = min(len(panels), _COLUMNS)
    down = -(-len(panels) // across)
    picture = new_picture(1.2 + 3.8 * across, 0.9 + 2.8 * down, "What a circuit keeps, by its size", facts)
    every = picture.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes, (panel, lines) in zip(every.flat, panels.items(), strict=False):
        _draw_panel(axes, panel, lines)
    for axes in every.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in every[:, 0]:
        axes.set_ylabel("faithfulness", fontsize=8)
    for axes in every[-1]:
        axes.set_xlabel("share of all edges" if {p.level for p in panels} == {"edge"} else "share of all", fontsize=8)
    return picture


def _draw_panel(axes: Axes, panel: _Panel, lines: _Lines) -> None:
    for height in (0, 1):
        axes.axhline(height, color="#BBBBBB", linewidth=0.6, zorder=0)
    for number, ((circuit, selection), points) in enumerate(lines.items()):
        values = dict(zip(_NUMBERS, np.array(points, np.float64).T, strict=True))
        size, colour = values["size"], LINES[number % len(LINES)]
        if number == 0 and np.isfinite(values["random"]).any():
            axes.plot(size, values["random"], color=GREY, linewidth=1, label="random edges")
            axes.fill_between(size, values["random_low"], values["random_high"], color=GREY, alpha=0.2, linewidth=0)
        axes.plot(size, values["complement"], ":", color=colour, linewidth=1)
        axes.fill_between(size, values["low"], values["high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            size,
            values["faithfulness"],
            "-o",
            color=colour,
            markersize=3,
            linewidth=1.2,
            label=f"{circuit}, {selection}",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.set_title(f"{panel.task}: {panel.metric}, {panel.ablation}", fontsize=8, **PLAIN)
    for text in axes.legend(fontsize=7, frameon=False, loc="best").get_texts():
        text.set(**PLAIN)
