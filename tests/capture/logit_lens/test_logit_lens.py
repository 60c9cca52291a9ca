"""The logit lens against transformers' own modules, against the run that it reads, and against itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
import torch
import zoo
from samples import DATA

from capture.data.registry import open_data
from capture.data.text import one_text, open_text
from capture.jobs import encode, generate, mcq_prompt, next_token
from capture.logit_lens import layer_reader, lens_run, positions
from capture.model.examine import examine
from capture.model.final_norm import FinalNorm
from capture.model.forward_trace import probe_tokens
from capture.model.loading import Loaded, load
from capture.verification.replay_check import recheck
from warehouse import TraceStore
from warehouse.errors import CorruptRunError, RunExistsError, TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

TEXTS = "The harbour was quiet.\nA lamp burned in the tower, and the keeper slept.\nFog.\n"


def made(root: Path, folder: Path, loaded: Loaded, run_id: str = "lens", **options: Any) -> pd.DataFrame:
    """The rows of a lens of the run in `folder`, in their order on the disk."""
    lens_run.run(loaded, folder, lens_run.Options(**options), root=root, run_id=run_id)
    return TraceStore(run_dir(root, run_id)).query("SELECT * FROM logit_lens").df()


def expected(logits: torch.Tensor, final: torch.Tensor, next_ids: list[int], k: int) -> Iterator[dict[str, Any]]:
    """Rows of (T, V) logits, in float64."""
    log_p, log_f = torch.log_softmax(logits.double(), -1), torch.log_softmax(final.double(), -1)
    for t in range(len(logits)):
        actual = next_ids[t] if t < len(next_ids) else None
        yield {
            "topk_ids": log_p[t].sort(descending=True, stable=True).indices[:k].tolist(),
            "topk_probs": log_p[t].exp().sort(descending=True).values[:k].numpy(),
            "rank": None if actual is None else int((logits[t] > logits[t, actual]).sum()) + 1,
            "prob": None if actual is None else float(log_p[t, actual].exp()),
            "entropy": float(-(log_p[t].exp() * log_p[t]).sum()),
            "kl": float((log_f[t].exp() * (log_f[t] - log_p[t])).sum()),
        }


def check(rows: pd.DataFrame, wanted: list[dict[str, Any]], exact: bool) -> None:
    """Against float64: the float32 sums over the vocabulary end within 1e-5. Ids and ranks are compared where the states are
    the model's own bits; another batch shape rounds them otherwise, and may swap what all but ties."""
    assert len(rows) == len(wanted)
    for row, want in zip(rows.itertuples(), wanted, strict=True):
        np.testing.assert_allclose(row.topk_probs, want["topk_probs"], rtol=1e-4, atol=1e-7)
        assert row.entropy == pytest.approx(want["entropy"], abs=1e-4)
        assert row.kl_to_final == pytest.approx(want["kl"], abs=1e-4)
        if want["rank"] is None:
            assert pd.isna(row.actual_rank) and pd.isna(row.actual_id) and pd.isna(row.actual_prob)
            assert pd.isna(row.actual_token)
            continue
        assert row.actual_prob == pytest.approx(want["prob"], rel=1e-4)
        if exact:
            assert row.actual_rank == want["rank"]
            assert list(row.topk_ids) == want["topk_ids"]


FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "granite", "olmo2", "bart", "t5", "mamba", "rwkv"]
"""Of which GPT-NeoX adds attention and MLP at once, Gemma 2 caps its logits, Granite scales them, OLMo 2 norms after its sublayers,
BART after adding, and then never again, and T5 scales what its head reads."""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_norm_is_found_and_makes_the_last_hidden_state(family: str) -> None:
    """Bit for bit, on tokens that it was not proven on."""
    model = zoo.build(family)
    anatomy = examine(model)
    norm = FinalNorm(anatomy)
    outputs: list[torch.Tensor] = []
    hook = anatomy.main.layers[-1].block.register_forward_hook(
        lambda _m, _a, y: outputs.append(y if isinstance(y, torch.Tensor) else y[0])
    )
    with torch.no_grad():
        last = anatomy.body(probe_tokens(anatomy.body, {"dec": 19, "enc": 9})).last["dec"][0]
        hook.remove()
        stream = outputs[-1] if outputs[-1].ndim == 2 else outputs[-1][0]
        assert torch.equal(norm(stream), last)
        assert torch.equal(norm(stream[4:6]), last[4:6])
        assert torch.equal(stream, last) == (not anatomy.main.final_norm)


def test_a_norm_that_reads_other_tokens_is_not_taken_for_one() -> None:
    model = zoo.build("llama")

    class Centred(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(1, keepdim=True)

    model.model.norm = Centred()
    with pytest.raises(UsageError, match=r"final norm \(Centred\) does not follow from a token's own state"):
        FinalNorm(examine(model))


def test_a_last_state_that_no_module_makes_is_refused() -> None:
    model = zoo.build("llama")
    model.model.norm.register_forward_hook(lambda _m, _a, y: y * 1.5)
    before = model.model.forward

    def forward(*args: Any, **options: Any) -> Any:
        out = before(*args, **options)
        out.last_hidden_state = out.last_hidden_state + 1.0
        return out

    model.model.forward = forward
    with pytest.raises(UsageError, match="no modules were found that turn its last block's output into"):
        FinalNorm(examine(model))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "gemma2", "granite", "olmo2"])
def test_every_layer_is_the_head_of_the_norm_of_its_state(
    tmp_path: Path, capture_tiny: Callable, tokenizer: Any, kind: str
) -> None:
    """`lm_head(norm(hidden_states[l + 1]))`, with whatever the model does to logits afterwards, and at the last layer its logits."""
    folder = tmp_path / "model"
    zoo.build(kind).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = load(str(folder), device="cpu")
    text = tmp_path / "texts.txt"
    text.write_text(TEXTS, encoding="utf-8")
    root = tmp_path / "runs"
    store = capture_tiny(root, "a", loaded=loaded, text=text, capture="hidden", store_dtype="float32", batch_tokens=1)
    rows = made(root, run_dir(root, "a"), loaded, top_k=7)
    model = loaded.model
    n = model.config.num_hidden_layers
    norm = FinalNorm(examine(model))
    for (example_id,), found in rows.groupby(["example_id"]):
        ids = torch.tensor(store.encodings(str(example_id))["input_ids"].astype(np.int64))
        with torch.no_grad():
            out = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], output_hidden_states=True)
            states = [norm(h[0]) for h in out.hidden_states[:-1]] + [out.hidden_states[-1][0]]
        for layer, state in zip([None, *range(n)], states, strict=True):
            with torch.no_grad():
                logits = _unembedded(model, state)
            if layer == n - 1:
                assert torch.equal(logits, out.logits[0])
            mine = found[found.layer.isna() if layer is None else found.layer == layer]
            check(mine, list(expected(logits, out.logits[0], ids[1:].tolist(), 7)), exact=True)
    assert len(rows) == (n + 1) * store.meta.counts.tokens


def _unembedded(model: Any, state: torch.Tensor) -> torch.Tensor:
    """The model's own steps after its last hidden state, written down for these families."""
    logits = model.get_output_embeddings()(state)
    if cap := getattr(model.config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits / getattr(model.config, "logits_scaling", 1.0)


def test_the_last_layer_is_what_the_run_says_of_its_predictions(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable
) -> None:
    """GPT-2's states are stored in float32, and only the batches of rows differ, which float32 products round by. Llama's are in
    float16, whose rounding moves a probability by 1e-3 of it."""
    for kind, tolerance in (("gpt2", 1e-6), ("llama", 2e-3)):
        folder = run_dir(tiny_root, kind)
        store, loaded = TraceStore(folder), load_tiny(kind)
        rows = made(tmp_path, folder, loaded, kind, top_k=5, layers="last")
        both = rows.merge(store.query("SELECT * FROM next_token").df(), on=["example_id", "seq", "pos"])
        assert len(both) == store.meta.counts.predictions
        assert (both.actual_id == both.true_id).all() and (both.actual_token == both.true_token).all()
        for mine, theirs in (("actual_prob", "true_prob"), ("entropy_x", "entropy_y")):
            np.testing.assert_allclose(both[mine], both[theirs], rtol=tolerance, atol=0)
        if kind == "gpt2":
            assert (both.actual_rank == both.true_rank).all()
            for column in ("topk_ids", "topk_tokens"):
                assert all(map(np.array_equal, both[f"{column}_x"], both[f"{column}_y"])), column
        assert (rows.kl_to_final == 0).all() and set(rows.layer) == {2}


def test_without_the_last_hidden_state_the_last_layer_is_normed(
    tmp_path: Path, capture_tiny: Callable, load_tiny: Callable
) -> None:
    """`resid` alone stores no `hidden`; the norm of the last block's output is it, bit for bit."""
    loaded = load_tiny("llama")
    for run, capture in (("with", "hidden"), ("without", "resid")):
        capture_tiny(tmp_path, run, capture=capture, store_dtype="float32", max_len=24)
    one, two = (
        made(tmp_path, run_dir(tmp_path, r), loaded, f"{r}-lens", top_k=3).drop(columns=["run_id", "source_run_id"])
        for r in ("with", "without")
    )
    pd.testing.assert_frame_equal(one, two)


def test_rows_are_sorted_and_sound(tmp_path: Path, tiny_root: Path, load_tiny: Callable) -> None:
    lens_run.run(load_tiny("llama"), run_dir(tiny_root, "llama"), lens_run.Options(), root=tmp_path, run_id="lens")
    store = TraceStore(run_dir(tmp_path, "lens"))
    assert store.meta.kind == "lens" and store.meta.parents == ["llama"]
    assert store.meta.options == asdict(lens_run.Options())
    rows = store.query("SELECT * FROM logit_lens").df()
    tokens = TraceStore(run_dir(tiny_root, "llama")).meta.counts.tokens
    assert len(rows) == 4 * tokens and set(rows.source_run_id) == {"llama"}
    depth = rows.layer.fillna(3)  # NULL comes last
    keys = list(zip(rows.example_id, rows.seq, rows.pos, depth, strict=True))
    assert keys == sorted(keys)
    for probs in rows.topk_probs:
        assert len(probs) == 50 and (np.diff(probs) <= 0).all()
    assert (rows.kl_to_final >= 0).all()
    assert (rows.kl_to_final[rows.layer == 2] == 0).all() and (rows.kl_to_final[rows.layer != 2] > 0).any()
    assert {c.name: c.passed for c in validate(run_dir(tmp_path, "lens"))}["logit_lens"]
    assert all(c.passed is not False for c in validate(run_dir(tmp_path, "lens")))


@pytest.mark.parametrize(
    ("layers", "there"),
    [("0,2", {0, 2}), ("mid", {1}), ("embed", {None}), ("last,embed,0", {None, 0, 2}), ("all", {None, 0, 1, 2})],
)
def test_layers_are_those_asked_for(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable, layers: str, there: set[int | None]
) -> None:
    """And what they say does not depend on which others are looked at."""
    loaded, folder = load_tiny("llama"), run_dir(tiny_root, "llama")
    lens_run.run(loaded, folder, lens_run.Options(3, layers, "0,5"), root=tmp_path, run_id="some")
    lens_run.run(loaded, folder, lens_run.Options(3, "all", "0,5"), root=tmp_path, run_id="all")
    some, every = (TraceStore(run_dir(tmp_path, r)).query("SELECT * FROM logit_lens ORDER BY ALL").fetchall() for r in ("some", "all"))  # fmt: skip
    names = TraceStore(run_dir(tmp_path, "all")).query("SELECT * FROM logit_lens").columns
    layer, pos = names.index("layer"), names.index("pos")
    assert {row[layer] for row in some} == there and {row[pos] for row in some} == {0, 5}
    assert [row[:-1] for row in some] == [row[:-1] for row in every if row[layer] in there]


def test_positions_are_those_asked_for(tmp_path: Path, tiny_root: Path, load_tiny: Callable) -> None:
    loaded, folder = load_tiny("llama"), run_dir(tiny_root, "llama")
    store = TraceStore(folder)
    forecast = lens_run.forecast(folder, lens_run.Options(positions="last"))
    assert (forecast.positions, forecast.rows) == (store.meta.counts.sequences, 4 * store.meta.counts.sequences)
    last = made(tmp_path, folder, loaded, positions="last", layers="last")
    assert len(last) == store.meta.counts.sequences and last.actual_id.isna().all()
    ends = dict(store.query("SELECT example_id, max(pos) FROM tokens GROUP BY 1").fetchall())
    assert dict(zip(last.example_id, last.pos, strict=True)) == ends


@pytest.mark.slow
def test_slices_do_not_change_what_is_seen(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few positions and pieces go at a time: sums in another order, to 1e-5."""
    loaded, folder = load_tiny("gpt2"), run_dir(tiny_root, "gpt2")
    whole = made(tmp_path / "a", folder, loaded, top_k=4)
    monkeypatch.setattr(layer_reader, "_SLICE_BYTES", 7 * 400 * 4)
    monkeypatch.setattr(layer_reader, "_PIECE_BYTES", 3 * 400 * 4)
    monkeypatch.setattr(positions, "_SHARD_ROWS", 100)
    cut = made(tmp_path / "b", folder, loaded, top_k=4)
    keys = ["example_id", "seq", "pos", "layer", "actual_id", "actual_token"]
    pd.testing.assert_frame_equal(whole[keys], cut[keys])
    for column in ("actual_prob", "entropy", "kl_to_final"):
        np.testing.assert_allclose(whole[column], cut[column], rtol=1e-4, atol=1e-5)
    assert (whole.actual_rank.fillna(0) == cut.actual_rank.fillna(0)).mean() > 0.99


def test_an_interrupted_lens_goes_on_to_the_same_end(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "_SHARD_ROWS", 300)
    loaded, folder, options = load_tiny("llama"), run_dir(tiny_root, "llama"), lens_run.Options(top_k=5)

    def interrupted(counted: Any) -> None:
        if counted.begun >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lens_run.run(loaded, folder, options, root=tmp_path, run_id="b", report=interrupted)
    assert not run_dir(tmp_path, "b").exists()
    with pytest.raises(UsageError, match="differs in options.top_k"):
        lens_run.run(loaded, folder, lens_run.Options(top_k=6), root=tmp_path, run_id="b")
    seen: list[int] = []
    lens_run.run(loaded, folder, options, root=tmp_path, run_id="b", report=lambda c: seen.append(c.resumed_tokens))
    assert max(seen) > 0
    lens_run.run(loaded, folder, options, root=tmp_path, run_id="c")
    one, two = (run_dir(tmp_path, r) / "logit_lens" / "00000.parquet" for r in "bc")
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(RunExistsError):
        lens_run.run(loaded, folder, options, root=tmp_path, run_id="c")


def test_of_a_run_that_was_captured_without_the_head(
    tmp_path: Path, tiny_folder: Callable, load_tiny: Callable
) -> None:
    """Its weights are those of the body; the lens brings the head."""
    bare = load(str(tiny_folder("llama")), head="none", device="cpu")
    encode.run(bare, one_text("The lamp burned."), encode.Options(capture="hidden"), root=tmp_path, run_id="a")
    rows = made(tmp_path, run_dir(tmp_path, "a"), load_tiny("llama"), top_k=2)
    assert len(rows) == 4 * TraceStore(run_dir(tmp_path, "a")).meta.counts.tokens


def test_of_responses(tmp_path: Path, load_tiny: Callable) -> None:
    """--positions response: what the model generated, each token's row at its own position."""
    loaded = load_tiny("gpt2")
    options = generate.Options(capture="hidden", max_new_tokens=6, store_dtype="float32")
    generate.run(loaded, one_text("The lamp burned."), options, root=tmp_path, run_id="a")
    store = TraceStore(run_dir(tmp_path, "a"))
    rows = made(tmp_path, run_dir(tmp_path, "a"), loaded, layers="last", positions="response")
    marked = store.query("SELECT pos FROM tokens WHERE is_response ORDER BY pos").fetchall()
    assert [(p,) for p in rows.pos] == marked and len(marked) <= 6
    both = rows.merge(store.query("SELECT * FROM next_token").df(), on=["example_id", "seq", "pos"])
    assert len(both) == len(rows) - 1
    np.testing.assert_allclose(both.actual_prob, both.true_prob, rtol=1e-5)


def test_of_multiple_choice_prompts(tmp_path: Path, load_tiny: Callable) -> None:
    """Where the tensors are of every choice's sequence, each is looked at."""
    source = open_data("csqa", origin=str(DATA / "questions.jsonl"))
    options = mcq_prompt.Options(capture="hidden", score="text", limit=2)
    mcq_prompt.run(load_tiny("gpt2"), source, options, root=tmp_path, run_id="a")
    rows = made(tmp_path, run_dir(tmp_path, "a"), load_tiny("gpt2"), top_k=1, layers="mid")
    tokens = TraceStore(run_dir(tmp_path, "a")).query("SELECT example_id, seq, pos FROM tokens ORDER BY ALL").fetchall()
    assert list(zip(rows.example_id, rows.seq, rows.pos, strict=True)) == tokens and rows.seq.nunique() > 1


def test_of_a_decoder_that_has_an_encoder(tmp_path: Path, tokenizer: Any) -> None:
    """The decoder's side, whose tokens are the target's."""
    folder, root = tmp_path / "model", tmp_path / "runs"
    zoo.build("t5").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = load(str(folder), device="cpu")
    text = tmp_path / "pairs.jsonl"
    text.write_text(json.dumps({"text": "The lamp burned.", "target": "A light in the fog."}), encoding="utf-8")
    options = next_token.Options(capture="hidden", target_column="target", store_dtype="float32")
    next_token.run(loaded, open_text(str(text), "text"), options, root=root, run_id="a")
    rows = made(root, run_dir(root, "a"), loaded, layers="last")
    both = rows.merge(TraceStore(run_dir(root, "a")).query("SELECT * FROM next_token").df(), on=["example_id", "pos"])
    assert len(both) == len(rows) - 1 > 2
    np.testing.assert_allclose(both.actual_prob, both.true_prob, rtol=1e-6)
    np.testing.assert_array_equal(both.actual_rank, both.true_rank)


def test_what_cannot_be_looked_through_says_so(
    tmp_path: Path, tiny_root: Path, capture_tiny: Callable, load_tiny: Callable, make_llama: Callable, tokenizer: Any
) -> None:
    folder = run_dir(tiny_root, "llama")
    for options, told in (
        (lens_run.Options(layers="3"), "3 is not a layer; .* layers 0 to 2"),
        (lens_run.Options(layers=""), "nothing is not a layer"),
        (lens_run.Options(positions="-1"), "write all, last, response, or numbers"),
        (lens_run.Options(positions="first"), "write all, last, response, or numbers"),
        (lens_run.Options(positions="999"), "no tokens at --positions 999"),
        (lens_run.Options(positions="response"), "generated none of its tokens"),
    ):
        with pytest.raises(UsageError, match=told):
            lens_run.forecast(folder, options)
    capture_tiny(tmp_path, "bare", capture="attn_out", max_len=16)
    with pytest.raises(UsageError, match=r"has not stored resid\.\w+, .* traces capture next-token … --capture hidden"):
        lens_run.forecast(run_dir(tmp_path, "bare"), lens_run.Options())
    synthetic.alter(run_dir(tmp_path, "bare") / "run.json", lambda m: m.update(kind="trait-responses"))
    with pytest.raises(UsageError, match="again: traces trait respond … --capture hidden"):
        lens_run.forecast(run_dir(tmp_path, "bare"), lens_run.Options())
    lens_run.run(load_tiny("llama"), folder, lens_run.Options(1, "last", "0"), root=tmp_path, run_id="lens")
    with pytest.raises(UsageError, match="of kind lens, and holds no states .* made from, llama"):
        lens_run.forecast(run_dir(tmp_path, "lens"), lens_run.Options())
    other = tmp_path / "other"
    make_llama(seed=9).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(UsageError, match="other weights than those that run 'llama' was captured with"):
        lens_run.run(load(str(other), device="cpu"), folder, lens_run.Options(), root=tmp_path, run_id="x")


def test_a_layer_of_which_the_head_makes_no_numbers_is_named(
    tmp_path: Path, make_llama: Callable, tokenizer: Any, capture_tiny: Callable
) -> None:
    """A norm that divides by the length of a state, and a token whose embedding has none."""
    model = make_llama()
    (empty,) = tokenizer("~")["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[empty] = 0
    model.model.norm.variance_epsilon = 0.0
    loaded, text = Loaded(model, tokenizer, "empty", None, "cpu", False), tmp_path / "t.txt"
    text.write_text("The ~ sea.")
    capture_tiny(tmp_path, "a", loaded=loaded, text=text, capture="hidden")
    told = (
        "what the model's head makes of the embedding is NaN or infinity in float32; leave that layer out of --layers"
    )
    with pytest.raises(TracesError, match=told):
        made(tmp_path, run_dir(tmp_path, "a"), loaded)
    assert np.isfinite(made(tmp_path, run_dir(tmp_path, "a"), loaded, layers="0,1,2").kl_to_final).all()


def test_an_encoder_and_a_model_without_a_head_are_refused(tmp_path: Path, tokenizer: Any, load_tiny: Callable) -> None:
    folder = tmp_path / "bert"
    zoo.build("bert").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    bert = load(str(folder), head="none", device="cpu")
    encode.run(bert, one_text("The lamp burned."), encode.Options(capture="hidden"), root=tmp_path, run_id="bert")
    with pytest.raises(UsageError, match="is of an encoder .*does not predict next tokens"):
        lens_run.run(bert, run_dir(tmp_path, "bert"), lens_run.Options(), root=tmp_path, run_id="x")
    bare = load(load_tiny("llama").name, head="none", device="cpu")
    encode.run(bare, one_text("The lamp burned."), encode.Options(capture="hidden"), root=tmp_path, run_id="bare")
    with pytest.raises(TracesError, match="it has no language-model head"):
        lens_run.run(bare, run_dir(tmp_path, "bare"), lens_run.Options(), root=tmp_path, run_id="x")


@pytest.mark.slow
def test_the_real_model_on_a_few_sentences(tmp_path: Path, smollm2: Loaded, capture_tiny: Callable) -> None:
    """In float32 its last layer is its own, to 1e-6; "Paris" comes first at its end, and not before."""
    text = tmp_path / "texts.txt"
    text.write_text("The capital of France is Paris.\nTwo and two make four.\n", encoding="utf-8")
    store = capture_tiny(tmp_path, "a", loaded=smollm2, text=text, capture="hidden", store_dtype="float32")
    rows = made(tmp_path, run_dir(tmp_path, "a"), smollm2, layers="embed,0,mid,last")
    own = store.query("SELECT * FROM next_token").df()
    both = rows[rows.layer == 29].merge(own, on=["example_id", "seq", "pos"])
    assert len(both) == len(own)
    assert (both.actual_rank == both.true_rank).all()
    np.testing.assert_allclose(both.actual_prob, both.true_prob, rtol=0, atol=1e-6)
    np.testing.assert_allclose(both.entropy_x, both.entropy_y, rtol=1e-6, atol=1e-5)
    with torch.no_grad():
        for (example_id,), found in rows.groupby(["example_id"]):
            ids = torch.tensor(store.encodings(str(example_id))["input_ids"].astype(np.int64))
            out = smollm2.model(input_ids=ids[None], output_hidden_states=True)
            for layer in (0, 15):
                logits = smollm2.model.lm_head(smollm2.model.model.norm(out.hidden_states[layer + 1][0]))
                wanted = list(expected(logits, out.logits[0], ids[1:].tolist(), 50))
                for row, want in zip(found[found.layer == layer].itertuples(), wanted, strict=True):
                    # The capture read both texts in one padded batch: its states differ in the last bits, by 1e-5 of them.
                    np.testing.assert_allclose(row.topk_probs, want["topk_probs"], rtol=5e-3, atol=1e-6)
                    assert row.kl_to_final == pytest.approx(want["kl"], rel=2e-3)
    paris = rows[rows.actual_token == " Paris"]
    ranks = dict(zip(paris.layer.fillna(-1), paris.actual_rank, strict=True))
    assert ranks[29] == 1 and min(ranks[-1], ranks[0], ranks[15]) > 1


@pytest.mark.slow
def test_the_command(
    tmp_path: Path, tiny_folder: Callable, traces: Callable, load_tiny: Callable, capture_tiny: Callable
) -> None:
    root = tmp_path / "runs"
    capture_tiny(root, "a", "llama", capture="hidden", max_len=32)
    place = ("--warehouse", root)
    told = traces("lens", "a", "--dry-run", "--layers", "0,mid", *place)
    tokens = TraceStore(run_dir(root, "a")).meta.counts.tokens
    assert told.code == 0 and f"{tokens} positions × 2 layers = {2 * tokens:,} rows" in told.out.replace(",", "", 0)
    done = traces("lens", "a", "--top-k", 5, "--device", "cpu", *place)
    assert done.code == 0, done.err
    assert f"a-lens: {4 * tokens:,} rows" in done.out and "traces sql --query decision_depth --set run=a" in done.out
    for question in ("decision_depth", "lens_hit_at_k", "lens_ranks"):
        answer = traces("sql", "--query", question, "--set", "run=a", *place)
        assert answer.code == 0 and answer.out.strip(), answer.err
    again = traces("lens", "a", "--model", tmp_path / "nowhere", *place)  # before a model is looked for
    assert again.code == 2 and "already exists" in again.err
    elsewhere = traces("lens", "a", "--run", "b", "--model", tiny_folder("gpt2"), *place)
    assert elsewhere.code == 2 and "other weights" in elsewhere.err
    synthetic.alter(run_dir(root, "a") / "run.json", lambda m: m["model"].update(name="/gone/away"))
    gone = traces("lens", "a", "--run", "b", *place)
    assert gone.code == 2 and "lies elsewhere now: --model PLACE" in gone.err
    found = traces("lens", "a", "--run", "b", "--model", tiny_folder("llama"), "--positions", "last", *place)
    assert found.code == 0, found.err


@pytest.mark.parametrize("column", ["token_id", "pos"])
def test_a_run_whose_tokens_are_not_the_models_is_corrupt(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable, column: str
) -> None:
    folder = Path(shutil.copytree(run_dir(tiny_root, "llama"), run_dir(tmp_path, "llama")))
    path = folder / paths.table_file("tokens")
    rows = pq.read_table(path, partitioning=None)
    at = rows.schema.get_field_index(column)
    pq.write_table(rows.set_column(at, rows.schema.field(at), pa.array([10**6] * len(rows), pa.int32())), path)
    with pytest.raises(CorruptRunError, match="traces runs validate llama"):
        lens_run.run(load_tiny(), folder, lens_run.Options(1), root=tmp_path / "other", run_id="l")
    assert not (tmp_path / "other").exists()
    if column == "token_id":
        with pytest.raises(CorruptRunError, match="has a token with the id 1000000, and the model 400 rows"):
            list(recheck(folder))
