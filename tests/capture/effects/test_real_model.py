"""Interventions on the packaged SmolLM2: identities to the bit, and heads that are known to matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import capture
from capture.interventions.restart import Restart
from capture.interventions.site_edits import why_not
from capture.model import loading
from warehouse import TraceStore, Warehouse
from warehouse.schema.sites import Key

pytestmark = pytest.mark.slow

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"


@pytest.fixture(scope="module")
def prompts(smollm2: loading.Loaded) -> torch.Tensor:
    return smollm2.tokenizer([CLEAN, CORRUPTED], return_tensors="pt")["input_ids"]


def test_identities_hold_to_the_bit(smollm2: loading.Loaded, prompts: torch.Tensor) -> None:
    """Nothing edited; each stage of the stream patched at all positions, in every layer; all heads cut, and attention cut."""
    anatomy, tokens = smollm2.anatomy, {"dec": (prompts, torch.ones_like(prompts))}
    restart = Restart(anatomy)
    assert restart.works
    stages = [Key("dec", f"resid.{s}", i) for s in ("pre_attn", "post_attn", "post_mlp") for i in range(0, 30, 7)]
    heads, out = Key("dec", "heads", 11), Key("dec", "attn_out", 11)
    assert not [key for key in (*stages, heads, out) if why_not(anatomy, key)]
    passed = restart.read(tokens, stages)
    rows, swapped = torch.tensor([0, 1]), torch.tensor([1, 0])
    assert torch.equal(restart.run(passed, rows, 0, {}), passed.last)
    for key in stages:
        values = passed.values[key][swapped]
        assert torch.equal(
            restart.run(passed, rows, key.layer or 0, {key: lambda x, v=values: v}), passed.last[swapped]
        )
    assert not torch.equal(passed.last, passed.last[swapped])
    cut = [restart.run(passed, rows, 11, {key: torch.zeros_like}) for key in (heads, out)]
    assert torch.equal(*cut)
    assert not torch.equal(cut[0], passed.last)


def test_a_batch_of_edits_is_what_each_gives_alone(smollm2: loading.Loaded, prompts: torch.Tensor) -> None:
    """Nine heads cut in one batch against one at a time, through the whole model: 2.5e-5 was seen of logits up to 25."""
    ids = prompts[:1]
    with torch.no_grad():
        plain = smollm2.hf(input_ids=ids).logits[0, -1]
    restart = Restart(smollm2.anatomy)
    passed = restart.read({"dec": (ids, torch.ones_like(ids))})

    def cut_own_head(x: torch.Tensor) -> torch.Tensor:
        changed = x.clone()
        changed[torch.arange(9), :, torch.arange(9)] = 0
        return changed

    last = restart.run(passed, torch.zeros(9, dtype=torch.long), 23, {Key("dec", "heads", 23): cut_own_head})
    with torch.no_grad():
        together = smollm2.hf.lm_head(last[:, -1])
    for head in range(9):
        with capture.intervene(smollm2, f"L23H{head}=zero"), torch.no_grad():
            alone = smollm2.hf(input_ids=ids).logits[0, -1]
        torch.testing.assert_close(together[head], alone, rtol=0, atol=2e-4)
        assert (alone - plain).abs().max() > 1e-2


def test_the_head_that_moves_the_name_is_found_and_patching_the_stream_restores_it(
    tmp_path: Path, smollm2: loading.Loaded
) -> None:
    """IOI: the largest effect of any head from layer 20 on is that of 23.3 or 20.0; the answer moves from the second subject to the
    last token between the first layers and the last."""
    root = tmp_path / "runs"
    task = capture.prepare_task(smollm2, "indirect_object", n=12, run="ioi", root=root)
    ablated = capture.ablate(task, what="heads", layers=[20, 23, 26], model=smollm2)
    patched = capture.patch(task, layers=[0, 29], model=smollm2)
    with Warehouse(root) as wh:
        heads = (
            wh.cursor()
            .execute(
                "SELECT layer, head, effect, effect_normalised FROM head_effects WHERE run_id = ? ORDER BY effect",
                [ablated.meta.run_id],
            )
            .fetchall()
        )
        assert len(heads) == 27
        assert {heads[0][:2], heads[1][:2]} == {(20, 0), (23, 3)}
        assert all(effect < -1 and normalised < -0.1 for _, _, effect, normalised in heads[:2])
        rows = (
            wh.cursor()
            .execute(
                "SELECT i.layer, e.effect_normalised, e.effect, i.pos = p.n_tokens - 1, i.pos < p.first_changed "
                "FROM effects AS e JOIN interventions AS i USING (run_id, intervention_id) "
                "JOIN task_pairs AS p ON p.run_id = e.source_run_id AND p.example_id = e.example_id AND p.seq = 1 "
                "WHERE e.run_id = ?",
                [patched.meta.run_id],
            )
            .fetchall()
        )
    last = {
        layer: [n for at, n, _, is_last, _ in rows if is_last and at == layer and n is not None] for layer in (0, 29)
    }
    assert np.mean(last[29]) == pytest.approx(1, abs=1e-3)
    assert abs(np.mean(last[0])) < 0.05
    before = [abs(effect) for _, _, effect, _, is_before in rows if is_before]
    assert before and max(before) < 1e-3


def test_a_float32_run_patched_with_itself_changes_nothing(tmp_path: Path, smollm2: loading.Loaded) -> None:
    """… and what float16 does to stored states shows, as a few hundredths of a logit at most."""
    largest = {}
    for dtype in ("float32", "auto"):
        root = tmp_path / dtype
        task = capture.prepare_task(smollm2, "agreement", n=4, run="task", root=root, store_dtype=dtype)
        run: TraceStore = capture.patch(
            task, site="resid.post_mlp,v", layers=[3, 20], source="task", positions="all", model=smollm2
        )
        ((largest[dtype], n),) = run.query("SELECT max(abs(effect)), count(*) FROM effects").fetchall()
        assert n == 4 * 2 * (1 + 3)
    assert largest["float32"] < 1e-4 < largest["auto"] < 0.1
