"""The picture of attention: one head with its tokens, the heads of a layer, or all heads of all layers.

In: a run that stored attention, or q and k. Out: a Figure. What is drawn is `TraceStore.attn`, number by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from warehouse.errors import UsageError
from warehouse.plots import shown_tokens
from warehouse.plots.canvas import MAGNITUDE, PLAIN, colour_bar, new_picture
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 64
"""Tokens that are shown at most: more could not be read."""


def attention(
    wh: Warehouse,
    run: shown_tokens.Run,
    example: str | None = None,
    *,
    layers: str | int | Sequence[int] = "all",
    head: int | None = None,
    seq: int = 0,
    positions: range | None = None,
) -> Figure:
    """Draw attention: row by row, what share of its attention a token gives to which token.

    Args:
        wh: The warehouse.
        run: The run.
        example: The example's id, or the beginning of it; None for the first.
        layers: A layer, several, or `all`.
        head: The query head; None for all. Of one head in one layer, the tokens stand at the axes.
        seq: Which sequence of the example.
        positions: Which tokens, at most 64; None for the first. Rows then sum to less than 1.

    Returns:
        The picture.

    Raises:
        UsageError: The run has neither attention nor q and k, or no such example, layer or head.
    """
    store = shown_tokens.open_run(wh, run)
    shown = shown_tokens.open_tokens(store, example, seq, positions, _MOST)
    maps = _maps(store, shown, layers, head)
    if len(maps) == 1:
        ((layer, (first, *others)),) = maps.items()
        if not others:
            return _one_head(shown, first, f"Attention, layer {layer}, head {head or 0}")
        return _one_layer(shown, [first, *others], f"Attention, layer {layer}")
    return _all_layers(shown, maps, head)


def _maps(
    store: TraceStore, shown: shown_tokens.ShownTokens, layers: str | int | Sequence[int], head: int | None
) -> dict[int, list[np.ndarray]]:
    """Return by layer the matrices (T, T) of its heads; of `all` layers, those that have attention."""
    wanted = shown_tokens.parse_layers(layers)
    maps: dict[int, list[np.ndarray]] = {}
    refused: UsageError | None = None
    window = slice(shown.positions[0], shown.positions[-1] + 1)
    for layer in range(store.meta.model.n_layers) if wanted is None else wanted:
        try:
            found = store.attn(shown.example_id, layer, head, seq=shown.seq)
        except UsageError as e:
            if wanted is not None:
                raise
            refused = refused or e
            continue
        seen = found[..., window, window]
        maps[layer] = [seen] if head is not None else list(seen)
    if not maps:
        raise refused or UsageError(f"{store.meta.model.name} has no layers.")
    return maps


def _hidden_future(matrix: np.ndarray) -> np.ma.MaskedArray[Any, Any]:
    """Return a matrix with its upper triangle masked, if no token looks ahead: what can't be seen is no attention of 0."""
    future = np.triu(np.ones(matrix.shape, bool), 1)
    return np.ma.masked_array(matrix, future & (not matrix[future].any()))


def _one_head(shown: shown_tokens.ShownTokens, matrix: np.ndarray, title: str) -> Figure:
    side = 1.2 + 0.155 * max(len(shown.tokens), 12)
    picture = new_picture(side + 1, side + 0.5, title, shown.facts)
    axes = picture.add_subplot()
    scale = axes.imshow(_hidden_future(matrix), MAGNITUDE, vmin=0, vmax=1, interpolation="none")
    places = range(len(shown.tokens))
    axes.set_xticks(places, shown.labels, rotation=90, fontsize=7, **PLAIN)
    axes.set_yticks(places, shown.labels, fontsize=7, **PLAIN)
    axes.tick_params(length=0)
    axes.spines[:].set_linewidth(0.5)
    axes.set_xlabel("token attended to (key)", fontsize=8)
    axes.set_ylabel("token that attends (query)", fontsize=8)
    colour_bar(picture, scale, axes, "attention probability")
    return picture


def _one_layer(shown: shown_tokens.ShownTokens, heads: list[np.ndarray], title: str) -> Figure:
    across = ceil(sqrt(len(heads)))
    down = ceil(len(heads) / across)
    picture = new_picture(max(1.3 * across + 0.8, 4.5), 1.4 * down + 0.6, title, shown.facts)
    grid = picture.subplots(down, across, squeeze=False).ravel()
    for number, axes in enumerate(grid):
        axes.set_axis_off()
        if number < len(heads):
            scale = axes.imshow(_hidden_future(heads[number]), MAGNITUDE, vmin=0, vmax=1, interpolation="none")
            axes.set_title(f"head {number}", fontsize=7, pad=2)
    colour_bar(picture, scale, list(grid), "attention probability")
    return picture


def _all_layers(shown: shown_tokens.ShownTokens, maps: dict[int, list[np.ndarray]], head: int | None) -> Figure:
    """Draw a row a layer and a column a head, as one image, in which empty lines part the matrices."""
    step = len(shown.tokens) + max(1, len(shown.tokens) // 16)
    n_heads = max(map(len, maps.values()))
    mosaic = np.ma.masked_all((step * len(maps), step * n_heads), np.float32)
    for row, heads in enumerate(maps.values()):
        for column, matrix in enumerate(heads):
            top, left = row * step, column * step
            mosaic[top : top + len(matrix), left : left + len(matrix)] = _hidden_future(matrix)
    size = min(0.5, 16 / max(len(maps), n_heads))
    title = "Attention, a row a layer and a column a head" if head is None else f"Attention, head {head}, a row a layer"
    picture = new_picture(max(size * n_heads + 1.6, 4.5), size * len(maps) + 1, title, shown.facts)
    axes = picture.add_subplot()
    scale = axes.imshow(mosaic, MAGNITUDE, vmin=0, vmax=1, interpolation="none")
    middle = (len(shown.tokens) - 1) / 2
    axes.set_xticks(
        [middle + step * i for i in range(n_heads)], map(str, range(n_heads) if head is None else [head]), fontsize=7
    )
    axes.set_yticks([middle + step * i for i in range(len(maps))], map(str, maps), fontsize=7)
    axes.set_xlabel("head", fontsize=8)
    axes.set_ylabel("layer", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    colour_bar(picture, scale, axes, "attention probability", shrink=0.3, aspect=25)
    return picture
