"""The picture of a logit lens: what each layer would predict after each token.

In: a lens, or the run that it was made of. Out: a Figure, a row a layer and a column a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from warehouse.errors import NotFoundError, UsageError
from warehouse.plots import shown_tokens
from warehouse.plots.canvas import MAGNITUDE, PLAIN, colour_bar, ink, label, layer_name, new_picture
from warehouse.plots.shown_tokens import parse_layers
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 24
"""Tokens that are shown at most: more could not be read."""

_BY = {"prob": "probability of the token", "entropy": "entropy of the prediction (nats)"}


class _Cell(NamedTuple):
    """What a layer predicts after a token."""

    token: str
    prob: float
    entropy: float
    actual: str | None
    """The token that came next; None: none did."""
    came: bool
    """Whether the layer's token is the one that came."""


def lens(
    wh: Warehouse,
    run: shown_tokens.Run,
    example: str | None = None,
    *,
    layers: str | int | Sequence[int] = "all",
    by: str = "prob",
    seq: int = 0,
    positions: range | None = None,
) -> Figure:
    """Draw the token that each layer finds most probable after each token.

    Args:
        wh: The warehouse.
        run: A run that has a lens (of several, the newest), or the lens.
        example: The example's id, or the beginning of it; None for the first.
        layers: A layer, several, or `all`.
        by: What cells are coloured by: `prob`, of the token that they name, or `entropy`.
        seq: Which sequence of the example.
        positions: Which tokens, at most 24; None for the first.

    Returns:
        The picture. A cell's text is bold where its token is the one that really came next.

    Raises:
        UsageError: The run has no lens, or the lens no such example, layer or position.
    """
    if by not in _BY:
        raise UsageError(f"A lens is coloured by {' or '.join(_BY)}, not by '{by}'.")
    named = shown_tokens.open_run(wh, run).meta.run_id
    query = """
        SELECT l.source_run_id, l.run_id FROM logit_lens AS l JOIN lens_runs AS n ON n.lens_run_id = l.run_id
        WHERE n.run_id = ? LIMIT 1
    """
    lenses = shown_tokens.rows(wh, query, named)
    if not lenses:
        raise UsageError(f"Run '{named}' has no logit lens. Make one: traces lens {named}")
    ((source, lens_run),) = lenses
    tokens = shown_tokens.open_tokens(wh.run(source), example, seq, positions, None)
    cells = _cells(wh, lens_run, tokens, layers)
    read = sorted({pos for pos, _ in cells})
    if positions is not None and len(read) > _MOST:
        raise UsageError(f"This picture can show {_MOST} tokens, not {len(read)}: name fewer positions.")
    return _draw(tokens.only(read[:_MOST]), cells, lens_run, by)


def _cells(
    wh: Warehouse, lens_run: str, tokens: shown_tokens.ShownTokens, layers: str | int | Sequence[int]
) -> dict[tuple[int, int | None], _Cell]:
    """Return the cells by position and layer, the embedding first; of `all` layers, those that the lens has."""
    query = """
        SELECT pos, layer, topk_tokens[1], topk_probs[1], entropy, actual_token, coalesce(topk_ids[1] = actual_id, false)
        FROM logit_lens WHERE run_id = ? AND example_id = ? AND seq = ? ORDER BY layer NULLS FIRST, pos
    """
    found = shown_tokens.rows(wh, query, lens_run, tokens.example_id, tokens.seq)
    wanted = parse_layers(layers)
    has = dict.fromkeys(layer for _, layer, *_ in found)
    for layer in wanted or ():
        if layer not in has:
            raise NotFoundError("layer", layer, map(layer_name, has), f"(run '{lens_run}')")
    shown = set(tokens.positions)
    cells = {
        (pos, layer): _Cell(*rest)
        for pos, layer, *rest in found
        if pos in shown and (wanted is None or layer in wanted)
    }
    if not cells:
        raise UsageError(
            f"Run '{lens_run}' has none of these positions of example {tokens.example_id}, seq {tokens.seq}."
        )
    return cells


def _draw(
    tokens: shown_tokens.ShownTokens, cells: dict[tuple[int, int | None], _Cell], lens_run: str, by: str
) -> Figure:
    depth = list(dict.fromkeys(layer for _, layer in cells))
    table = [[cells[pos, layer] for pos in tokens.positions] for layer in depth]
    values = np.array([[getattr(cell, by) for cell in row] for row in table])
    size = 1.9 + 0.66 * max(len(tokens.positions), 5), 1.5 + max(0.19 * len(depth), 1.3)
    picture = new_picture(
        *size, "Logit lens: the most probable next token, layer by layer", [*tokens.facts, f"lens {lens_run}"]
    )
    axes = picture.add_subplot()
    most = 1.0 if by == "prob" else values.max()
    scale = axes.imshow(values, MAGNITUDE, vmin=0, vmax=most, aspect="auto", origin="lower", interpolation="none")
    for (y, x), value in np.ndenumerate(values):
        cell = table[y][x]
        axes.text(
            x, y, label(cell.token, longest=9), ha="center", va="center_baseline", fontsize=6.5, color=ink(scale.to_rgba(value)),
            fontweight="bold" if cell.came else "normal", **PLAIN,
        )  # fmt: skip
    columns = range(len(tokens.positions))
    axes.set_xticks(columns, tokens.labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=7, **PLAIN)
    axes.set_yticks(range(len(depth)), map(layer_name, depth), fontsize=7)
    axes.set_xlabel("token read", fontsize=8)
    axes.set_ylabel("layer", fontsize=8)
    above = axes.secondary_xaxis("top")
    came = ["" if cell.actual is None else label(cell.actual) for cell in table[-1]]
    above.set_xticks(columns, came, rotation=45, ha="left", rotation_mode="anchor", fontsize=7, **PLAIN)
    above.set_xlabel("token that came next (bold where the layer has it)", fontsize=8)
    for side in (axes, above):
        side.tick_params(length=0)
        side.spines[:].set_visible(False)
    colour_bar(picture, scale, axes, _BY[by])
    return picture
