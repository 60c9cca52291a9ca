"""The picture of a probe: accuracy by layer, with its interval, beside what is there without the label.

In: a run of kind `probe`. Out: a Figure of its table `probes`, which `warehouse.analysis.probes` makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from warehouse.errors import UsageError
from warehouse.plots.canvas import GREY, LINES, new_picture
from warehouse.plots.shown_tokens import Run, open_run, run_facts
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = (
    "layer", "accuracy", "accuracy_low", "accuracy_high", "shuffled_accuracy", "shuffled_sd", "majority_accuracy"
)  # fmt: skip


def probe(wh: Warehouse, run: Run) -> Figure:
    """Draw accuracy by layer on held-out examples, with its 95 % interval, beside its baselines.

    Args:
        wh: The warehouse.
        run: A run of kind `probe`.

    Returns:
        The picture. Bars at the shuffled labels are a standard deviation either way.

    Raises:
        UsageError: The run is not a probe.
    """
    store = open_run(wh, run)
    if store.meta.kind != "probe":
        raise UsageError(
            f"Run '{store.meta.run_id}' is of kind {store.meta.kind}, and not a probe. See traces probe --help"
        )
    site, classes, n_train, n_test = store.query(
        "SELECT site, len(classes), n_train, n_test FROM probes ORDER BY layer"
    ).fetchall()[0]
    found = store.query(f"SELECT {', '.join(_COLUMNS)} FROM probes ORDER BY layer NULLS FIRST").fetchall()
    layer, accuracy, low, high, shuffled, spread, commonest = (
        np.array(column, np.float64) for column in zip(*found, strict=True)
    )
    layer[np.isnan(layer)] = -1

    title = f"Probe of {store.meta.options['target']} on {site}, by layer"
    facts = [*run_facts(store.meta), f"{classes} labels", f"{n_train:,} tokens to fit, {n_test:,} held out"]
    picture = new_picture(6, 3.6, title, facts)
    axes = picture.add_subplot()
    axes.errorbar(
        layer, accuracy, (accuracy - low, high - accuracy), fmt="-o", color=LINES[0], markersize=4, linewidth=1.2,
        capsize=2, label="held-out examples, 95 % interval",
    )  # fmt: skip
    axes.errorbar(
        layer, shuffled, spread, fmt=":s", color=LINES[1], markersize=3, linewidth=1.2, capsize=2,
        label="fitted to shuffled labels, mean and deviation",
    )  # fmt: skip
    axes.plot(layer, commonest, "--", color=GREY, linewidth=1.2, label="the commonest label")
    named = slice(None, None, 1 + len(layer) // 32)
    axes.set_xticks(layer[named], ["embed" if i < 0 else f"{i:.0f}" for i in layer[named]])
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("layer", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8)
    picture.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return picture
