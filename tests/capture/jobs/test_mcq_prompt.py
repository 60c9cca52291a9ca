"""Multiple choice with a decoder: scores equal to a plain loop over the model, question by question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import DATA
from transformers import PreTrainedTokenizerFast

from capture.data.example import Choice, Row, Source
from capture.data.registry import open_data
from capture.jobs import mcq_prompt
from capture.jobs.choice_scores import Scores, score_tables
from capture.model.continuations import Continuation, ContinuationReader
from capture.model.examine import examine
from capture.sequences.question_pairs import PairMaker
from capture.sequences.question_prompts import TEMPLATE, PromptMaker
from capture.verification.replay_check import recheck
from warehouse import TraceStore
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

QUESTIONS = DATA / "questions.jsonl"
WITHIN = 1e-4
"""Logits and nats: in float32 a padded batch, and going on from a prompt's keys and values, sum in another order."""


def sound(store: TraceStore) -> None:
    checks = [*validate(store.path), *recheck(store.path)]
    assert not [c for c in checks if c.passed is False]
    assert {c.name for c in checks if c.passed} >= {"multiple choice", "deep: scores"}


def plain_loop(model, tokenizer, row: Row, chat: bool) -> tuple[list[float], list[float], list[float]]:
    """Each choice's letter logit, log-probability and that by byte, as one would write it down."""
    text = f"{row.text}\nChoices:\n" + "".join(f"{c.label}. {c.text}\n" for c in row.choices) + "Answer:"
    gap = " "
    if chat:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        gap = ""
    prompt = tokenizer(text, add_special_tokens=not chat, return_tensors="pt").input_ids
    with torch.no_grad():
        last = model(prompt).logits[0, -1]
    letters, logprobs, per_byte = [], [], []
    for choice in row.choices:
        (letter,) = tokenizer(gap + choice.label, add_special_tokens=False).input_ids
        letters.append(last[letter].item())
        after = tokenizer(gap + choice.text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            found = model(torch.cat([prompt, after], 1)).logits[0].log_softmax(-1)
        n = prompt.shape[1]
        logprobs.append(sum(found[n - 1 + i, token].item() for i, token in enumerate(after[0])))
        per_byte.append(logprobs[-1] / len(choice.text.encode()))
    return letters, logprobs, per_byte


@pytest.fixture(scope="module")
def looped(smollm2) -> Callable[..., tuple[list[float], list[float], list[float]]]:
    """The plain loop over a question, kept: it is slow."""
    kept: dict[tuple[str, bool], tuple[list[float], list[float], list[float]]] = {}

    def ask(row: Row, chat: bool) -> tuple[list[float], list[float], list[float]]:
        if (row.source_id, chat) not in kept:
            kept[row.source_id, chat] = plain_loop(smollm2.model, smollm2.tokenizer, row, chat)
        return kept[row.source_id, chat]

    return ask


@pytest.mark.slow
@pytest.mark.parametrize(("score", "chat"), [("letter", False), ("text", False), ("byte", True)])
def test_scores_equal_a_plain_loop_over_the_real_model(
    tmp_path: Path, smollm2, looped: Callable, shared: Callable[[str], Path], score: str, chat: bool
) -> None:
    source = open_data("csqa", origin=str(shared("csqa/validation.jsonl")))
    options = mcq_prompt.Options(limit=2, score=score, chat=chat, capture="hidden,attn", batch_tokens=512)
    mcq_prompt.run(smollm2, source, options, root=tmp_path, run_id="r")
    store = TraceStore(run_dir(tmp_path, "r"))
    for example in [e for e, _ in zip(source.read(), range(2), strict=False)]:
        told = store.query(
            "SELECT label, text, logit, logprob, logprob_per_byte, prob, is_label, is_pred FROM choices "
            "WHERE example_id = ? ORDER BY choice_idx",
            [example.example_id],
        ).df()
        found = looped(example.row, chat)
        for column, values in zip(("logit", "logprob", "logprob_per_byte"), found, strict=True):
            np.testing.assert_allclose(told[column], values, atol=WITHIN, rtol=0)
        decides = dict(zip(("letter", "text", "byte"), found, strict=True))[score]
        np.testing.assert_allclose(told["prob"], torch.tensor(decides).softmax(0), atol=WITHIN)
        assert told["is_pred"].tolist() == [i == int(np.argmax(decides)) for i in range(5)]
        assert told["label"].tolist() == ["A", "B", "C", "D", "E"]
        assert told["text"].tolist() == [c.text for c in example.row.choices]
        assert told["is_label"].tolist() == [i == example.row.answer for i in range(5)]


@pytest.mark.parametrize("score", ["letter", "text"])
def test_traces_are_of_the_prompt_or_of_each_choice(tmp_path: Path, load_tiny: Callable, score: str) -> None:
    loaded = load_tiny()
    source = open_data("csqa", origin=str(QUESTIONS))
    options = mcq_prompt.Options(score=score, capture="hidden,resid,qkv,attn", store_dtype="float32", batch_tokens=64)
    mcq_prompt.run(loaded, source, options, root=tmp_path, run_id="r")
    store = TraceStore(run_dir(tmp_path, "r"))
    sound(store)
    for example in source.read():
        eid, prompt = example.example_id, PromptMaker(loaded.tokenizer, "x").prompt(example)
        for i, choice in enumerate(example.row.choices):
            text = (
                f"{prompt} {choice.text}" if score == "text" else f"{prompt} "
            )  # to this tokenizer a space is a token
            ids = loaded.tokenizer(text, return_tensors="pt").input_ids
            with torch.no_grad():
                hidden = torch.stack(loaded.model(ids, output_hidden_states=True).hidden_states)[:, 0].numpy()
            np.testing.assert_allclose(store.mcq_hidden(eid, choice_idx=i), hidden, atol=1e-5)
            assert store.mcq_attn(eid, choice_idx=i, layer=0, head=0).shape == (ids.shape[1],) * 2
            assert store.mcq_qkv(eid, choice_idx=i, which="q", layer=0, head=0).shape == (ids.shape[1], 8)
            np.testing.assert_array_equal(
                store.mcq_resid(eid, choice_idx=i, stage="post_mlp", layer=0), store.mcq_hidden(eid, i, layer=1)
            )
            seq = i if score == "text" else 0
            (row,) = store.query("SELECT text FROM prompts WHERE example_id = ? AND seq = ?", [eid, seq]).fetchall()
            assert row[0] == text
        with pytest.raises(UsageError, match="choices 0 to 4"):
            store.mcq_hidden(eid, 5)
    with pytest.raises(NotFoundError):
        store.mcq_hidden("0" * 16, 0)


def test_a_capture_goes_on_and_batches_change_nothing(tmp_path: Path, load_tiny: Callable) -> None:
    source = open_data("csqa", origin=str(QUESTIONS))
    found = []
    for run_id, batch_tokens in (("small", 1), ("large", 4096)):
        options = mcq_prompt.Options(score="text", capture="hidden", batch_tokens=batch_tokens)
        mcq_prompt.run(load_tiny(), source, options, root=tmp_path, run_id=run_id)
        store = TraceStore(run_dir(tmp_path, run_id))
        found.append(store.query("SELECT * EXCLUDE (run_id) FROM choices ORDER BY example_id, choice_idx").df())
    np.testing.assert_allclose(found[0]["logprob"], found[1]["logprob"], atol=1e-5)
    np.testing.assert_allclose(found[0]["logit"], found[1]["logit"], atol=1e-5)


def test_an_unknown_key_leaves_right_and_wrong_unknown(tmp_path: Path, load_tiny: Callable) -> None:
    choices = tuple(Choice(label, text) for label, text in zip("ABC", ("a lamp", "a boat", "fog"), strict=True))
    row = Row("1", "What shines?", choices=choices)
    source = Source("mine", None, None, "mine", lambda: iter([row]))
    mcq_prompt.run(load_tiny(), source, mcq_prompt.Options(), root=tmp_path, run_id="r")
    store = TraceStore(run_dir(tmp_path, "r"))
    sound(store)
    answer = store.query("SELECT label_idx, label, is_correct, label_prob FROM mcq_predictions").fetchall()
    assert answer == [(None, None, None, None)]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_read_once_gives_what_whole_texts_give(load_tiny: Callable, kind: str) -> None:
    continuer = ContinuationReader(examine(load_tiny(kind).model), 64)
    assert continuer.reads_prompts_once
    generator = np.random.default_rng(0)
    questions = []
    for n in (3, 17, 9):
        prompt = generator.integers(1, 300, n)
        tails = [generator.integers(1, 300, k) for k in (1, 4, 2)]
        questions.append([Continuation(np.concatenate([prompt, tail]), n) for tail in tails])
    questions.append([Continuation(c.ids, c.start - i) for i, c in enumerate(questions[0])])  # prompts that differ
    shared = continuer.states(questions)
    continuer.reads_prompts_once = False
    for found, expected, of in zip(shared, continuer.states(questions), questions, strict=True):
        for x, y, c in zip(found, expected, of, strict=True):
            assert x.shape == y.shape == (len(c) - c.start, y.shape[1])
            torch.testing.assert_close(x, y, atol=1e-5, rtol=0)


def test_models_whose_prompts_cannot_be_shared_are_asked_whole() -> None:
    import zoo

    assert not ContinuationReader(examine(zoo.build("mistral")), 64).reads_prompts_once  # a sliding window of 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{question} Answer:"}, "{choices} 0 times"),
        ({"template": "{choices}"}, "{question} 0 times"),
        ({"score": "best"}, "letter, text, byte"),
        ({"chat": True}, "no chat template"),
        ({"max_len": 12}, "prompt with a choice has .* tokens"),
        ({"template": "{question}{choices} Answer"}, None),
    ],
)
def test_what_cannot_be_asked(tmp_path: Path, load_tiny: Callable, options: dict, message: str | None) -> None:
    source = open_data("csqa", origin=str(QUESTIONS))
    if message is None:
        mcq_prompt.run(load_tiny(), source, mcq_prompt.Options(**options), root=tmp_path, run_id="r")
        return
    with pytest.raises(UsageError, match=message.replace("{", r"\{").replace("}", r"\}")):
        mcq_prompt.run(load_tiny(), source, mcq_prompt.Options(**options), root=tmp_path, run_id="r")
    assert not run_dir(tmp_path, "r").exists()


def test_letters_that_are_no_token_after_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    """A choice labelled `lighthouse keeper` has no logit of its own."""
    labels = ("lighthouse keeper", "B")
    row = Row("1", "Who?", choices=tuple(Choice(x, "text") for x in labels))
    source = Source("mine", None, None, "mine", lambda: iter([row]))
    with pytest.raises(UsageError, match="not one token"):
        list(PromptMaker(tokenizer, "tiny").tokenize(source.read()))


def test_a_choice_without_text(tokenizer: PreTrainedTokenizerFast) -> None:
    row = Row("7", "Who?", choices=(Choice("A", "keeper"), Choice("B", " ")))
    source = Source("mine", None, None, "mine", lambda: iter([row]))
    with pytest.raises(UsageError, match="Question 7: choice B has no text"):
        list(PromptMaker(tokenizer, "tiny").tokenize(source.read()))


def test_a_text_is_no_question(tmp_path: Path, load_tiny: Callable) -> None:
    source = Source("mine", None, None, "mine", lambda: iter([Row("1", "What?")]))
    with pytest.raises(UsageError, match="no choices"):
        mcq_prompt.run(load_tiny(), source, mcq_prompt.Options(), root=tmp_path, run_id="r")


def test_the_default_prompt() -> None:
    assert TEMPLATE.format(question="Q?", choices="A. x\nB. y") == "Q?\nChoices:\nA. x\nB. y\nAnswer:"


def test_braces_in_a_question_are_only_text(tokenizer: PreTrainedTokenizerFast) -> None:
    row = Row("1", "What is {choices}?", choices=(Choice("A", "{question}"), Choice("B", "x")))
    (example,) = Source("mine", None, None, "mine", lambda: iter([row])).read()
    found = PromptMaker(tokenizer, "tiny").prompt(example)
    assert found == "What is {choices}?\nChoices:\nA. {question}\nB. x\nAnswer:"


def test_a_tokenizer_without_offsets_cannot_be_asked() -> None:
    class Slow:
        is_fast = False

    for of in (PromptMaker, PairMaker):
        with pytest.raises(UsageError, match="fast tokenizer"):
            of(Slow(), "slow")


def test_choices_that_a_model_rules_out() -> None:
    """One of them costs nothing to the others; where all are, nothing is chosen, and the question is named."""
    questions = [next(open_data("csqa", origin=str(QUESTIONS)).read())]
    n = len(questions[0].row.choices)
    logit, logprob = np.full(n, -np.inf, np.float32), np.full(n, -np.inf)
    logit[2] = 3e38
    found = score_tables(questions, [Scores(logit, logprob)], "letter")
    (row,), choices = found["mcq_predictions"].to_pylist(), found["choices"].to_pylist()
    assert (row["pred_idx"], row["pred_prob"], row["top_two_gap"], row["entropy"]) == (2, 1, 1, 0)
    assert row["margin"] == np.inf and not np.signbit(row["entropy"])
    assert [c["prob"] for c in choices] == [0, 0, 1, 0, 0]
    with pytest.raises(TracesError, match=r"Question \S+: the model rules out every choice .*decides, text"):
        score_tables(questions, [Scores(logit, logprob)], "text")
