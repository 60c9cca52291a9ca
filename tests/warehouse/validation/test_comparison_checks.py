"""Comparisons whose numbers contradict each other are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic_comparisons
from synthetic_comparisons import CHANGED, TOKENS

from warehouse.validation.validate import validate


def failed(folder: Path) -> dict[str, str]:
    return {c.name: c.detail for c in validate(folder) if c.passed is False}


def test_sound_rows_pass(tmp_path: Path) -> None:
    checks = {c.name: c.passed for c in validate(synthetic_comparisons.add_comparison(tmp_path))}
    assert checks["comparisons"]


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
