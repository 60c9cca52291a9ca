"""The job end to end: what is in the run against what the model itself says."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch

from capture.data.text import open_text
from capture.jobs import job, job_batches, next_token
from capture.logit_lens import lens_run
from capture.model import loading
from capture.verification.replay_check import recheck
from warehouse import TraceStore, Warehouse
from warehouse.errors import TracesError, UsageError
from warehouse.storage.paths import run_dir, staged_runs
from warehouse.validation.validate import validate
from warehouse.vectors.table_cache import all_tables


def verdicts(folder: Path) -> dict[str, bool | None]:
    return {c.name: c.passed for c in validate(folder)}


@pytest.mark.parametrize("run", ["llama", "gpt2"])
def test_every_loss_is_the_models_own(tiny_root: Path, load_tiny: Callable, run: str) -> None:
    store, model = TraceStore(run_dir(tiny_root, run)), load_tiny(run).model
    total, count = 0.0, 0
    for row in store.tokens.itertuples():
        ids = torch.from_numpy(store.encodings(row.example_id)["input_ids"].astype(np.int64))[None]
        with torch.no_grad():
            out = model(input_ids=ids, labels=ids)
        assert np.mean(row.losses) == pytest.approx(float(out.loss), abs=2e-5)
        assert list(row.pred_ids) == out.logits[0, :-1].argmax(-1).tolist()
        total += float(out.loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert store.meta.counts.predictions == count
    assert store.meta.mean_loss == pytest.approx(total / count, abs=2e-5)
    assert store.meta.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)


def test_float32_storage_is_bit_equal_to_the_models_hidden_states(tiny_root: Path, load_tiny: Callable) -> None:
    store, model = TraceStore(run_dir(tiny_root, "gpt2")), load_tiny("gpt2").model
    for row in store.tokens.iloc[::5].itertuples():
        ids = torch.from_numpy(store.encodings(row.example_id)["input_ids"].astype(np.int64))[None]
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
        # Batched with others at capture, alone here: kernels may differ in the last place.
        np.testing.assert_allclose(store.hidden(row.example_id), torch.cat(hidden).numpy(), rtol=1e-5, atol=1e-6)


def test_the_real_model_end_to_end(real_root: Path, smollm2) -> None:
    store = TraceStore(run_dir(real_root, "real"))
    assert all(passed is not False for passed in verdicts(store.path).values())
    deep = list(recheck(store.path))
    assert [c.name for c in deep] == [
        f"deep: {n}" for n in ("weights", "formulas", "loss", "hidden", "attention", "tensors")
    ]
    assert all(c.passed for c in deep), deep
    france = store.query(
        "SELECT topk_tokens FROM next_token JOIN tokens USING (example_id, seq, pos) "
        "JOIN examples USING (example_id) WHERE text LIKE 'The capital of France%' AND token = ' is' ORDER BY pos LIMIT 1"
    ).fetchone()
    assert " Paris" in france[0]


@pytest.mark.slow
def test_the_real_model_in_bfloat16(tmp_path: Path, capture_tiny: Callable, smollm2, sample_lines: list[str]) -> None:
    loaded, text = loading.load("smollm2", device="cpu", dtype="bfloat16"), tmp_path / "text.txt"
    text.write_text("\n".join(sample_lines[:3]), encoding="utf-8")
    store = capture_tiny(tmp_path / "runs", loaded=loaded, text=text, max_len=24, batch_tokens=32)
    assert {s.dtype for s in store.meta.sites} == {"BF16"}
    assert all(p is not False for p in verdicts(store.path).values())
    assert all(c.passed for c in recheck(store.path)), list(recheck(store.path))


def test_deep_validation_finds_what_the_files_alone_do_not_show(
    tmp_path: Path, tiny_root: Path, tiny_folder: Callable
) -> None:
    def failed(change: Callable[[dict], None]) -> set[str]:
        folder = Path(shutil.copytree(run_dir(tiny_root, "llama"), tmp_path / "copy", dirs_exist_ok=True))
        synthetic.alter(folder / "run.json", change)
        assert all(p is not False for p in verdicts(folder).values()), "sound, as far as the files tell"
        return {c.name for c in recheck(folder) if not c.passed}

    assert failed(lambda m: None) == set()
    assert failed(lambda m: m["model"]["attention"][1].update(scale=2.0)) == {"deep: formulas", "deep: attention"}
    assert failed(lambda m: m["model"]["attention"][2].update(window=3)) == {"deep: formulas", "deep: attention"}
    slightly = failed(lambda m: m["model"]["attention"][1].update(scale=m["model"]["attention"][1]["scale"] * 1.0001))
    assert slightly == {"deep: formulas"}
    assert failed(lambda m: m["model"].update(weights_hash="0" * 32)) == {"deep: weights"}


def test_results_do_not_depend_on_batch_size_neighbours_or_order(
    tmp_path: Path, capture_tiny: Callable, sample_lines: list[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    forward, backward = tmp_path / "a" / "lines.txt", tmp_path / "b" / "lines.txt"
    forward.write_text("\n".join(sample_lines), encoding="utf-8")
    backward.write_text("\n".join(reversed(sample_lines)), encoding="utf-8")
    one = capture_tiny(tmp_path / "runs", "one", text=forward, batch_tokens=1)
    many = capture_tiny(tmp_path / "runs", "many", text=backward, batch_tokens=5000)
    assert sorted(one.tokens.example_id) == sorted(many.tokens.example_id)
    for row in one.tokens.itertuples():
        other = many.tokens[many.tokens.example_id == row.example_id].iloc[0]
        assert list(row.input_ids) == list(other.input_ids) and list(row.pred_ids) == list(other.pred_ids)
        np.testing.assert_allclose(row.losses, other.losses, rtol=0, atol=1e-5)
        # Equal up to a rounding that falls the other way in float16.
        np.testing.assert_allclose(
            one.hidden(row.example_id).astype(np.float32), many.hidden(row.example_id), rtol=2e-3, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_models(
    tmp_path: Path, load_tiny: Callable, capture_tiny: Callable, kind: str, dtype: str
) -> None:
    store = capture_tiny(tmp_path / "runs", loaded=load_tiny(kind, dtype=dtype))
    assert {s.dtype for s in store.meta.sites} == {{"bfloat16": "BF16", "float16": "F16"}[dtype]}
    assert all(p is not False for p in verdicts(store.path).values())
    assert all(c.passed for c in recheck(store.path)), list(recheck(store.path))


def test_chunks_are_sequences_of_one_example(tmp_path: Path, capture_tiny: Callable) -> None:
    store = capture_tiny(tmp_path / "runs", max_len=16, chunk=True)
    assert all(p is not False for p in verdicts(store.path).values())
    row = store.tokens[store.tokens.seq == 1].iloc[0]
    first, second = (store.encodings(row.example_id, seq) for seq in (0, 1))
    assert len(first["input_ids"]) == 16
    assert second["offset_mapping"][0][0] == first["offset_mapping"][-1][1]
    assert store.hidden(row.example_id, seq=1).shape[1] == len(second["input_ids"])
    assert store.meta.counts.truncated == 0


def test_truncated_texts_say_so(tmp_path: Path, capture_tiny: Callable) -> None:
    store = capture_tiny(tmp_path / "runs", max_len=16)
    cut = store.query(
        "SELECT count(*) FILTER (truncated), count(*) FILTER (truncated AND n_tokens <> 16) FROM examples"
    ).fetchone()
    assert cut[0] == store.meta.counts.truncated > 0
    assert cut[1] == 0


def test_the_models_window_cuts_where_no_limit_is_given(tmp_path: Path, capture_tiny: Callable) -> None:
    path = tmp_path / "long.txt"
    path.write_text("the lamp and the sea " * 100)
    store = capture_tiny(tmp_path / "runs", text=path)
    assert store.meta.counts.tokens == store.meta.model.window == 128
    with pytest.raises(UsageError, match="more than .* was made for: 128 tokens"):
        capture_tiny(tmp_path / "runs", "more", text=path, max_len=129)


def test_texts_without_a_next_token_are_kept_beside_others_and_refused_alone(
    tmp_path: Path, capture_tiny: Callable
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("a\nthe lamp\n")
    store = capture_tiny(tmp_path / "runs", text=path)
    assert store.meta.counts.examples == 2 and store.meta.counts.predictions == store.meta.counts.tokens - 2
    assert all(p is not False for p in verdicts(store.path).values())
    path.write_text("a\nb\n")
    with pytest.raises(UsageError, match="no text has a second token"):
        capture_tiny(tmp_path / "runs", "bare", text=path)
    assert staged_runs(tmp_path / "runs") == []


def test_without_tensors_there_are_diagnostics_alone(tmp_path: Path, capture_tiny: Callable) -> None:
    store = capture_tiny(tmp_path / "runs", capture="none")
    assert not list(store.path.rglob("*.safetensors"))
    assert verdicts(store.path)["tensor checksums"] is None
    assert all(p is not False for p in verdicts(store.path).values())
    with pytest.raises(UsageError, match="did not store resid.post_mlp; it has no tensors"):
        store.resid(store.tokens.example_id[0], layer=0)


def test_a_tensor_with_values_too_large_for_float16_is_promoted_and_the_manifest_says_so(
    tmp_path: Path, make_llama: Callable, tokenizer, capture_tiny: Callable
) -> None:
    model = make_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e8)
    loaded = loading.Loaded(model, tokenizer, "loud", None, "cpu", False)
    store = capture_tiny(tmp_path / "runs", loaded=loaded)
    promoted = {name for s in store.meta.sites for name in s.promoted}
    assert "resid.post_mlp.L01" in promoted and "resid.post_mlp.L00" not in promoted
    assert all(p is not False for p in verdicts(store.path).values())
    eid = store.tokens.example_id[0]
    ids = torch.from_numpy(store.encodings(eid)["input_ids"].astype(np.int64))[None]
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
    assert np.abs(hidden.numpy()).max() > 65504
    assert store.resid(eid, layer=1).dtype == np.float32
    np.testing.assert_allclose(store.resid(eid, layer=1), hidden.numpy(), rtol=1e-4)


def test_shards_before_the_first_value_too_large_stay_as_they_are_and_every_reader_takes_both(
    tmp_path: Path, make_llama: Callable, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the text with a `~` has values beyond float16's; the texts before it are on the disk by then."""
    model = make_llama()
    (loud,) = tokenizer("~")["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[loud] *= 1e7
    loaded, text, root = (
        loading.Loaded(model, tokenizer, "loud", None, "cpu", False),
        tmp_path / "t.txt",
        tmp_path / "runs",
    )
    text.write_text("The lamp on the stairs.\nA boat.\nThe ~ sea.\nThe keeper.")
    monkeypatch.setattr(job_batches, "_SHARD_TOKENS", 1)
    options = next_token.Options(
        capture="hidden,resid,qkv,attn", attn="stored", batch_tokens=1, index="resid.post_mlp@1"
    )
    next_token.run(loaded, open_text(str(text), "text"), options, root=root, run_id="r")
    store = TraceStore(run_dir(root, "r"))
    assert {c.name: c.detail for c in validate(store.path) if c.passed is False} == {}
    key = store.key("resid.post_mlp", 1)
    assert "resid.post_mlp.L01" in {name for s in store.meta.sites for name in s.promoted}
    quiet, _, with_loud, last = store.tokens.example_id
    assert [store.dtype(key, e) for e in (quiet, with_loud, last)] == ["F16", "F32", "F32"]
    assert [store.rows(key, e).dtype for e in (quiet, with_loud, last)] == [np.float16, np.float32, np.float32]
    assert store.query("SELECT DISTINCT dtype FROM tensors WHERE tensor = 'resid.post_mlp.L01' ORDER BY 1").fetchall() == [
        ("F16",), ("F32",),
    ]  # fmt: skip
    with Warehouse(root) as wh:
        query = "SELECT run_id, example_id, seq, pos, e.idx FROM tokens JOIN examples AS e USING (run_id, example_id) ORDER BY idx, pos"
        vectors, _ = wh.matrix(query, layer=1)
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, np.concatenate([store.rows(key, e) for e in store.tokens.example_id]))
        (batch,) = wh.batches(layer=1)
        assert np.array_equal(batch, np.concatenate([store.rows(key, s.example_id) for s in store.slices(key)]))
        (indexed,) = all_tables(root)
        assert indexed.info.dtype == "float32" and indexed.info.runs["r"].rows == len(vectors)


def test_the_same_capture_has_the_same_name_and_a_taken_name_is_refused(
    tmp_path: Path, load_tiny: Callable, sample_lines: list[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(sample_lines[0])
    source, loaded, root = open_text(str(path), "text"), load_tiny(), tmp_path / "runs"
    first = next_token.run(loaded, source, next_token.Options(), root=root)
    assert first.run_id.startswith("llama-a-")
    with pytest.raises(UsageError, match="already exists"):
        next_token.run(loaded, source, next_token.Options(), root=root)
    other = next_token.run(loaded, source, next_token.Options(top_k=3), root=root)
    assert other.run_id != first.run_id
    with Warehouse(root) as wh:
        assert wh.sql("SELECT count(*) FROM runs").fetchone() == (2,)


def test_attention_that_cannot_be_derived_is_stored(
    tmp_path: Path, load_tiny: Callable, capture_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_tiny()
    from capture.model import tolerances

    with monkeypatch.context() as patched:
        patched.setitem(tolerances._FORMULA_COMPUTED, torch.float32, 0.0)  # as if the probe had found a difference
        patched.setattr(
            "capture.jobs.prepare._check_eager_attention", lambda loaded, anatomy: None
        )  # which compares eager attention with the same tolerance
        store = capture_tiny(tmp_path / "runs", loaded=loaded, capture="attn", store_dtype="float32")
        qkv = capture_tiny(tmp_path / "runs", "qkv", loaded=loaded, capture="qkv")
    assert store.meta.model.attn_implementation == "eager" and loaded.model.config._attn_implementation == "sdpa"
    assert set(store.arrays().site) == {"attn"} and list(store.arrays().origin) == ["stored"]
    assert all(p is not False for p in verdicts(store.path).values())
    eid = store.tokens.example_id[0]
    ids = torch.from_numpy(store.encodings(eid)["input_ids"].astype(np.int64))[None]
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = loaded.model(input_ids=ids, output_attentions=True).attentions
    loaded.model.set_attn_implementation("sdpa")
    for i, attention in enumerate(expected):
        # The capture ran it in a padded batch: sums of float32 in another order.
        np.testing.assert_allclose(store.attn(eid, i), attention[0].numpy(), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(store.attn(eid, i, head=2), store.attn(eid, i)[2])
    assert qkv.qkv(eid, "q", layer=0, head=0).ndim == 2
    with pytest.raises(UsageError, match="does not follow from q and k"):
        qkv.attn(eid, layer=0)


def test_going_on_with_other_data_or_options_is_refused(
    tmp_path: Path, load_tiny: Callable, sample_lines: list[str]
) -> None:
    path, root = tmp_path / "a.txt", tmp_path / "runs"
    path.write_text("\n".join(sample_lines), encoding="utf-8")
    options = next_token.Options(capture="hidden", batch_tokens=64, shard_mb=1)

    def interrupted(progress: job.Progress) -> None:
        if progress.tokens > 500:
            raise KeyboardInterrupt

    def go(report=lambda p: None, options=options) -> TraceStore:
        next_token.run(load_tiny(), open_text(str(path), "text"), options, root=root, run_id="r", report=report)
        return TraceStore(run_dir(root, "r"))

    job_batches._SHARD_TOKENS, before = 200, job_batches._SHARD_TOKENS
    try:
        with pytest.raises(KeyboardInterrupt):
            go(interrupted)
        assert staged_runs(root) == ["r"]
        with pytest.raises(UsageError, match=r"differs in options.top_k \(5 then, 7 now\)"):
            go(options=next_token.Options(capture="hidden", batch_tokens=64, shard_mb=1, top_k=7))
        path.write_text("\n".join(["something else", *sample_lines[1:]]), encoding="utf-8")
        with pytest.raises(UsageError, match="The data is not what it was"):
            go()
        path.write_text("\n".join(sample_lines), encoding="utf-8")
        seen: list[int] = []
        store = go(lambda p: seen.append(p.resumed_tokens))
        assert max(seen) > 0, "it went on, it did not start over"
        assert all(p is not False for p in verdicts(store.path).values())
    finally:
        job_batches._SHARD_TOKENS = before


def test_a_token_that_the_model_rules_out_has_an_infinite_loss_and_the_run_says_so(
    tmp_path: Path, make_llama: Callable, tokenizer, capture_tiny: Callable, traces: Callable
) -> None:
    """As models do with the rows that fill up their vocabulary; here one comes that is among them."""
    model = make_llama()
    out = tokenizer(" lamp")["input_ids"][-1]
    head = torch.nn.Linear(32, len(tokenizer))
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        head.bias[[out, 5, 7]] = -torch.inf
    model.lm_head = head
    loaded = loading.Loaded(model, tokenizer, "masked", None, "cpu", False)
    (tmp_path / "t.txt").write_text("The lamp burned.\nA boat.\n")
    root = tmp_path / "runs"
    store = capture_tiny(root, "r", loaded=loaded, text=tmp_path / "t.txt", top_k=1000, capture="hidden")
    losses = store.query("SELECT true_id, loss, true_prob, true_rank, entropy, topk_probs FROM next_token").fetchall()
    assert {true_id for true_id, loss, *_ in losses if loss == math.inf} == {out}
    for true_id, loss, prob, rank, entropy, probs in losses:
        assert (prob, rank) == (0, 398) if true_id == out else math.isfinite(loss) and rank < 398
        assert 0 < entropy < math.log(398) and len(probs) == len(tokenizer) and probs[-3:] == [0, 0, 0]
    assert store.meta.mean_loss is store.meta.perplexity is None
    assert {c.name: c.detail for c in validate(store.path) if c.passed is False} == {}
    assert "infinite: tokens came that the model rules out" in traces("runs", "show", "r", "-w", root).out
    made = lens_run.run(loaded, store.path, lens_run.Options(3), root=root, run_id="lens")
    assert made.counts.rows["logit_lens"] == 4 * store.meta.counts.tokens
    looked = TraceStore(run_dir(root, "lens")).query("SELECT * FROM logit_lens").df()
    assert np.isfinite(looked.kl_to_final).all() and np.isfinite(looked.entropy).all()
    assert set(looked.actual_rank[looked.actual_id == out]) == {398}


@pytest.mark.parametrize("width", [390, 408])
def test_a_head_of_another_width_than_the_embedding(
    tmp_path: Path, make_llama: Callable, tokenizer, capture_tiny: Callable, width: int
) -> None:
    """What it has no logit for is named where it comes; what it has more is predicted like all else."""
    model = make_llama(tie_word_embeddings=False)
    model.lm_head = torch.nn.Linear(32, width, bias=False)
    loaded = loading.Loaded(model, tokenizer, "other", None, "cpu", False)
    (tmp_path / "t.txt").write_text(tokenizer.decode([60, 61, 395, 62]))
    if width == 390:
        with pytest.raises(
            TracesError, match="LlamaForCausalLM has no logit for token 395: its head predicts 390 tokens"
        ):
            capture_tiny(tmp_path / "runs", loaded=loaded, text=tmp_path / "t.txt")
        assert staged_runs(tmp_path / "runs") == []
        return
    store = capture_tiny(tmp_path / "runs", loaded=loaded, text=tmp_path / "t.txt", top_k=1000)
    assert {len(ids) for (ids,) in store.query("SELECT topk_ids FROM next_token").fetchall()} == {width}
    assert {c.name: c.detail for c in validate(store.path) if c.passed is False} == {}
