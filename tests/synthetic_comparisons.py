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

RUNS = {"source_run_id": "one", "other_run_id": "two"}
SEEN = {"n_tokens": 9, "n_examples": 3}
LIKE = {"cka": 0.75, "cka_low": 0.5, "cka_high": 0.875, "procrustes": 0.875, "procrustes_low": 0.75, "procrustes_high": 1.0,
        "procrustes_chance": 0.25}  # fmt: skip
LAYERS = [
    RUNS | SEEN | LIKE | {"layer": 0, "other_layer": 0},
    RUNS | SEEN | {"layer": 0, "other_layer": 1, "cka": 0.25, "cka_low": 0.125, "cka_high": 0.5},
    RUNS | SEEN | {"layer": 1, "other_layer": 0, "cka": 0.9375, "cka_low": 0.875, "cka_high": 1.0},
    RUNS | SEEN | LIKE | {"layer": 1, "other_layer": 1, "cka": 0.625},
]
MOVED = {"rms_moved": 2.0, "rms_state": 8.0, "n_tokens": 9}
DIRECTIONS = [
    RUNS
    | MOVED
    | {"layer": 0, "rank": 1, "share": 0.625, "mean_shift": 1.5, "sd_shift": 0.5, "vector": [0.6, 0.8, 0.0, 0.0]},
    RUNS
    | MOVED
    | {"layer": 0, "rank": 2, "share": 0.25, "mean_shift": 0.0, "sd_shift": 1.0, "vector": [0.0, 0.0, 1.0, 0.0]},
]
HEADS = [
    RUNS
    | SEEN
    | {
        "layer": layer,
        "head": head,
        "js": js,
        "js_low": js / 2,
        "js_high": 2 * js,
        "top_changed": 0.5,
        "write_change": 0.25,
    }
    for layer, head, js in ((0, 0, 0.0625), (0, 1, 0.25), (1, 0, 0.125))
]


def add_comparison(root: Path, run_id: str = "comparison", **tables: Any) -> Path:
    """A comparison of the runs `one` and `two`, of three tokens, two layers and some heads; other rows of tables as given."""
    made = {"layer_similarity": LAYERS, "moved_directions": DIRECTIONS, "head_changes": HEADS}
    rows = {"comparisons": TOKENS} | made | tables
    return add_run(root, run_id, "comparison", rows, parents=["one", "two"], n_layers=2, n_heads=2)
