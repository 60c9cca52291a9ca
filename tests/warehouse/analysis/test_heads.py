"""The table heads: each statistic as its definition says, the same at capture and later, and true of a real model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from capture.data.registry import open_data
from capture.jobs import next_token
from warehouse import TraceStore, Warehouse
from warehouse.analysis.derive_heads import derive_heads
from warehouse.analysis.heads import STATISTICS, induction_targets, statistics
from warehouse.catalog.saved_queries import find_query, run_query
from warehouse.errors import RunExistsError, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate


def by_definition(p: np.ndarray, ids: list[int]) -> dict[str, float]:
    """Compute one head's statistics from probabilities (T, T), in plain loops."""
    t = len(ids)
    induction = [
        sum(p[i, j] for j in range(1, i) if ids[j - 1] == ids[i])
        for i in range(t)
        if any(ids[j - 1] == ids[i] for j in range(1, i))
    ]
    return {
        "entropy": sum(-x * math.log(x) for row in p for x in row if x > 0) / t,
        "max_prob": sum(max(row) for row in p) / t,
        "first_token_mass": sum(row[0] for row in p) / t,
        "previous_token_mass": sum(p[i, i - 1] for i in range(1, t)) / (t - 1),
        "self_mass": sum(p[i, i] for i in range(t)) / t,
        "induction_mass": sum(induction) / len(induction) if induction else math.nan,
    }


@pytest.mark.parametrize("ids", [[1, 2, 3, 1, 2, 3, 1], [5, 5, 5, 5], [1, 2, 2, 3], [7, 7], [1, 2, 3, 4], [7, 8]])
def test_statistics_are_what_their_definitions_say(ids: list[int]) -> None:
    rng = np.random.default_rng(0)
    p = np.tril(rng.dirichlet(np.ones(len(ids)), (3, len(ids)))).astype(np.float32)
    p /= p.sum(-1, keepdims=True)
    found = statistics(p, induction_targets(np.array(ids)))
    for head in range(3):
        expected = by_definition(p[head].astype(np.float64), ids)
        np.testing.assert_allclose(found[head], [expected[s] for s in STATISTICS], rtol=1e-5, atol=1e-6)


def test_attention_at_its_ends_has_statistics() -> None:
    """No mass anywhere (a sink has it), all on one token, a rounding above 1, one token: none is NaN, negative, or -0."""
    p = np.zeros((3, 4, 4), np.float32)
    p[1:, :, 0] = 1
    p[2, :, 0] += np.float32(1.2e-7)
    for attention in (p, p[:, :1, :1]):
        found = statistics(attention, induction_targets(np.arange(attention.shape[1])))
        assert (found[:, 0] == 0).all() and not np.signbit(found[:, 0]).any()
        assert np.isnan(found).all(0).tolist() == [False] * 3 + [attention.shape[1] == 1, False, True]


def test_the_table_describes_the_attention_that_the_run_stores(tiny_root: Path) -> None:
    store = TraceStore(run_dir(tiny_root, "gpt2"))
    eid = store.tokens.example_id[2]
    ids = store.encodings(eid)["input_ids"].tolist()
    rows = store.query(f"SELECT layer, head, {', '.join(STATISTICS)} FROM heads WHERE example_id = ?", [eid]).fetchall()
    assert len(rows) == 12
    for layer, head, *values in rows:
        expected = by_definition(store.attn(eid, layer, head).astype(np.float64), ids)
        np.testing.assert_allclose(values, [expected[s] for s in STATISTICS], rtol=1e-4, atol=1e-6)


def test_derived_later_they_are_the_same_bits(tmp_path: Path, capture_tiny: Callable) -> None:
    root = tmp_path / "runs"
    capture_tiny(root, "a", capture="attn,heads", max_len=64)
    manifest = derive_heads(run_dir(root, "a"), root=root, run_id="b")
    assert manifest.parents == ["a"] and manifest.kind == "heads"
    with Warehouse(root) as wh:
        columns = ", ".join(("example_id", "seq", "side", "layer", "head", *STATISTICS))
        one, two = (wh.sql(f"SELECT {columns} FROM heads WHERE run_id = '{r}' ORDER BY ALL").fetchall() for r in "ab")
        assert one == two and len(one) == 24 * 12
        assert wh.sql("SELECT DISTINCT source_run_id FROM heads").fetchall() == [("a",)]
    assert all(c.passed is not False for c in validate(run_dir(root, "b")))
    with pytest.raises(RunExistsError):
        derive_heads(run_dir(root, "a"), root=root, run_id="b")


def test_a_derivation_that_was_interrupted_goes_on(
    tmp_path: Path, capture_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    capture_tiny(root, "a", capture="attn", max_len=64)
    monkeypatch.setattr("warehouse.analysis.derive_heads._SHARD_TOKENS", 200)

    def interrupted(counted: object) -> None:
        if counted.begun == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derive_heads(run_dir(root, "a"), root=root, run_id="b", report=interrupted)
    seen: list[int] = []
    derive_heads(run_dir(root, "a"), root=root, run_id="b", report=lambda c: seen.append(c.resumed_tokens))
    assert max(seen) > 0
    derive_heads(run_dir(root, "a"), root=root, run_id="c")
    one, two = (
        TraceStore(run_dir(root, r)).query("SELECT * EXCLUDE (run_id) FROM heads ORDER BY ALL").fetchall() for r in "bc"
    )
    assert one == two


def test_a_run_without_attention_says_so(tmp_path: Path, capture_tiny: Callable) -> None:
    capture_tiny(tmp_path / "runs", "a", capture="hidden")
    with pytest.raises(UsageError, match="stores neither q and k nor attention"):
        derive_heads(run_dir(tmp_path / "runs", "a"), root=tmp_path / "runs", run_id="b")


@pytest.mark.slow
def test_the_real_models_induction_heads_stand_out_on_repeated_words(tmp_path: Path, smollm2) -> None:
    """A dozen of its 270 heads find what followed the current word the first time; half of all hardly ever do. What they look
    up is what the model then predicts: it knows most words of the second half, and none of the first."""
    root = tmp_path / "runs"
    options = next_token.Options(capture="heads", limit=8)
    next_token.run(smollm2, open_data("repeated-words"), options, root=root, run_id="r")
    with Warehouse(root) as wh:
        found = run_query(wh.connection, find_query("induction_heads"), {"run": "r"}).fetchall()
        assert found[0][3] > 0.7 and found[3][3] > 0.6
        (median,) = wh.sql("SELECT median(induction_mass) FROM heads").fetchone()
        assert median < 0.02
        accuracy = dict(wh.sql("SELECT pos >= 33, avg(correct::INT) FROM next_token GROUP BY 1").fetchall())
        assert accuracy[True] > 0.5 and accuracy[False] < 0.1
        assert not list(run_dir(root, "r").rglob("*.safetensors")), "heads alone store no tensors"
