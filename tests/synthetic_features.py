"""A run's features by a dictionary, made of numbers from a seed: no model and no dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import synthetic

SAE = "made"


def add_features(
    root: Path,
    source: str,
    active: Mapping[tuple[str, int, int], Mapping[int, float]],
    run: str = "encoded",
    losses: Sequence[Mapping[str, Any]] = (),
    minute: int = 0,
) -> None:
    """Adds a run of kind `features`, and one of its losses where there are any.

    `active` has the activations of each feature, by example, sequence and position.
    """
    of = {"source_run_id": source, "sae": SAE, "layer": 1}
    rows = [
        of | {"example_id": e, "seq": s, "pos": p, "feature": f, "activation": a}
        for (e, s, p), features in active.items()
        for f, a in features.items()
    ]
    tokens = [
        of
        | {"example_id": e, "seq": s, "pos": p, "n_active": len(features)}
        | {"squared_error": 1.0, "squared_norm": 5.0, "squared_deviation": 4.0}
        for (e, s, p), features in active.items()
    ]
    about = {
        "side": "dec",
        "site": "resid.post_mlp",
        "architecture": "topk",
        "n_features": 8,
        "width": 4,
        "weights_hash": "0" * 32,
    }
    synthetic.add_run(
        root,
        run,
        "features",
        {
            "dictionaries": [of | about],
            "features": sorted(rows, key=lambda r: (r["example_id"], r["seq"], r["pos"], r["feature"])),
            "feature_tokens": sorted(rows, key=lambda r: (r["feature"], r["example_id"], r["seq"], r["pos"])),
            "reconstructions": tokens,
        },
        minute=minute,
        parents=[source],
    )
    if losses:
        synthetic.add_run(
            root,
            f"{run}-losses",
            "features-evaluation",
            {"reconstruction_losses": [of | {"weights_hash": "0" * 32} | x for x in losses]},
        )
