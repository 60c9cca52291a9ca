"""The picture of loss by position: does the model predict better, the more it has read?

In: runs with next-token predictions. Out: a Figure with a line a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from warehouse.analysis.intervals import standard_error
from warehouse.errors import UsageError
from warehouse.plots.canvas import LINES, PLAIN, new_picture
from warehouse.plots.shown_tokens import Run, open_run, run_facts
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUMS = """
    SELECT
        CASE WHEN pos < 16 THEN pos ELSE CAST(pow(2, floor(log2(pos))) AS INTEGER) END AS from_pos,
        example_id,
        sum(CAST(loss AS DOUBLE)) FILTER (isfinite(loss)),
        count(*) FILTER (isfinite(loss)),
        count(*) FILTER (NOT isfinite(loss))
    FROM next_token GROUP BY ALL ORDER BY ALL
"""
"""The positions are those of the saved query loss_by_position."""


def loss_by_position(wh: Warehouse, *runs: Run) -> Figure:
    """Draw the mean loss by position, with an interval of two standard errors either way, over examples.

    Args:
        wh: The warehouse.
        *runs: The runs, one or several.

    Returns:
        The picture. From position 16 on, a point is the mean over as many positions as come before it. Infinite losses are left out,
        and counted in the legend; where there is only one example, there is no interval.

    Raises:
        UsageError: A run has no next-token predictions.
    """
    if not runs:
        raise UsageError("Name a run.")
    stores = [open_run(wh, run) for run in runs]
    for store in stores:
        if not store.meta.counts.predictions:
            raise UsageError(
                f"Run '{store.meta.run_id}' has no next-token predictions. See traces capture next-token --help"
            )
    facts = run_facts(stores[0].meta) if len(stores) == 1 else []
    picture = new_picture(6, 3.6, "Loss by position", [*facts, "mean ± 2 standard errors over examples"])
    axes = picture.add_subplot()
    for number, store in enumerate(stores):
        positions, mean, error, infinite = _means(store)
        colour = LINES[number % len(LINES)]
        label = " · ".join(run_facts(store.meta)) + (f" ({infinite:,} infinite left out)" if infinite else "")
        axes.plot(positions + 1, mean, "-o", color=colour, markersize=3, linewidth=1.2, label=label)
        axes.fill_between(
            positions + 1,
            mean - 2 * error,
            mean + 2 * error,
            where=np.isfinite(error),
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("tokens read", fontsize=8)
    axes.set_ylabel("loss of the next token (nats)", fontsize=8)
    for text in axes.legend(fontsize=7, frameon=False).get_texts():
        text.set(**PLAIN)
    return picture


def _means(store: TraceStore) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return positions, mean losses and their standard errors, (P,) each, and how many infinite losses were left out."""
    found = store.query(_SUMS).fetchall()
    infinite = sum(row[4] for row in found)
    sums: dict[int, list[tuple[float, int]]] = {}
    for pos, _, total, n, _ in found:
        if n:
            sums.setdefault(pos, []).append((total, n))
    mean, error = [], []
    for examples in sums.values():
        total, n = (np.array(x, np.float64) for x in zip(*examples, strict=True))
        mean.append(total.sum() / n.sum())
        error.append(standard_error(total[:, None], n)[0])
    return np.array(list(sums)), np.array(mean), np.array(error), infinite
