"""`traces trait extract` and `evaluate` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic_traits import add_judge, add_responses, grid, planted

from warehouse import Warehouse

RESPONSES = grid(8, instructions=3)
D = 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for run, trait, axis in (("r", "loud", 2), ("s", "terse", 5)):
        x = planted(RESPONSES, np.eye(D)[axis], 2)
        add_responses(tmp_path, run, RESPONSES, {("mean.resid.post_mlp", 2): x}, trait=trait)
    add_judge(tmp_path, "j", "r", RESPONSES, [90.0 if r.positive else 10.0 for r in RESPONSES])
    return tmp_path


@pytest.mark.slow
def test_from_responses_to_a_picture_and_a_table(root: Path, traces: Callable) -> None:
    done = traces("trait", "extract", "--traits", "loud,terse", "--methods", "mean_diff,gradient", "-w", root)
    assert done.code == 0, done.err
    assert (
        "loud-terse-vectors: 6 vectors" in done.out
        and "next: traces trait evaluate --vectors loud-terse-vectors" in done.out
    )
    assert "terse: 24 positive and 24 negative responses to 8 questions; no filter" in done.err
    assert "loud: from the responses in r; 2 questions held out" in done.err
    picture = root / "p.svg"
    shown = traces("trait", "evaluate", "--trait", "loud", "--plot", picture, "-f", "json", "-w", root)
    assert shown.code == 0, shown.err
    rows = json.loads(shown.out)
    assert [(r["trait"], r["layer"]) for r in rows] == [("loud", 2)] * 3 + [("terse", 2)] * 3
    assert {r["method"] for r in rows} == {"mean_diff", "gradient", "random"} and rows[0]["accuracy"] > 0.8
    assert (
        "loud: mean_diff, residual, layer 2 is the residual stream's best by cross-validated effect size" in shown.err
        or (
            "loud: gradient, residual, layer 2 is the residual stream's best by cross-validated effect size"
            in shown.err
        )
    )
    assert picture.read_text().startswith("<?xml")
    wrong = traces("trait", "evaluate", "--trait", "loud", "--plot", root / "p.xyz", "-w", root)
    assert wrong.code == 2 and "p.xyz: Format 'xyz' is not supported" in wrong.err and "Traceback" not in wrong.err
    again = traces("trait", "evaluate", "--vectors", "loud-terse-vectors", "-f", "json", "-w", root)
    assert again.out == shown.out and "exists already" in again.err
    with Warehouse(root) as wh:
        assert wh.sql("SELECT trait, layer, grounds FROM trait_best ORDER BY trait").fetchall() == [
            ("loud", 2, "cross-validated effect size"),
            ("terse", 2, "cross-validated effect size"),
        ]


@pytest.mark.slow
def test_wrong_calls_end_in_a_line(root: Path, traces: Callable) -> None:
    for args, says in (
        (("extract",), "Say which responses: --traits with the traits, or --responses with their runs."),
        (("extract", "--traits", "lou"), "No run of kind trait-responses of trait 'lou'. Did you mean loud"),
        (("extract", "--traits", "loud", "--responses", "s"), "Run 's' has the responses of trait terse, not of loud"),
        (("extract", "--traits", "loud,terse", "--responses", "r"), "No run of those has responses of trait terse"),
        (("extract", "--traits", "loud", "--layers", "one"), "--layers one: write all, mid, or layers as in 0,5"),
        (
            ("extract", "--traits", "loud", "--threshold", "high"),
            "--threshold high: write a score from 0 to 100, or none",
        ),
        (
            ("extract", "--traits", "loud", "--threshold", "95"),
            "No positive response of run 'r' has a trait score of 95 or more",
        ),
        (("extract", "--traits", "loud", "--components", "attn_out"), "stored neither mean.attn_out nor attn_out"),
        (("evaluate",), "Say which vectors: --trait NAME, or --vectors RUN."),
        (("evaluate", "--trait", "loud"), "Make one: traces trait extract --help"),
        (("evaluate", "--vectors", "r"), "Run 'r' is of kind trait-responses"),
        (("extract", "--responses", "r", "--model", "m"), "--responses names them: leave out one of the two"),
        (("evaluate", "--vectors", "r", "--model", "m"), "--vectors names one: leave out one of the two"),
    ):
        done = traces("trait", *args, "-w", root)
        assert done.code == 2 and says in done.err and "Traceback" not in done.err, (args, done.err)
        assert done.err.strip().splitlines()[-1].startswith("traces: ") and "Usage" not in done.err, done.err
