"""The picture of effects: which heads and MLPs matter, layer by layer, or in which layer at which position.

In: an ablation or patching run, or its task's. Out: a Figure of the view `effect_means`: where heads were intervened on, a row a layer
and a column a head, whole blocks in columns beside them; where single positions were, a row a layer and a column a position (of
several heads there, the one with the largest effect).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from warehouse.errors import UsageError
from warehouse.plots.canvas import PLAIN, SIGNED, colour_bar, label, layer_name, new_picture
from warehouse.plots.shown_tokens import Run, open_run, rows, run_facts
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCKS = {"mlp_out": "MLP", "attn_out": "attn"}
"""What the columns of whole blocks are called."""


class _Effect(NamedTuple):
    """The mean effect of an intervention."""

    site: str
    layer: int | None
    head: int | None
    pos: int | None
    effect: float


class _Panel(NamedTuple):
    """A part of the picture: what its columns are, and the effects by layer and column."""

    title: str
    columns: list[str]
    effects: dict[tuple[int | None, int], float]


def effects(wh: Warehouse, run: Run) -> Figure:
    """Draw the mean effect of each intervention of a run: heads and blocks by layer, or positions by layer.

    Args:
        wh: The warehouse.
        run: An ablation or patching run, or the task's run, whose newest is drawn.

    Returns:
        The picture. White is no effect; what was not intervened on, or has no finite mean, is hatched.

    Raises:
        UsageError: The run has no effects.
    """
    store = open_run(wh, run)
    named = store.meta.run_id
    chosen = rows(
        wh,
        "SELECT run_id, parents[1] FROM runs WHERE (run_id = ? OR parents[1] = ?) AND list_contains(tables, 'effects') "
        "ORDER BY run_id = ? DESC, created_at DESC, run_id DESC LIMIT 1",
        named,
        named,
        named,
    )
    if not chosen:
        raise UsageError(f"Run '{named}' has no effects. See traces ablate --help, and traces patch")
    ((run_id, task),) = chosen
    found = rows(
        wh,
        "SELECT site, layer, head, pos, effect FROM effect_means WHERE run_id = ? ORDER BY ALL",
        run_id,
    )
    ((kind, direction, metric, least, n),) = rows(
        wh,
        "SELECT any_value(kind), any_value(direction), any_value(metric), min(n), max(n) FROM effect_means WHERE run_id = ?",
        run_id,
    )
    panels = _panels([_Effect(*row) for row in found], _tokens(wh, run_id))
    said = kind if direction is None or kind == "resample" else f"{kind}, {direction}"
    facts = [
        run_facts(store.meta)[0],
        f"task {task}",
        f"run {run_id}",
        f"mean over {n:,} examples" if n == least else f"mean over {least:,} to {n:,} examples",
    ]
    return _draw(panels, f"Effect on {metric}: {said}", facts, metric)


def _tokens(wh: Warehouse, run_id: str) -> dict[int, str]:
    """Return the token at each position, where all prompts that ran have the same one."""
    found = rows(
        wh,
        "SELECT pos, min(token) FROM effect_tokens WHERE run_id = ? GROUP BY pos HAVING count(DISTINCT token) = 1",
        run_id,
    )
    return dict(found)


def _panels(found: Sequence[_Effect], tokens: dict[int, str]) -> list[_Panel]:
    """Sort effects into panels: one of heads with blocks beside them, and one a site that was changed position by position."""
    whole = [e for e in found if e.pos is None or e.pos < 0]
    panels = []
    for site in dict.fromkeys(e.site for e in whole if e.head is not None):
        heads = [e for e in whole if e.site == site and e.head is not None]
        width = 1 + max(e.head for e in heads if e.head is not None)
        panels.append(_Panel(site, [str(h) for h in range(width)], {(e.layer, e.head or 0): e.effect for e in heads}))
    blocks = [e for e in whole if e.head is None]
    sites = list(dict.fromkeys(e.site for e in blocks))
    if blocks:
        names = [_BLOCKS.get(site, site) for site in sites]
        panels.append(_Panel("blocks", names, {(e.layer, sites.index(e.site)): e.effect for e in blocks}))
    placed = [e for e in found if e.pos is not None and e.pos >= 0]
    positions = sorted({e.pos for e in placed if e.pos is not None})
    names = [f"{label(tokens[pos])} {pos}" if pos in tokens else str(pos) for pos in positions]
    for site in dict.fromkeys(e.site for e in placed):
        strongest = sorted((e for e in placed if e.site == site), key=lambda e: abs(e.effect))
        title = f"{site}, the strongest head" if strongest[0].head is not None else site
        panels.append(_Panel(title, names, {(e.layer, positions.index(e.pos or 0)): e.effect for e in strongest}))
    return panels


def _draw(panels: Sequence[_Panel], title: str, facts: Sequence[str], metric: str) -> Figure:
    from matplotlib import colormaps

    depth = sorted({layer for p in panels for layer, _ in p.effects}, key=lambda layer: -1 if layer is None else layer)
    values = [_values(p, depth) for p in panels]
    most = max((float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in values), default=0) or 1.0
    widths = [max(len(p.columns), 1) for p in panels]
    size = 1.9 + max(0.27 * (sum(widths) + len(widths)), 3.2), 1.5 + max(0.2 * len(depth), 1.6)
    picture = new_picture(*size, title, facts)
    every = picture.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    scale: Any = None
    for axes, panel, table in zip(every, panels, values, strict=True):
        axes.set_facecolor("white")
        axes.patch.set(hatch="////", edgecolor="#CCCCCC")
        scale = axes.imshow(
            np.ma.masked_invalid(table), colormaps[SIGNED], vmin=-most, vmax=most, aspect="auto", origin="lower",
            interpolation="none",
        )  # fmt: skip
        long = max(map(len, panel.columns)) > 4
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
        axes.set_xticks(range(len(panel.columns)), panel.columns, fontsize=7, **turned, **PLAIN)
        axes.set_xlabel(panel.title if panel.title != "blocks" else "", fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    every[0].set_yticks(range(len(depth)), map(layer_name, depth), fontsize=7)
    every[0].set_ylabel("layer", fontsize=8)
    colour_bar(picture, scale, list(every), f"mean effect on {metric}")
    return picture


def _values(panel: _Panel, depth: Sequence[int | None]) -> np.ndarray:
    """Return the effects of a panel, (layers, columns), NaN where there is none."""
    table = np.full((len(depth), len(panel.columns)), np.nan)
    for (layer, column), effect in panel.effects.items():
        table[depth.index(layer), column] = effect
    return table
