"""The picture of a trait over a response: the projection of every token, from the prompt to the end.

In: a run that was projected on traits, or its projection. Out: a Figure. docs/traits.md says what is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from warehouse.plots import shown_tokens
from warehouse.plots.canvas import GREY, LINES, PLAIN, new_picture
from warehouse.plots.trait_values import find_projection
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 96
"""Tokens that are shown at most: more could not be read."""


def trait(
    wh: Warehouse,
    run: shown_tokens.Run,
    trait: str,
    example: str | None = None,
    *,
    seq: int = 0,
    positions: range | None = None,
) -> Figure:
    """Draw the projection of every token on a trait's vector.

    Args:
        wh: The warehouse.
        run: A run that was projected (of several times, the newest), or the projection.
        trait: The trait.
        example: The example's id, or the beginning of it; None for the first.
        seq: Which sequence of the example.
        positions: Which tokens, at most 96; None for the first.

    Returns:
        The picture. A dotted line parts prompt and response; the peak and the commitment point are those of `trait_dynamics`, and
        the midpoint is the vector's. The first token's state may be a hundred times as long as the others': the axis is for the
        others, and an arrow stands for what is off it.

    Raises:
        UsageError: The run was not projected on the trait, or has no such example.
    """
    projection = find_projection(wh, shown_tokens.open_run(wh, run), trait)
    store = projection.store
    shown = shown_tokens.open_tokens(store, example, seq, positions, _MOST)
    found = {p.pos: p.projection for p in projection.tokens(wh, shown)}
    values = np.array([found.get(pos) for pos in shown.positions], np.float64)
    places = np.array(shown.positions)

    picture = new_picture(
        1.5 + 0.13 * max(len(places), 30), 3.6, f"Trait {trait}: {projection.vector_name}", shown.facts
    )
    axes = picture.add_subplot()
    axes.axhline(0, color=GREY, linewidth=0.5)
    midpoint = projection.midpoint(wh)
    if midpoint is not None:
        axes.axhline(
            midpoint, color=GREY, linewidth=0.8, linestyle="--", label="midpoint between showing the trait and not"
        )
    axes.plot(places, values, "-o", color=LINES[0], markersize=3, linewidth=1, label="projection")
    generated = "SELECT min(pos) FROM tokens WHERE example_id = ? AND seq = ? AND is_response"
    ((boundary,),) = store.query(generated, [shown.example_id, seq]).fetchall()
    if boundary in shown.positions:
        axes.axvline(boundary - 0.5, color="black", linewidth=1, linestyle=":", label="the response begins")
    dynamics = projection.dynamics(wh, shown)
    if dynamics is not None:
        first, peak, commitment = dynamics
        for name, point, marker, colour in (
            ("peak", peak, "^", LINES[1]),
            ("commitment point (relative)", commitment, "D", LINES[2]),
        ):
            if point is not None and first + point in found:
                pos = first + point
                axes.plot(pos, found[pos], marker, color=colour, markersize=7, linestyle="none", label=name)
    _limit(axes, places, values, midpoint)
    axes.set_xticks(places, shown.labels, rotation=90, fontsize=7, **PLAIN)
    axes.set_xlim(places[0] - 0.7, places[-1] + 0.7)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylabel("projection, in units of the stream", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return picture


def _limit(axes: Axes, places: np.ndarray, values: np.ndarray, midpoint: float | None) -> None:
    """Fit the axis to the values after the first, and point at the first where that leaves it out."""
    rest = values[1:][np.isfinite(values[1:])]
    if places[0] or not len(rest) or np.isnan(values[0]):
        return
    rest = rest if midpoint is None else np.append(rest, midpoint)
    span = rest.max() - rest.min()
    if rest.min() - 2 * span <= values[0] <= rest.max() + 2 * span:
        return
    low, high = rest.min() - 0.15 * span, rest.max() + 0.15 * span
    axes.set_ylim(low, high)
    up = values[0] > high
    axes.annotate(
        f"{values[0]:,.0f}",
        (places[0], high if up else low),
        (places[0] + 2, high - 0.12 * span if up else low + 0.12 * span),
        fontsize=7,
        arrowprops={"arrowstyle": "->", "linewidth": 0.7},
    )
