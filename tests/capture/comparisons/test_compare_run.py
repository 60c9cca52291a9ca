"""Comparisons against the two models' own logits, against a run compared with another of the same model, and on runs that don't fit."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from capture.comparisons import compare_run, predictions, shared_tokens
from capture.comparisons.options import Options
from capture.comparisons.run_pair import open_pair
from capture.comparisons.sample import draw_sample
from capture.data.text import one_text, open_text
from capture.jobs import encode, generate, next_token
from capture.model.loading import Loaded, load
from warehouse import TraceStore
from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

TEXTS = "The harbour was quiet.\nA lamp burned in the tower, and the keeper slept.\nFog.\n"


def perturbed(loaded: Loaded, size: float = 0.1, seed: int = 1) -> Loaded:
    """A copy of a model with noise on all weights, of this size relative to each weight's own."""
    model = deepcopy(loaded.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += size * weight.std() * torch.randn(weight.shape, generator=generator).to(weight.dtype)
    return Loaded(model, loaded.tokenizer, "perturbed", None, loaded.device, trust_remote_code=False)


def compare(
    root: Path, models: tuple[Loaded, Loaded], a: str = "a", b: str = "b", run_id: str = "c", *,
    report: Callable = lambda _: None, note: Callable = lambda _: None, **options: Any,
) -> TraceStore:  # fmt: skip
    compare_run.run(
        run_dir(root, a), run_dir(root, b), lambda side: models[side], Options(**options), root=root, run_id=run_id,
        report=report, note=note,
    )  # fmt: skip
    return TraceStore(run_dir(root, run_id))


def rows_of(store: TraceStore) -> pd.DataFrame:
    return store.query("SELECT * FROM comparisons").df()


@pytest.fixture(scope="module")
def models(load_tiny: Callable) -> tuple[Loaded, Loaded]:
    one = load_tiny()
    return one, perturbed(one)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable, models: tuple[Loaded, Loaded]) -> Path:
    """Runs `a` and `b` of a tiny model and its perturbed copy, and `again` of the first; float32."""
    home = tmp_path_factory.mktemp("compared")
    text = home / "texts.txt"
    text.write_text(TEXTS, encoding="utf-8")
    for run, model in (("a", models[0]), ("b", models[1]), ("again", models[0])):
        capture_tiny(home / "runs", run, loaded=model, text=text, store_dtype="float32", batch_tokens=1)
    return home / "runs"


@pytest.fixture
def runs(root: Path, tmp_path: Path) -> Path:
    """A copy of those, to write to."""
    return Path(shutil.copytree(root, tmp_path / "runs"))


def logits_of(model: Any, store: TraceStore, example_id: str) -> torch.Tensor:
    """(T, V) float64 of the model's own forward pass."""
    ids = torch.tensor(store.encodings(example_id)["input_ids"].astype(np.int64))[None]
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double()


def check_against_logits(
    rows: pd.DataFrame, stores: tuple[TraceStore, TraceStore], models: tuple[Loaded, Loaded]
) -> None:
    """KL, top-1 and losses by each model's own pass over each text.

    The heads multiply other numbers of rows at once than the pass does, and each shape has an order of its own: logits of
    up to 30 differ by some of their roundings, 1e-5, and so do log-probabilities.
    """
    for (example_id,), found in rows.groupby(["example_id"]):
        a, b = (logits_of(m.model, s, str(example_id)).log_softmax(-1) for m, s in zip(models, stores, strict=True))
        assert found.pos.tolist() == found.other_pos.tolist() == list(range(len(a)))
        np.testing.assert_allclose(found.kl, (a.exp() * (a - b)).sum(-1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.kl_reverse, (b.exp() * (b - a)).sum(-1), rtol=1e-4, atol=1e-6)
        ids = stores[0].encodings(str(example_id))["input_ids"].astype(np.int64)
        for side, log_p in (("", a), ("other_", b)):
            assert found[f"{side}top1_id"].tolist() == log_p.argmax(-1).tolist()
            np.testing.assert_allclose(found[f"{side}top1_prob"], log_p.amax(-1).exp(), rtol=1e-4)
            loss = -log_p[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            np.testing.assert_allclose(found[f"{side}loss"].iloc[:-1], loss, rtol=1e-4, atol=1e-5)
            assert pd.isna(found[f"{side}loss"].iloc[-1])


def test_divergences_and_top_1_are_what_the_models_say(runs: Path, models: tuple[Loaded, Loaded]) -> None:
    store = compare(runs, models)
    assert store.meta.kind == "comparison" and store.meta.parents == ["a", "b"]
    rows = rows_of(store)
    a, b = TraceStore(run_dir(runs, "a")), TraceStore(run_dir(runs, "b"))
    assert len(rows) == a.meta.counts.tokens and set(rows.source_run_id) == {"a"} and set(rows.other_run_id) == {"b"}
    assert (rows.kl > 1e-4).mean() > 0.9  # they differ
    check_against_logits(rows, (a, b), models)
    for row in rows.itertuples():
        assert row.top1_token == models[0].tokenizer.decode([row.top1_id])
    keys = list(zip(rows.example_id, rows.seq, rows.pos, strict=True))
    assert keys == sorted(keys)
    assert all(c.passed is not False for c in validate(store.path))


def test_a_model_does_not_differ_from_itself(runs: Path, models: tuple[Loaded, Loaded]) -> None:
    rows = rows_of(compare(runs, (models[0], models[0]), b="again"))
    assert (rows.kl == 0).all() and (rows.kl_reverse == 0).all()
    assert (rows.top1_id == rows.other_top1_id).all() and (rows.loss.dropna() == rows.other_loss.dropna()).all()


def test_the_other_way_round_the_two_divergences_change_places(runs: Path, models: tuple[Loaded, Loaded]) -> None:
    there, back = rows_of(compare(runs, models)), rows_of(compare(runs, models[::-1], "b", "a", "d"))
    np.testing.assert_allclose(there.kl, back.kl_reverse, rtol=1e-5, atol=1e-6)
    assert there.top1_id.tolist() == back.other_top1_id.tolist()


def test_without_the_last_hidden_state_the_last_layer_is_normed(
    runs: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable
) -> None:
    """`resid` alone stores no `hidden`."""
    text = runs.parent / "texts.txt"
    text.write_text(TEXTS, encoding="utf-8")
    capture_tiny(runs, "bare", loaded=models[0], text=text, capture="resid", store_dtype="float32", batch_tokens=1)
    rows, wanted = rows_of(compare(runs, models, "bare")), rows_of(compare(runs, models, run_id="d"))
    np.testing.assert_array_equal(rows.kl, wanted.kl)


@pytest.mark.slow
def test_on_the_real_model(tmp_path: Path, smollm2: Loaded, capture_tiny: Callable) -> None:
    """SmolLM2 and a copy with noise of 2 % on its weights, whose predictions differ at some tokens."""
    models = smollm2, perturbed(smollm2, 0.02)
    text = tmp_path / "texts.txt"
    text.write_text(TEXTS, encoding="utf-8")
    for run, model in zip("ab", models, strict=True):
        capture_tiny(tmp_path, run, loaded=model, text=text, capture="hidden", store_dtype="float32", batch_tokens=1)
    rows = rows_of(compare(tmp_path, models, what="predictions"))
    a, b = TraceStore(run_dir(tmp_path, "a")), TraceStore(run_dir(tmp_path, "b"))
    check_against_logits(rows, (a, b), models)
    assert 0 < (rows.top1_id != rows.other_top1_id).mean() < 0.7


@pytest.mark.slow
def test_slices_and_an_interruption_change_nothing(
    runs: Path, models: tuple[Loaded, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(compare(runs, models, run_id="whole"))
    monkeypatch.setattr(shared_tokens, "_SHARD_ROWS", 12)
    monkeypatch.setattr(shared_tokens, "_PORTION", 10)
    monkeypatch.setattr(predictions, "_SLICE_BYTES", 5 * 400 * 4)

    def interrupted(counted: Any) -> None:
        if counted.begun >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(runs, models, report=interrupted)
    assert not run_dir(runs, "c").exists()
    seen: list[int] = []
    cut = rows_of(compare(runs, models, report=lambda c: seen.append(c.resumed_tokens)))
    assert max(seen) > 0
    for table in ("layer_similarity", "moved_directions", "head_changes"):  # over the same tokens
        one, two = (
            TraceStore(run_dir(runs, run)).query(f"SELECT * EXCLUDE (run_id) FROM {table}").df()
            for run in ("whole", "c")
        )
        pd.testing.assert_frame_equal(one, two)
    exact = ["example_id", "seq", "pos", "other_pos", "top1_id", "other_top1_id", "loss"]
    pd.testing.assert_frame_equal(whole[exact], cut[exact])
    np.testing.assert_allclose(whole.kl, cut.kl, rtol=1e-4, atol=1e-6)
    with pytest.raises(RunExistsError):
        compare(runs, models)


def test_responses_are_compared_as_far_as_they_are_the_same(tmp_path: Path, models: tuple[Loaded, Loaded]) -> None:
    """What comes after the first token that differs was said after another text."""
    options = generate.Options(capture="hidden", max_new_tokens=12, store_dtype="float32", temperature=0.0)
    for run, model in zip("ab", models, strict=True):
        generate.run(model, one_text("The lamp burned."), options, root=tmp_path, run_id=run)
    rows = rows_of(compare(tmp_path, models))
    a, b = (TraceStore(run_dir(tmp_path, run)) for run in "ab")
    (example_id,) = set(rows.example_id)
    ids, others = (s.encodings(example_id)["input_ids"] for s in (a, b))
    assert not np.array_equal(ids, others)
    n = min(len(ids), len(others))
    first = int(np.flatnonzero(ids[:n] != others[:n])[0])
    assert rows.pos.tolist() == list(range(first)) and first > 3
    assert pd.isna(rows.loss.iloc[-1]) and rows.loss.iloc[:-1].notna().all()


def other_tokenizer(loaded: Loaded) -> Loaded:
    """The same text cut into single bytes, by a model of another vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    config = deepcopy(loaded.model.config).to_dict() | {"vocab_size": len(alphabet), "pad_token_id": None}
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    return Loaded(model, PreTrainedTokenizerFast(tokenizer_object=t), "bytes", None, "cpu", trust_remote_code=False)


def test_with_other_tokenizers_losses_are_compared_by_span(
    runs: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable
) -> None:
    """A row stands where tokens of both end; its losses are of the text up to the next row, whoever cut it into how many tokens."""
    text, bytewise = runs.parent / "texts.txt", other_tokenizer(models[0])
    text.write_text(TEXTS, encoding="utf-8")
    capture_tiny(runs, "bytes", loaded=bytewise, text=text, store_dtype="float32")
    said: list[str] = []
    rows = rows_of(compare(runs, (models[0], bytewise), b="bytes", note=said.append))
    assert "other vocabularies" in said[0]
    assert rows.kl.isna().all() and rows.top1_id.isna().all()
    a, b = (TraceStore(run_dir(runs, run)) for run in ("a", "bytes"))
    for (example_id,), found in rows.groupby(["example_id"]):
        ours, theirs = (s.query(f"FROM tokens WHERE example_id = '{example_id}' ORDER BY pos").df() for s in (a, b))
        losses = [s.query(f"FROM next_token WHERE example_id = '{example_id}' ORDER BY pos").df().loss for s in (a, b)]
        assert found.pos.tolist() == ours.pos.tolist()  # every token of the one ends where a byte of the other does
        assert ours.char_end[found.pos].tolist() == theirs.char_end[found.other_pos].tolist()
        np.testing.assert_array_equal(found.loss.iloc[:-1], losses[0])
        ends = found.other_pos.tolist()
        wanted = [losses[1][start:end].sum() for start, end in itertools.pairwise(ends)]
        np.testing.assert_allclose(found.other_loss.iloc[:-1], wanted, rtol=1e-5)
    assert all(c.passed is not False for c in validate(run_dir(runs, "c")))


def refused(root: Path, models: tuple[Loaded, Loaded], a: str, b: str, **options: Any) -> str:
    """What is said of two runs that do not fit; nothing is left behind."""
    before = sorted(p.name for p in root.rglob("*"))
    with pytest.raises((UsageError, TracesError)) as error:
        compare(root, models, a, b, **options)
    assert sorted(p.name for p in root.rglob("*")) == before
    message = str(error.value)
    assert "\n" not in message
    return message


def test_runs_that_do_not_fit_are_refused_in_one_line(
    runs: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable
) -> None:
    text = runs.parent / "other.txt"
    text.write_text("Another text.\n", encoding="utf-8")
    capture_tiny(runs, "elsewhere", loaded=models[1], text=text)
    text.write_text(TEXTS, encoding="utf-8")
    capture_tiny(runs, "bare", loaded=models[1], text=text, capture="none")
    compare(runs, models)
    assert "'a' is both runs" in refused(runs, models, "a", "a")
    assert "no example in common: capture the same texts with both" in refused(runs, models, "a", "elsewhere")
    assert "traces capture next-token … --capture hidden" in refused(runs, models, "a", "bare")
    assert "--what heads: Run 'bare' has stored neither" in refused(runs, models, "a", "bare", what="heads")
    assert "residual stream. Capture it again with --capture resid" in refused(runs, models, "a", "bare", what="layers")
    assert "--what colours: colours is none of predictions, layers" in refused(runs, models, "a", "b", what="colours")
    assert "--layers 3: 3 is not a layer" in refused(runs, models, "a", "b", layers="3")
    assert "--pairs some: use same, all, none" in refused(runs, models, "a", "b", pairs="some")
    assert "'c' is of kind comparison, and holds no states of a model: compare the run it was made from, a" in refused(
        runs, models, "c", "a"
    )
    assert "perturbed has other weights than those that run 'a'" in refused(runs, models[::-1], "a", "b")
    assert "--other-model PLACE" in refused(runs, (models[0], models[0]), "a", "b")


def test_an_encoder_is_refused(runs: Path, models: tuple[Loaded, Loaded], tokenizer: Any, tmp_path: Path) -> None:
    import zoo

    folder = tmp_path / "bert"
    zoo.build("bert").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    encode.run(
        load(str(folder), head="none", device="cpu"), one_text("Fog."), encode.Options(), root=runs, run_id="enc"
    )
    assert "is of an encoder (Bert" in refused(runs, models, "enc", "a")


def test_texts_that_differ_from_the_first_token_on_are_refused(
    runs: Path, models: tuple[Loaded, Loaded], tmp_path: Path, capture_tiny: Callable
) -> None:
    """The same ids, as those of a table's column may be, with another text behind them."""
    for run, word, model in (("x", "Lamp", models[0]), ("y", "Fog", models[1])):
        path = tmp_path / "table.jsonl"
        path.write_text(f'{{"id": "1", "text": "{word} and nothing else"}}\n', encoding="utf-8")
        source = open_text(str(path), "text", id_column="id")
        next_token.run(model, source, next_token.Options(capture="hidden"), root=runs, run_id=run)
    a, b = (set(TraceStore(run_dir(runs, run)).tokens.example_id) for run in "xy")
    assert a == b
    assert "their texts differ from the first token on" in refused(runs, models, "x", "y")


def test_the_forecast_is_what_is_made(runs: Path, models: tuple[Loaded, Loaded]) -> None:
    wanted = compare_run.forecast(run_dir(runs, "a"), run_dir(runs, "b"), Options())
    assert wanted.plan.parts == ("predictions", "layers", "directions", "heads") and not wanted.plan.left_out
    assert (wanted.sequences, wanted.tokens) == (3, len(rows_of(compare(runs, models))))
    assert open_pair(run_dir(runs, "a"), run_dir(runs, "b")).names == ("a", "b")


def changed_copy(loaded: Loaded, change: Callable[[Any], None]) -> Loaded:
    model = deepcopy(loaded.model)
    with torch.no_grad():
        change(model)
    return Loaded(model, loaded.tokenizer, "changed", None, loaded.device, trust_remote_code=False)


@pytest.fixture(scope="module")
def lighthouse(tmp_path_factory: pytest.TempPathFactory, capture_tiny: Callable, models: tuple[Loaded, Loaded]) -> Path:
    """A run `a` of the tiny model over texts enough for intervals."""
    root = tmp_path_factory.mktemp("lighthouse") / "runs"
    capture_tiny(root, "a", loaded=models[0], max_len=32, store_dtype="float32", capture="hidden,resid,qkv")
    return root


def compared_with(
    root: Path,
    tmp_path: Path,
    one: Loaded,
    other: Loaded,
    capture_tiny: Callable,
    capture: str = "hidden,resid,qkv",
    **options: Any,
) -> TraceStore:
    """A comparison of the run `a` in a copy of a warehouse with a run of another model."""
    runs = Path(shutil.copytree(root, tmp_path / "runs"))
    capture_tiny(runs, "b", loaded=other, max_len=32, store_dtype="float32", capture=capture)
    store = compare(runs, (one, other), **options)
    assert all(c.passed is not False for c in validate(store.path))
    return store


@pytest.mark.slow
def test_layers_of_one_model_are_the_same(
    lighthouse: Path, tmp_path: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable
) -> None:
    store = compared_with(lighthouse, tmp_path, models[0], models[0], capture_tiny, what="layers,directions,heads")
    rows = store.query("FROM layer_similarity").df()
    assert len(rows) == 16 and (rows.n_examples > 20).all() and (rows.n_tokens > 300).all()
    same = rows[(rows.layer == rows.other_layer) | (rows.layer.isna() & rows.other_layer.isna())]
    assert len(same) == 4
    for column in ("cka", "cka_low", "cka_high", "procrustes", "procrustes_low", "procrustes_high"):
        np.testing.assert_allclose(same[column], 1, atol=1e-5)
    assert (same.procrustes_chance < 0.7).all()
    assert (rows.cka[~rows.index.isin(same.index)] < 0.999).all()
    assert not store.meta.counts.rows["moved_directions"]  # nothing moved
    heads = store.query("FROM head_changes").df()
    assert len(heads) == 12 and (heads[["js", "top_changed", "write_change"]] == 0).all(axis=None)


def test_a_head_that_was_changed_is_found(
    lighthouse: Path, tmp_path: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable
) -> None:
    """Other queries of head 2 in the last of three layers: that head alone attends and writes otherwise."""

    def change(model: Any) -> None:
        model.model.layers[2].self_attn.q_proj.weight[16:24] *= -20

    other = changed_copy(models[0], change)
    store = compared_with(lighthouse, tmp_path, models[0], other, capture_tiny, what="heads,layers,directions")
    heads = store.query("FROM head_changes ORDER BY js DESC").df()
    first, rest = heads.iloc[0], heads.iloc[1:]
    assert (
        (first.layer, first["head"]) == (2, 2)
        and first.js_low > 0
        and first.top_changed > 0.3
        and first.write_change > 0.01
    )
    assert (rest.js < 1e-6).all() and (rest.write_change < 1e-5).all()
    layers = dict(store.query("SELECT layer, cka FROM layer_similarity WHERE layer = other_layer").fetchall())
    assert layers[0] == layers[1] == 1 and layers[2] < 1
    assert {layer for (layer,) in store.query("SELECT DISTINCT layer FROM moved_directions").fetchall()} == {2}


def test_what_heads_write_is_what_attention_adds(
    lighthouse: Path, tmp_path: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable
) -> None:
    """Of a model whose output projection of head 1 in layer 0 is doubled: what it writes changed by all of itself."""

    def change(model: Any) -> None:
        model.model.layers[0].self_attn.o_proj.weight[:, 8:16] *= 2

    other = changed_copy(models[0], change)
    store = compared_with(lighthouse, tmp_path, models[0], other, capture_tiny, what="heads", layers="0")
    rows = store.query("FROM head_changes ORDER BY head").df()
    np.testing.assert_allclose(rows.write_change, [0, 1, 0, 0], atol=1e-5)
    assert (rows.js == 0).all()


def test_a_planted_direction_is_found(
    lighthouse: Path, tmp_path: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable
) -> None:
    """A bias that layer 1's MLP adds to the stream of every token."""
    direction = torch.zeros(32)
    direction[5], direction[9] = 0.6, -0.8

    def change(model: Any) -> None:
        model.model.layers[1].mlp.register_forward_hook(lambda _m, _a, y: y + 0.5 * direction)

    other = changed_copy(models[0], change)
    store = compared_with(lighthouse, tmp_path, models[0], other, capture_tiny, what="directions", directions=2)
    rows = store.query("FROM moved_directions WHERE layer = 1 ORDER BY rank").df()
    np.testing.assert_allclose(rows.vector[0], direction, atol=1e-4)
    assert rows["share"][0] == pytest.approx(1, abs=1e-5) and rows.mean_shift[0] == pytest.approx(0.5, abs=1e-5)
    assert rows.sd_shift[0] < 1e-4 and rows.rms_moved[0] == pytest.approx(0.5, abs=1e-5)
    assert not len(store.query("FROM moved_directions WHERE layer = 0").df())


@pytest.mark.slow
def test_what_cannot_be_compared_is_left_out_with_the_reason(
    lighthouse: Path, tmp_path: Path, models: tuple[Loaded, Loaded], capture_tiny: Callable, make_llama: Callable
) -> None:
    """A model of another width and number of heads, whose run kept no q and k."""
    small = Loaded(
        make_llama(1, hidden_size=24, num_attention_heads=2, num_hidden_layers=2), models[0].tokenizer, "small", None, "cpu", trust_remote_code=False
    )  # fmt: skip
    store = compared_with(lighthouse, tmp_path, models[0], small, capture_tiny, capture="resid", pairs="all")
    assert store.meta.options["compared"] == ["predictions", "layers"]
    left_out = store.meta.options["left_out"]
    assert "32 and 24 wide" in left_out["directions"] and "4 and 2 heads" in left_out["heads"]
    rows = store.query("FROM layer_similarity").df()
    assert len(rows) == 4 * 3 and rows.procrustes.notna().all()
    assert rows.cka.abs().max() < 1 and rows_of(store).kl.notna().all()


def test_a_sample_is_of_whole_groups_of_examples(
    lighthouse: Path, tmp_path: Path, models: tuple, capture_tiny: Callable
) -> None:
    """The first tokens are left out, no example is in two groups, and the same seed draws the same tokens."""
    runs = Path(shutil.copytree(lighthouse, tmp_path / "runs"))
    capture_tiny(runs, "b", loaded=models[1], max_len=32, store_dtype="float32", capture="hidden")
    pair = open_pair(run_dir(runs, "a"), run_dir(runs, "b"))
    sample = draw_sample(pair, 100, 0)
    assert 50 < sample.tokens <= 100 and all((p.positions > 0).all() for p in sample.pieces)
    examples = np.repeat([p.example_id for p in sample.pieces], [len(p.positions) for p in sample.pieces])
    groups = np.searchsorted(sample.bounds, np.arange(sample.tokens), "right") - 1
    assert len({(e, g) for e, g in zip(examples, groups, strict=True)}) == len(set(examples)) == sample.examples
    assert sample.by_example and len(set(groups)) == len(sample.bounds) - 1 >= 5
    again, other = draw_sample(pair, 100, 0), draw_sample(pair, 100, 1)
    assert [p.positions.tolist() for p in again.pieces] == [p.positions.tolist() for p in sample.pieces]
    assert [p.positions.tolist() for p in other.pieces] != [p.positions.tolist() for p in sample.pieces]


def test_few_texts_have_similarities_without_intervals(runs: Path, models: tuple[Loaded, Loaded]) -> None:
    rows = compare(runs, models, what="layers,heads").query("FROM layer_similarity, head_changes").df()
    assert (
        rows.cka.notna().all()
        and rows.cka_low.isna().all()
        and rows.js_low.isna().all()
        and (rows.n_examples == 3).all()
    )
