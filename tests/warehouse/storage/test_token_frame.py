"""`TraceStore.tokens` as people wrote it: the last prediction of a sequence, and what was answered to a question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import zoo
from samples import DATA

from capture.data.example import Choice, Row, Source
from capture.data.prompt_sets import open_prompts
from capture.data.registry import open_data
from capture.data.text import open_text
from capture.jobs import encode, generate, mcq_encoder, mcq_prompt
from capture.model import loading
from warehouse import TraceStore
from warehouse.storage.paths import run_dir

NEXT = ["pos", "true_id", "pred_id", "correct", "true_prob", "pred_prob", "entropy", "topk_ids", "topk_tokens", "topk_probs"]  # fmt: skip
QUESTION = ["label_idx", "pred_idx", "pred_label", "is_correct", "choice_logits", "choice_probs"]


def questions(root: Path, loaded: Any, kind: Any, data: Source | None = None, **options: Any) -> TraceStore:
    data = data or open_data("csqa", origin=str(DATA / "questions.jsonl"))
    kind.run(loaded, data, kind.Options(**options), root=root, run_id="r")
    return TraceStore(run_dir(root, "r"))


def held_against_next_token(store: TraceStore) -> None:
    """The values of every row are those of the sequence's row in the table with the largest pos, bit for bit."""
    found = store.tokens
    for row in found.to_dict("records"):
        table = store.query(
            f"SELECT {', '.join(NEXT)} FROM next_token WHERE example_id = ? AND seq = ? ORDER BY pos DESC LIMIT 1",
            [row["example_id"], row["seq"]],
        ).df()
        for name in NEXT:
            if len(table):
                assert np.array_equal(row[f"next_{name}"], table[name][0]), name
            else:
                assert pd.isna(row[f"next_{name}"])
        if len(table):
            assert row["next_pos"] == len(row["input_ids"]) - 2
            assert row["next_true_id"] == row["input_ids"][-1]
            assert row["next_pred_id"] == row["next_topk_ids"][0] == row["pred_ids"][-1]


@pytest.mark.parametrize("run", ["llama", "gpt2"])
def test_the_last_prediction_is_that_of_the_last_token_there_is(tiny_root: Path, load_tiny: Callable, run: str) -> None:
    store, model = TraceStore(run_dir(tiny_root, run)), load_tiny(run).model
    held_against_next_token(store)
    for row in store.tokens.iloc[::6].itertuples():
        with torch.no_grad():
            last = model(torch.tensor([row.input_ids.tolist()])).logits[0, -2].softmax(-1)
        assert int(row.next_pred_id) == int(last.argmax())
        assert bool(row.next_correct) == (row.input_ids[-1] == int(last.argmax()))
        for ours, theirs in (
            (row.next_true_prob, last[row.input_ids[-1]]),
            (row.next_pred_prob, last.max()),
            (row.next_entropy, -(last * last.log()).sum()),
        ):
            assert ours == pytest.approx(float(theirs), rel=1e-4)


def test_each_chunk_has_its_own_and_a_text_of_one_token_has_none(tmp_path: Path, capture_tiny: Callable) -> None:
    text = tmp_path / "t.txt"
    text.write_text("e\n" + (DATA / "lighthouse.txt").read_text().splitlines()[0] + "\n")
    store = capture_tiny(tmp_path / "runs", text=text, max_len=8, chunk=True, capture="none")
    held_against_next_token(store)
    one, *chunks = store.tokens.to_dict("records")
    assert len(one["input_ids"]) == 1 and store.tokens.loc[0, "next_pos"] is pd.NA
    assert len(chunks) > 1 and {c["next_pos"] for c in chunks[:-1]} == {6}
    with pytest.raises(TypeError):
        int(store.tokens.loc[0, "next_true_id"])  # nothing takes what is not there for a token


def test_responses_have_a_last_prediction_too(tmp_path: Path, load_tiny: Callable) -> None:
    options = generate.Options(max_new_tokens=4, samples=2, capture="none")
    generate.run(load_tiny(), open_prompts(["The lamp", "A boat"]), options, root=tmp_path, run_id="r")
    store = TraceStore(run_dir(tmp_path, "r"))
    assert store.tokens[["idx", "seq"]].values.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    held_against_next_token(store)


def test_a_run_that_predicts_nothing_has_none_of_these_columns(tmp_path: Path, load_tiny: Callable) -> None:
    text = open_text(str(DATA / "lighthouse.txt"), "text")
    encode.run(load_tiny(), text, encode.Options(capture="none", limit=3), root=tmp_path, run_id="r")
    frame = TraceStore(run_dir(tmp_path, "r")).tokens
    assert list(frame) == ["idx", "example_id", "seq", "side", "text", "input_ids", "tokens", "offsets", "pred_ids", "correct", "losses"]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: transformers.PreTrainedTokenizerFast) -> str:
    """The folder of a small random BERT with a multiple-choice head."""
    folder = tmp_path_factory.mktemp("encoder")
    bert = transformers.BertForMultipleChoice
    zoo._instantiate(bert, zoo.small_config(bert.config_class, {"vocab_size": len(tokenizer)}), 0).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("score", ["letter", "text", "head"])
def test_the_predicted_choice_leads_to_its_attention(
    tmp_path: Path, load_tiny: Callable, encoder: str, score: str
) -> None:
    """`pred_idx` of a row, as a choice_idx, gives the attention that the model pays when it reads the row's ids."""
    if score == "head":
        loaded = loading.load(encoder, head="multiple-choice", device="cpu")
        store = questions(tmp_path, loaded, mcq_encoder, capture="attn", store_dtype="float32")
    else:
        loaded = load_tiny()
        store = questions(tmp_path, loaded, mcq_prompt, capture="attn", store_dtype="float32", score=score)
    loaded.model.set_attn_implementation("eager")
    frame = store.tokens
    assert len(frame) == store.meta.counts.examples == 3
    for row in frame.to_dict("records"):
        eid, choice = row["example_id"], int(row["pred_idx"])
        ids = row["input_ids"] if score == "letter" else row["input_ids"][choice]
        inputs = {"input_ids": torch.tensor([ids.tolist()])}
        if score == "head":
            inputs = {name: x[None] for name, x in inputs.items()}
        with torch.no_grad():
            attention = torch.cat(loaded.model(**inputs, output_attentions=True).attentions).numpy()
        np.testing.assert_allclose(store.mcq_attn(eid, choice_idx=choice), attention, atol=1e-5)


@pytest.mark.parametrize(("score", "column"), [("letter", "logit"), ("byte", "logprob_per_byte")])
def test_a_question_is_a_row_with_what_the_tables_say(
    tmp_path: Path, load_tiny: Callable, score: str, column: str
) -> None:
    store = questions(tmp_path, load_tiny(), mcq_prompt, score=score)
    for row in store.tokens.to_dict("records"):
        table = store.query(
            "SELECT label_idx, pred_idx, pred_label, is_correct FROM mcq_predictions WHERE example_id = ?",
            [row["example_id"]],
        ).df()
        choices = store.query(
            f"SELECT {column} AS logit, prob, is_pred, is_label FROM choices WHERE example_id = ? ORDER BY choice_idx",
            [row["example_id"]],
        ).df()
        assert all(np.array_equal(row[name], table[name][0]) for name in QUESTION[:4])
        assert np.array_equal(row["choice_logits"], choices["logit"]) and np.array_equal(
            row["choice_probs"], choices["prob"]
        )
        assert int(row["pred_idx"]) == int(np.argmax(row["choice_logits"])) == int(np.argmax(choices["is_pred"]))
        assert (
            int(row["label_idx"]) == int(np.argmax(choices["is_label"]))
            and row["pred_label"] == "ABCDE"[row["pred_idx"]]
        )
        softmax = torch.tensor(row["choice_logits"]).double().softmax(0)
        np.testing.assert_allclose(row["choice_probs"], softmax, rtol=1e-6)


def test_without_a_key_nothing_counts_as_right_or_wrong(tmp_path: Path, load_tiny: Callable) -> None:
    choices = tuple(Choice(label, text) for label, text in zip("ABC", ("a lamp", "a boat", "fog"), strict=True))
    rows = [Row("1", "What shines?", choices=choices), Row("2", "What floats?", choices=choices, answer=1)]
    data = Source("mine", None, None, "mine", lambda: iter(rows))
    frame = questions(tmp_path, load_tiny(), mcq_prompt, data).tokens
    assert frame["label_idx"].isna().tolist() == frame["is_correct"].isna().tolist() == [True, False]
    assert frame["label_idx"][1] == 1 and frame["pred_idx"].notna().all()
    right = bool(frame["is_correct"][1])
    assert frame["is_correct"].mean() == (frame["pred_idx"] == frame["label_idx"]).mean() == right
    assert len(frame[frame["is_correct"]]) == right and len(frame[~frame["is_correct"]]) == 1 - right
