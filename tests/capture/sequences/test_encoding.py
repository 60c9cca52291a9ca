"""What a model reads of a text is what its tokenizer gives: cut, in windows, with a BOS or without, whatever it does to the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import odd_tokenizers
import pytest
import torch
import zoo
from samples import DATA
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from capture.data.example import Row, Source
from capture.jobs import encode as encoding_job
from capture.jobs import next_token
from capture.jobs.open_prompts import OpenPromptMaker
from capture.model import loading
from capture.model.hashes import tokenizer_hash
from capture.sequences.bos import BosPolicy, resolve_bos
from capture.sequences.encoding import encode
from capture.sequences.question_prompts import PromptMaker
from capture.sequences.sequence import TokenizedExample
from capture.sequences.tokenize import TokenizeOptions, tokenize
from capture.verification.replay_check import recheck
from warehouse import TraceStore, Warehouse
from warehouse.errors import UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.text_checks import matches_text
from warehouse.validation.validate import validate


@pytest.fixture(scope="module")
def odd(sample_lines: list[str]) -> Callable[[str], PreTrainedTokenizerFast]:
    kept: dict[str, PreTrainedTokenizerFast] = {}

    def made(kind: str) -> PreTrainedTokenizerFast:
        if kind not in kept:
            kept[kind] = odd_tokenizers.made(kind, sample_lines)
        kept[kind].truncation_side = "right"
        return kept[kind]

    return made


def source(texts: list[str]) -> Source:
    return Source("d", None, None, "x", lambda: iter([Row(str(i), t) for i, t in enumerate(texts)]))


def read(tokenizer, texts: list[str], side: str = "enc", max_len: int | None = None, **how) -> list[TokenizedExample]:
    return list(tokenize(source(texts).read(), TokenizeOptions(tokenizer, side, max_len, **how)))


def ids(found: TokenizedExample, side: str = "enc") -> list[list[int]]:
    return [s.sides[side].ids.tolist() for s in found.sequences]


def failures(store: TraceStore) -> list:
    return [c for c in validate(store.path) if c.passed is False]


@pytest.mark.parametrize("cut_from", ["right", "left"])
@pytest.mark.parametrize("kind", list(odd_tokenizers.KINDS))
def test_what_is_cut_and_every_window_is_what_the_tokenizer_gives(
    kind: str, cut_from: str, odd: Callable, sample_lines: list[str]
) -> None:
    tokenizer, texts = odd(kind), [*odd_tokenizers.ODD, *sample_lines[:8]]
    tokenizer.truncation_side = cut_from
    own = tokenizer.num_special_tokens_to_add()
    for text, one in zip(texts, read(tokenizer, texts, max_len=9), strict=True):
        assert ids(one) == [tokenizer(text, truncation=True, max_length=9)["input_ids"]]
        whole = tokenizer(text, return_special_tokens_mask=True)
        assert one.truncated == (len(whole["input_ids"]) > 9)
        part = one.sequences[0].sides["enc"]
        assert part.is_special.sum() == own and (part.char_start[part.is_special] == -1).all()
    for stride in (None, 2):
        overlap = 0 if stride is None else 9 - own - stride
        for text, one in zip(texts, read(tokenizer, texts, max_len=9, chunk=True, stride=stride), strict=True):
            given = tokenizer(
                text, truncation=True, max_length=9, return_overflowing_tokens=True, stride=overlap
            )["input_ids"]  # fmt: skip
            assert ids(one) == (given if cut_from == "right" else given[::-1])
            parts = [s.sides["enc"] for s in one.sequences]
            new = [~p.is_special & (True if p.is_context is None else ~p.is_context) for p in parts]
            (whole,) = encode(tokenizer, [text])
            text_alone = ~whole.is_special
            for name in ("ids", "char_start", "char_end", "word_idx"):
                joined = np.concatenate([getattr(p, name)[n] for p, n in zip(parts, new, strict=True)])
                assert joined.tolist() == getattr(whole, name)[text_alone].tolist(), name


def test_a_tokenizer_written_in_python_is_cut_in_the_same_way() -> None:
    tokenizer, text = CanineTokenizer(), "the lamp and the sea"
    for side in ("right", "left"):
        tokenizer.truncation_side = side
        (one,) = read(tokenizer, [text], max_len=8)
        assert one.truncated and ids(one) == [tokenizer(text, truncation=True, max_length=8)["input_ids"]]
        (one,) = read(tokenizer, [text], max_len=8, chunk=True, stride=4)
        parts = [s.sides["enc"] for s in one.sequences]
        assert all(len(p) <= 8 and p.is_special.tolist()[:: len(p) - 1] == [True, True] for p in parts)
        new = [p.ids[~p.is_special & (True if p.is_context is None else ~p.is_context)] for p in parts]
        assert "".join(map(chr, np.concatenate(new))) == text
    assert not read(tokenizer, [text], max_len=22)[0].truncated


def test_the_states_of_a_cut_text_and_of_every_window_are_the_models_own(
    tmp_path: Path, odd: Callable, sample_lines: list[str]
) -> None:
    tokenizer, model, texts = odd("bert"), zoo.build("bert"), sample_lines[:4]
    for run, options in (("cut", {}), ("chunks", {"chunk": True})):
        chosen = encoding_job.Options(capture="hidden", store_dtype="float32", batch_tokens=1, max_len=14, **options)
        loaded = loading.Loaded(zoo.build("bert"), tokenizer, "b", None, "cpu", False)
        encoding_job.run(loaded, source(texts), chosen, root=tmp_path, run_id=run)
        store = TraceStore(run_dir(tmp_path, run))
        assert failures(store) == []
        for (example,), text in zip(
            store.query("SELECT example_id FROM examples ORDER BY idx").fetchall(), texts, strict=True
        ):
            rows = tokenizer(text, truncation=True, max_length=14, return_overflowing_tokens=run == "chunks")[
                "input_ids"
            ]
            for seq, row in enumerate([rows] if run == "cut" else rows):
                given = torch.tensor([row])
                with torch.no_grad():
                    hidden = model(
                        given, attention_mask=torch.ones_like(given), output_hidden_states=True
                    ).hidden_states
                assert np.array_equal(store.hidden(example, seq=seq), torch.cat(hidden).numpy())


def test_both_sides_of_an_encoder_decoder_are_cut_by_the_tokenizer(odd: Callable) -> None:
    tokenizer, text = odd("t5"), "the lamp and the sea and the boat"
    rows = Source("d", None, None, "x", lambda: iter([Row("1", text, {"to": text})]))
    how = TokenizeOptions(tokenizer, "enc", 6, target_column="to", start_id=0, target_len=5)
    (one,) = tokenize(rows.read(), how)
    assert one.truncated
    assert ids(one) == [tokenizer(text, truncation=True, max_length=6)["input_ids"]]
    assert ids(one, "dec") == [[0, *tokenizer(text_target=text, truncation=True, max_length=4)["input_ids"]]]
    assert one.sequences[0].sides["dec"].is_special.tolist() == [True, False, False, False, True]


def test_what_leaves_no_room_for_text_is_refused(odd: Callable) -> None:
    with pytest.raises(UsageError, match=r"2 tokens has no room for text: 2 special tokens .* --max-len 3 or more"):
        TokenizeOptions(odd("bert"), "enc", 2).sequence_maker()
    with pytest.raises(UsageError, match="no room for text: 1 special tokens"):
        TokenizeOptions(odd("t5"), "enc", None, target_column="to", start_id=0, target_len=2).sequence_maker()
    with pytest.raises(
        UsageError, match="--stride 8 is more than the 7 tokens of text that a sequence holds: use 1 to 7"
    ):
        TokenizeOptions(odd("bert"), "enc", 9, chunk=True, stride=8).sequence_maker()


@pytest.mark.parametrize("kind", list(odd_tokenizers.KINDS))
def test_validate_knows_what_tokenizers_do_to_a_text(
    tmp_path: Path, kind: str, odd: Callable, make_llama: Callable, sample_lines: list[str]
) -> None:
    tokenizer = odd(kind)
    loaded = loading.Loaded(
        make_llama(vocab_size=len(tokenizer), num_hidden_layers=1), tokenizer, kind, None, "cpu", False
    )
    texts = [*odd_tokenizers.ODD, *sample_lines[:4]]
    manifest = next_token.run(
        loaded, source(texts), next_token.Options(max_len=24, stride=7), root=tmp_path, run_id="r"
    )
    assert manifest.counts.altered > 0
    store = TraceStore(run_dir(tmp_path, "r"))
    assert failures(store) == []


@pytest.mark.parametrize(
    ("token", "here", "altered", "can_be"),
    [
        ("the", " the", False, True), ("the", "The", False, False), ("define", "#define", False, True),
        ("the", "The", True, True), ("f", "ﬁ", True, True), ("ine", "ﬁne", True, True), ("ix", "ﬁne", True, False),
        ("cafe", "café", True, True), ("cafe", "cafe\u0301", True, True), ("caf", "cab", True, False),
        ("wellknown", "well-known", True, True), ("oe", "ø", True, True), ("a", " ", True, False),
        ("soft", "so\u00adft", True, True), ("of", "the of", True, False), ("lamp", "lam", True, False),
        ("3", "３", True, True), ("4", "３", True, False), ("km", "㎞", True, True),
    ],
)  # fmt: skip
def test_what_a_token_may_be_of_characters(token: str, here: str, altered: bool, can_be: bool) -> None:
    assert matches_text(token, here, altered) == can_be


def by_hand(model, text: list[int], room: int, stride: int, bos: list[int]) -> tuple[float, int]:
    """The sliding window of Hugging Face's guide on perplexity: summed loss of tokens that no earlier window had, and how many."""
    total, n, done = 0.0, 0, 0
    for begin in range(0, len(text), stride):
        end = min(begin + room, len(text))
        row = torch.tensor([[*bos, *text[begin:end]]])
        labels = row.clone()
        labels[:, : -(end - done)] = -100
        with torch.no_grad():
            loss = float(model(row, labels=labels).loss)
        counted = int((labels[:, 1:] != -100).sum())
        total, n, done = total + loss * counted, n + counted, end
        if end == len(text):
            return total / n, n
    raise AssertionError


@pytest.mark.parametrize("bos", ["auto", "yes"])
def test_perplexity_with_a_stride_is_that_of_the_sliding_window(
    tmp_path: Path, load_tiny: Callable, sample_lines: list[str], bos: str
) -> None:
    text, loaded = " ".join(sample_lines), load_tiny()
    chosen = next_token.Options(max_len=64, stride=40, prepend_bos=bos)
    manifest = next_token.run(loaded, source([text]), chosen, root=tmp_path, run_id="r")
    store = TraceStore(run_dir(tmp_path, "r"))
    assert failures(store) == []
    first, own = [1] if bos == "yes" else [], loaded.tokenizer(text)["input_ids"]
    loss, n = by_hand(loaded.model, own, 64 - len(first), 40, first)
    assert manifest.mean_loss == pytest.approx(loss, abs=1e-5)
    assert manifest.counts.predictions == n == len(own) - (bos == "auto")
    assert manifest.options["bos_id"] == (1 if first else None)


def test_words_are_counted_once_where_windows_overlap(tmp_path: Path, load_tiny: Callable) -> None:
    from capture.data.registry import open_data

    harbour = DATA / "harbour.conllu"
    for run, options in (("whole", {}), ("windows", {"max_len": 12, "stride": 5, "capture": "hidden"})):
        data = open_data("ud_ewt", origin=str(harbour))
        next_token.run(load_tiny(), data, next_token.Options(prepend_bos="yes", **options), root=tmp_path, run_id=run)
    store = TraceStore(run_dir(tmp_path, "windows"))
    assert failures(store) == []
    assert [c for c in recheck(store.path) if not c.passed] == []
    with Warehouse(tmp_path) as wh:
        words = "SELECT example_id, word_idx, n_tokens, n_predicted, loss IS NULL FROM word_diagnostics WHERE run_id = '{}' ORDER BY ALL"
        assert wh.sql(words.format("windows")).fetchall() == wh.sql(words.format("whole")).fetchall()
        by_tag = "SELECT true_upos, count(true_upos), count(loss) FROM token_diagnostics WHERE run_id = '{}' GROUP BY 1 ORDER BY 1"
        assert wh.sql(by_tag.format("windows")).fetchall()[:-1] == wh.sql(by_tag.format("whole")).fetchall()[:-1]


def test_a_bos_is_there_as_asked_and_never_twice(tmp_path: Path, odd: Callable, tokenizer, load_tiny: Callable) -> None:
    texts, llama = ["the lamp", "the sea and the boat"], odd("llama")
    plain = [tokenizer(t)["input_ids"] for t in texts]
    bare = [llama(t, add_special_tokens=False)["input_ids"] for t in texts]
    for given, asked, expected in (
        (tokenizer, "auto", plain),
        (tokenizer, "yes", [[5, *p] for p in plain]),
        (tokenizer, "no", plain),
        (llama, "auto", [[2, *b] for b in bare]),
        (llama, "yes", [[2, *b] for b in bare]),
        (llama, "no", bare),
    ):
        bos = BosPolicy(asked, 5 if given is tokenizer else 2)
        for max_len in (None, 4):
            found = read(given, texts, "dec", max_len, bos=bos)
            assert [ids(one, "dec") for one in found] == [[e[:max_len]] for e in expected]
        chunks = read(given, texts, "dec", 4, chunk=True, bos=bos)
        if bare != expected != plain:
            assert {row[0] for one in chunks for row in ids(one, "dec")} == {bos.id}
    part = read(tokenizer, texts, "dec", bos=BosPolicy("yes", 5))[0].sequences[0].sides["dec"]
    assert part.is_special.tolist() == [True] + [False] * len(plain[0]) and part.char_start[0] == -1

    loaded = load_tiny()  # whose configuration names a BOS, its tokenizer none
    manifest = next_token.run(loaded, source(texts), next_token.Options(prepend_bos="yes"), root=tmp_path, run_id="bos")
    assert manifest.options["bos_id"] == loaded.model.config.bos_token_id == 1
    assert manifest.counts.predictions == sum(map(len, plain))
    assert failures(TraceStore(run_dir(tmp_path, "bos"))) == []


def test_a_bos_that_cannot_be_is_refused(load_tiny: Callable, tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names neither a BOS nor an EOS token that its embedding has"):
        resolve_bos(load_tiny("gpt2"), "yes")
    with pytest.raises(UsageError, match="--prepend-bos perhaps: use auto, yes, no"):
        next_token.Options(prepend_bos="perhaps")
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, chat_template="{{ messages }}")
    loaded = loading.Loaded(load_tiny().model, chat, "m", None, "cpu", False)
    with pytest.raises(UsageError, match="--prepend-bos yes: the chat template of m says what a prompt begins with"):
        OpenPromptMaker(loaded, 5, 1, resolve_bos(loaded, "yes"))
    with pytest.raises(UsageError, match="--prepend-bos no: the chat template of m says"):
        PromptMaker(chat, "m", chat=True, bos=BosPolicy("no"))
    bert = loading.Loaded(zoo.build("bert"), tokenizer, "b", None, "cpu", False)
    with pytest.raises(UsageError, match="--prepend-bos no is for decoders; b is an encoder"):
        encoding_job.run(bert, source(["a"]), encoding_job.Options(prepend_bos="no"), root=tmp_path, run_id="r")


def test_the_tokenizers_hash_does_not_tell_how_it_last_cut(odd: Callable) -> None:
    tokenizer = odd("bert")
    before = tokenizer_hash(tokenizer)
    tokenizer("the lamp and the sea", truncation=True, max_length=4)
    assert tokenizer_hash(tokenizer) == before
