"""Comparisons whose numbers contradict each other are found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import synthetic_comparisons
from synthetic_comparisons import CHANGED, DIRECTIONS, HEADS, LAYERS, TOKENS

from warehouse.validation.validate import validate


def failed(folder: Path) -> dict[str, str]:
    return {c.name: c.detail for c in validate(folder) if c.passed is False}


def test_sound_rows_pass(tmp_path: Path) -> None:
    checks = {c.name: c.passed for c in validate(synthetic_comparisons.add_comparison(tmp_path))}
    assert (
        checks["comparisons"] and checks["layer similarity"] and checks["moved directions"] and checks["head changes"]
    )


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"kl": -0.1}, "a negative divergence"),
        ({"kl_reverse": float("nan")}, "a negative divergence, or NaN"),
        ({"top1_prob": 1.1}, "a probability outside 0 to 1"),
        ({"other_top1_prob": 0.0}, "a probability outside 0 to 1"),
        ({"kl": None}, "known in part"),
        ({"top1_id": 1, "other_top1_id": 1}, "outside the vocabulary"),
        ({"other_top1_prob": 0.1}, "further apart than the divergence allows"),
        (CHANGED | {"kl": 0.0, "kl_reverse": 0.0}, "a divergence of 0 between other predictions"),
        ({"loss": -0.5}, "a loss below 0"),
        ({"other_pos": 2}, "positions that go back"),
        ({"other_run_id": "three"}, "other runs than the parents"),
    ],
)
def test_a_token_that_contradicts_itself_is_found(tmp_path: Path, change: dict[str, Any], finding: str) -> None:
    rows = [TOKENS[0] | change, *TOKENS[1:]]
    found = failed(synthetic_comparisons.add_comparison(tmp_path, comparisons=rows))
    assert finding in found["comparisons"], found


@pytest.mark.parametrize(
    ("table", "rows", "check", "change", "finding"),
    [
        ("layer_similarity", LAYERS, "layer similarity", {"cka": 1.5}, "outside its range"),
        ("layer_similarity", LAYERS, "layer similarity", {"procrustes": -0.1}, "outside its range"),
        ("layer_similarity", LAYERS, "layer similarity", {"cka_low": 0.8}, "an interval without its number"),
        ("layer_similarity", LAYERS, "layer similarity", {"procrustes_chance": None}, "without what chance comes to"),
        ("layer_similarity", LAYERS, "layer similarity", {"n_tokens": 8}, "over other tokens"),
        ("layer_similarity", LAYERS, "layer similarity", {"layer": 2}, "a layer that the model has not"),
        ("moved_directions", DIRECTIONS, "moved directions", {"vector": [0.6, 0.8, 0.5, 0.0]}, "length is not 1"),
        ("moved_directions", DIRECTIONS, "moved directions", {"vector": [1.0]}, "another width"),
        ("moved_directions", DIRECTIONS, "moved directions", {"share": 0.875}, "exceed 1|what the shifts come to"),
        ("moved_directions", DIRECTIONS, "moved directions", {"rank": 3}, "ranks that are not 1, 2, 3"),
        ("moved_directions", DIRECTIONS, "moved directions", {"mean_shift": -1.5}, "a shift below 0"),
        ("moved_directions", DIRECTIONS, "moved directions", {"sd_shift": 1.5}, "what the shifts come to"),
        ("head_changes", HEADS, "head changes", {"head": 2}, "a head that the model has not"),
        ("head_changes", HEADS, "head changes", {"js": 0.8, "js_high": 0.9}, "outside 0 to ln 2"),
        ("head_changes", HEADS, "head changes", {"js_low": 0.5}, "an interval without its number"),
        ("head_changes", HEADS, "head changes", {"top_changed": 1.5}, "a part outside 0 to 1"),
        ("head_changes", HEADS, "head changes", {"write_change": -1.0}, "a change below 0"),
    ],
)
def test_layers_directions_and_heads_that_contradict_themselves_are_found(
    tmp_path: Path, table: str, rows: list[dict[str, Any]], check: str, change: dict[str, Any], finding: str
) -> None:
    changed = [rows[0] | change, *rows[1:]]
    found = failed(synthetic_comparisons.add_comparison(tmp_path, **{table: changed}))
    assert re.search(finding, found[check]), found
