"""`traces circuit discover` and `evaluate` as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

PAIRS = """clean,corrupted,answer,wrong
the keeper was with his lamp and the,the lamp was with his keeper and the, keeper, lamp
the lamp was with his keeper and the,the keeper was with his lamp and the, lamp, keeper
the keeper that was with the lamp was,the lamp that was with the keeper was, his, that
every keeper was with two lamps,every lamp was with two keepers, that, three
every keeper was with the two,every lamp was with the two, lamp, keeper
the keeper and his lamp,the lamp and his keeper, was, with
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable, tokenizer: Any, traces: Callable) -> Path:
    """A warehouse with a task of a tiny Llama whose logits are far apart."""
    folder = tmp_path_factory.mktemp("circuits")
    model = make_llama(seed=5)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim == 2 else 1)
        model.lm_head.weight.mul_(8)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "pairs.csv").write_text(PAIRS)
    done = traces(
        "task", "prepare", folder / "pairs.csv", "--model", folder / "model", "--run", "t", "--capture", "none", "-w", folder / "runs"
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder / "runs"


def test_from_a_task_to_whether_its_circuit_holds(root: Path, traces: Callable) -> None:
    w = ("-w", root)
    dry = traces("circuit", "discover", "t", "--dry-run", *w)
    assert (dry.code, dry.out.splitlines()) == (
        0,
        [
            "3 of 6 pairs × 190 edges, 16 nodes: about as much as 45 forward passes of one prompt",
            "nothing is written",
        ],
    )
    found = traces("circuit", "discover", "t", "--method", "eap-ig,exact", "--verify", "2", "--resamples", "10", *w)
    assert found.code == 0, found.err
    assert "t-circuit: eap-ig, exact in" in found.out
    assert re.search(r"mean logit_diff: clean -?\d+\.\d{3}, corrupted -?\d+\.\d{3}", found.out)
    assert re.search(
        r"strongest edges of eap-ig: \S+ -> \S+ [-+]\d+\.\d{3} \(-?\d+\.\d{3} to -?\d+\.\d{3}\), ", found.out
    )
    assert re.search(r"scores of eap-ig miss the change of the metric by \d+\.\d%", found.out)
    assert re.search(r"against exact effects of 16 nodes: Pearson -?[01]\.\d{3}", found.out)
    assert re.search(r"against exact effects of 4 edges: Pearson", found.out)
    assert found.out.splitlines()[-1] == "next: traces circuit evaluate t-circuit/eap-ig"

    dry = traces("circuit", "evaluate", "t-circuit/eap-ig", "--sizes", ".3,1", "--dry-run", *w)
    assert dry.out.splitlines() == ["3 held-out pairs × 7 edge-masked passes", "nothing is written"]
    tried = traces("circuit", "evaluate", "t-circuit/eap-ig", "--sizes", ".3,1", *w)
    assert tried.code == 0, tried.err
    assert "t: 3 held-out pairs, logit_diff" in tried.out and "edges by abs" in tried.out
    assert re.search(r"size +edges +faithfulness +95 % +complement +random\n", tried.out)
    assert re.search(r"\n +1 +190 +1\.000 .*0\.000 +1\.000\n", tried.out)
    assert re.search(r"CPR \d\.\d+ .*CMD \d\.\d+ .*log area", tried.out)
    assert "cannot be told (t, size 0.3 by abs, resample): only 3 pairs" in tried.out
    assert tried.out.splitlines()[-1] == "next: traces sql --query circuit_holds --set run=t-circuit-eap-ig-eval"

    twice = traces("circuit", "evaluate", "t-circuit/eap-ig", *w)
    assert (twice.code, twice.out) == (2, "") and "Run 't-circuit-eap-ig-eval' already exists" in twice.err
    for i in (1, 2):
        part = traces("circuit", "discover", "t", "--method", "random", "--run", "p", "--part", f"{i}/2", *w)
        assert part.out.splitlines()[-1] == "next, when all parts are done: traces runs merge p"
    assert traces("runs", "merge", "p", *w).code == 0
    merged = traces("circuit", "evaluate", "p", "--sizes", "1", "--random", "0", "--no-complement", *w)
    assert merged.code == 0, merged.err
    assert "p-eval: p/random in" in merged.out and "complement" not in merged.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("discover t --method acdc", "No method 'acdc'. There is: eap-ig, eap, gim, exact, random."),
        ("evaluate t", "Run 't' is of kind task, and has no circuits. Find some: traces circuit discover TASK"),
        ("discover t --share 2", "--share 2: the part of the pairs"),
        ("evaluate t --sizes 2", "--sizes 2: give shares of all edges"),
        ("evaluate t --selection best", "No selection 'best'"),
        ("discover nothing", "No run 'nothing'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(root: Path, traces: Callable, words: str, message: str) -> None:
    done = traces("circuit", *words.split(), "-w", root)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"traces: {message}") and done.err.count("\n") == 1  # no model was loaded
