"""The picture of a text whose tokens are coloured: by loss, entropy or probability, or by a trait.

In: a run with predictions, or one that was projected on traits. Out: a Figure, laid out in a monospaced font, so that a text in an
SVG fits whatever font its reader has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from warehouse.errors import UsageError
from warehouse.plots import canvas, shown_tokens
from warehouse.plots.trait_values import Projection, find_projection
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_MOST = 400
"""Tokens that are shown at most: about a page."""

_COLUMNS = 96
_CHARACTER = 0.0753
"""The width of a character of DejaVu Sans Mono at 9 points, in inches."""
_LINE = 0.24
_SIDE, _TOP, _BOTTOM = 0.2, 0.55, 0.65
"""Heights and margins in inches; the colour bar is below the text."""


class _Measure(NamedTuple):
    """What tokens can be coloured by: a column of `next_token`, and what is said of it."""

    column: str
    title: str
    label: str


_MEASURES = {
    "loss": _Measure("loss", "Loss: how much each token surprised the model", "loss of the token (nats)"),
    "entropy": _Measure("entropy", "Entropy: how unsure the model was before each token", "entropy (nats)"),
    "prob": _Measure("true_prob", "Probability that the model gave each token", "probability of the token"),
}


class _Box(NamedTuple):
    """Where a token stands: its line, its first column there, and how many columns it takes."""

    line: int
    column: int
    width: int
    label: str


def tokens(
    wh: Warehouse,
    run: shown_tokens.Run,
    example: str | None = None,
    *,
    by: str = "loss",
    seq: int = 0,
    positions: range | None = None,
) -> Figure:
    """Draw a text, its tokens coloured.

    Args:
        wh: The warehouse.
        run: The run.
        example: The example's id, or the beginning of it; None for the first.
        by: `loss`, `entropy` or `prob`, of the prediction of the token itself, which was made one position before; or the name of
            a trait that the run was projected on: the cosine of the token's state with the trait's vector.
        seq: Which sequence of the example.
        positions: Which tokens, at most 400; None for the first.

    Returns:
        The picture. A token without a value, such as the first, has no colour; an infinite loss is black.

    Raises:
        UsageError: The run has no predictions, no such trait, or no such example.
    """
    store = shown_tokens.open_run(wh, run)
    shown = shown_tokens.open_tokens(store, example, seq, positions, _MOST)
    if by in _MEASURES:
        column, title, label = _MEASURES[by]
        if not store.meta.counts.predictions:
            raise UsageError(
                f"Run '{store.meta.run_id}' has no next-token predictions. See traces capture next-token --help"
            )
        query = f"SELECT pos + 1, {column} FROM next_token WHERE example_id = ? AND seq = ?"
        found = dict(store.query(query, [shown.example_id, seq]).fetchall())
    else:
        projection = _find_projection(wh, store, by)
        title, label = f"Trait {by}: {projection.vector_name}", "cosine of the token's state with the vector"
        found = {p.pos: p.cosine for p in projection.tokens(wh, shown)}
    values = np.array([found.get(pos) for pos in shown.positions], np.float64)
    return _draw(shown, values, title, label, by)


def _find_projection(wh: Warehouse, store: TraceStore, by: str) -> Projection:
    """Find the projection on a trait; raises UsageError, which names the measures too."""
    try:
        return find_projection(wh, store, by)
    except UsageError as e:
        raise UsageError(f"Tokens are coloured by {', '.join(_MEASURES)}, or a trait. {e}") from None


def _draw(shown: shown_tokens.ShownTokens, values: np.ndarray, title: str, label: str, by: str) -> Figure:
    boxes = _boxes(shown.tokens)
    n_lines = boxes[-1].line + 1
    width = 2 * _SIDE + _COLUMNS * _CHARACTER
    height = _TOP + n_lines * _LINE + _BOTTOM
    facts = shown.facts
    if infinite := int(np.isinf(values).sum()):
        facts.append(f"black: infinite, {infinite} of them")
    picture = canvas.new_picture(width, height, title, facts, layout="none")
    picture.suptitle(picture.get_suptitle(), y=1 - 0.1 / height, va="top", fontsize=9, **canvas.PLAIN)
    axes = picture.add_axes((_SIDE / width, _BOTTOM / height, 1 - 2 * _SIDE / width, n_lines * _LINE / height))
    axes.set(xlim=(0, _COLUMNS), ylim=(n_lines, 0))
    axes.set_axis_off()
    scale = _scale(values, by)
    _draw_boxes(axes, boxes, values, scale)
    bar = picture.add_axes((0.3, 0.38 / height, 0.4, 0.1 / height))
    picture.colorbar(scale, cax=bar, orientation="horizontal", extend="max" if infinite else "neither")
    bar.tick_params(labelsize=7, length=2, pad=1)
    bar.set_xlabel(label, fontsize=8, labelpad=1)
    return picture


def _draw_boxes(axes: Axes, boxes: list[_Box], values: np.ndarray, scale: ScalarMappable) -> None:
    """Draw every token on a box of its colour; without a value, on a white one."""
    from matplotlib.patches import Rectangle

    for box, value in zip(boxes, values, strict=True):
        colour = (1.0, 1.0, 1.0, 1.0) if np.isnan(value) else scale.to_rgba(value)
        axes.add_patch(
            Rectangle(
                (box.column, box.line + 0.06), box.width, 0.88, facecolor=colour, edgecolor="white", linewidth=0.8
            )
        )
        text = box.label.lstrip(" ")
        place = box.column + len(box.label) - len(text)  # an SVG leaves blanks at the beginning of a text out
        axes.text(
            place, box.line + 0.52, text, family="monospace", fontsize=9, va="center_baseline", color=canvas.ink(colour),
            **canvas.PLAIN,
        )  # fmt: skip


def _boxes(tokens: list[str]) -> list[_Box]:
    """Place tokens line by line; a line ends where it is full, and after a line break in the text."""
    boxes = []
    line = column = 0
    for token in tokens:
        label = canvas.label(token, longest=_COLUMNS // 2)
        width = max(canvas.columns(label), 1)
        if column and column + width > _COLUMNS:
            line, column = line + 1, 0
        boxes.append(_Box(line, column, width, label))
        column += width
        if "\n" in token:
            line, column = line + 1, 0
    return boxes


def _scale(values: np.ndarray, by: str) -> ScalarMappable:
    """Return the scale of the values: from 0, or for a trait as far below 0 as above."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    most = float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0
    if by == "prob":
        most = 1.0
    colours = colormaps[canvas.MAGNITUDE if by in _MEASURES else canvas.SIGNED]
    return ScalarMappable(Normalize(0.0 if by in _MEASURES else -most, most), colours.with_extremes(over="black"))
