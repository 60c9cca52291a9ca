"""Comparisons of two runs, made of rows that are written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic import add_run

KEYS = {"source_run_id": "one", "other_run_id": "two", "example_id": "e"}
SURE = {"kl": 0.0625, "kl_reverse": 0.0625, "top1_id": 0, "top1_token": "a", "top1_prob": 0.875, "other_top1_id": 0,
        "other_top1_token": "a", "other_top1_prob": 0.75, "loss": 0.25, "other_loss": 0.5}  # fmt: skip
CHANGED = SURE | {"kl": 1.5, "kl_reverse": 1.25, "other_top1_id": 1, "other_top1_token": "b", "other_top1_prob": 0.625}
TOKENS = [
    KEYS | SURE | {"pos": 0, "other_pos": 0},
    KEYS | CHANGED | {"pos": 1, "other_pos": 1, "loss": 2.0, "other_loss": 0.5},
    KEYS | SURE | {"pos": 2, "other_pos": 2, "loss": None, "other_loss": None},
]


def add_comparison(root: Path, run_id: str = "comparison", **tables: Any) -> Path:
    """A comparison of the runs `one` and `two`, of three tokens; other rows of tables as given."""
    rows = {"comparisons": TOKENS} | tables
    return add_run(root, run_id, "comparison", rows, parents=["one", "two"], n_layers=2, n_heads=2)
