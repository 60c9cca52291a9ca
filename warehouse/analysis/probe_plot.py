"""Draw the accuracies of a probe's run by layer, for `traces probe --plot`. Needs matplotlib."""

from __future__ import annotations

import numpy as np

from warehouse.analysis import probes
from warehouse.errors import UsageError
from warehouse.storage.trace_store import TraceStore


def plot(store: TraceStore, path: str) -> None:
    """Draw accuracy by layer, with its interval and its baselines.

    Args:
        store: A run of kind `probe`.
        path: The picture's file; its ending says the format.

    Raises:
        UsageError: Where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError:
        raise UsageError("A picture needs matplotlib: pip install matplotlib") from None
    table = list(probes.rows(store))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    layers = [-1 if r["layer"] is None else r["layer"] for r in table]
    accuracy, low, high, shuffled, spread, commonest = (
        np.array([r[name] for r in table])
        for name in (
            "accuracy", "accuracy_low", "accuracy_high", "shuffled_accuracy", "shuffled_sd", "majority_accuracy"
        )
    )  # fmt: skip
    axes.errorbar(
        layers, accuracy, (accuracy - low, high - accuracy), fmt="-o", markersize=4, label="held-out examples, 95 %"
    )
    axes.errorbar(layers, shuffled, spread, fmt=":", label="fitted to shuffled labels, mean and deviation")
    axes.plot(layers, commonest, "--", label="the commonest label")
    if layers == [-1]:
        axes.set_xticks(layers, ["embed"])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        xlabel="layer", ylabel="accuracy", ylim=(0, 1), title=f"{table[0]['site']}: {store.meta.options['target']}"
    )
    axes.legend(loc="lower right")
    figure.savefig(path)
