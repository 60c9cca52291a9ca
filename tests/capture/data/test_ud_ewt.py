from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import conllu
import pytest
from samples import DATA

from capture.data.example import Example, Row, Word
from capture.data.registry import open_data
from capture.data.ud_ewt import DATASET
from warehouse.errors import UsageError

SAMPLE = DATA / "harbour.conllu"
HUB = "universal-dependencies/universal_dependencies"


def read(path: Path) -> list[Row]:
    return list(DATASET.read_file(path))


def test_words_have_their_annotation_and_their_place_in_the_text() -> None:
    row = read(SAMPLE)[0]
    assert (row.source_id, row.text) == ("harbour-1", "The keeper didn't sleep, so he rowed home.")
    assert row.metadata == {"doc": "harbour"}
    assert row.words[1] == Word(
        "2", "keeper", "keeper", "NOUN", "NN", "Number=Sing", 4, "nsubj", "5:nsubj", None, 4, 10
    )
    did, not_ = row.words[2:4]
    assert (did.form, did.multiword, did.start, did.end) == ("did", "didn't", 11, 14)
    assert (not_.form, not_.multiword, not_.start, not_.end) == ("n't", "didn't", 14, 17)
    assert [w.form for w in row.words if w.head is None] == ["sleep"]


def test_an_empty_node_is_a_word_without_place_or_head_and_shifts_the_places_of_those_after_it() -> None:
    row = read(SAMPLE)[1]
    empty = row.words[5]
    assert empty == Word("5.1", "lit", "light", "VERB", "VBD", "Mood=Ind|Tense=Past|VerbForm=Fin", deps="2:conj:and")
    fire = next(w for w in row.words if w.form == "fire")
    assert row.words[fire.head].form == "Jon" and fire.head == 6 and row.words[6].word_id == "6"
    assert row.metadata == {"doc": "harbour"}


def test_an_underscore_is_one_where_the_text_has_one() -> None:
    underscore = read(SAMPLE)[1].words[9]
    assert (underscore.form, underscore.lemma, underscore.feats) == ("_", "_", None)
    unspoken = read(SAMPLE)[2].words[4]
    assert (unspoken.word_id, unspoken.form, unspoken.lemma) == ("4.1", None, "it")


def test_words_that_do_not_make_up_their_multiword_token_have_all_of_it_and_a_missing_text_is_rebuilt() -> None:
    row = read(SAMPLE)[2]
    assert row.text == "He gonna leave!"
    assert [(w.form, w.start, w.end) for w in row.words[1:3]] == [("going", 3, 8), ("to", 3, 8)]
    assert row.metadata == {"doc": "letters"}


def test_every_sentence_of_the_treebank_against_its_plain_text(shared: Callable[[str], Path]) -> None:
    """Counts, ids, heads and columns as `str.split` sees them; characters as the text has them."""
    path = shared("ud_ewt/dev.conllu")
    rows = {row.source_id: row for row in read(path)}
    assert len(rows) == 2001
    kinds: Counter[str] = Counter()
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        comments = dict(re.findall(r"^# (\S+) = (.*)$", block, re.M))
        lines = [line.split("\t") for line in block.split("\n") if not line.startswith("#")]
        row = rows.pop(comments["sent_id"])
        assert row.text == comments["text"]
        nodes = [c for c in lines if "-" not in c[0]]
        ids = [c[0] for c in nodes]
        assert [w.word_id for w in row.words] == ids
        heads = ["_" if "." in w.word_id else "0" if w.head is None else ids[w.head] for w in row.words]
        assert heads == [c[6] for c in nodes]
        for at, name in ((3, "upos"), (4, "xpos"), (5, "feats"), (7, "deprel"), (8, "deps")):
            assert [getattr(w, name) or "_" for w in row.words] == [c[at] for c in nodes]
        assert [w.form or "_" for w in row.words] == [c[1] for c in nodes]
        assert [w.lemma or "_" for w in row.words] == [c[2] for c in nodes]
        covered = set()
        for w in row.words:
            if w.start is None:
                assert w.end is None and "." in w.word_id
                continue
            covered.update(range(w.start, w.end))
            part = row.text[w.start : w.end]
            assert part == w.form or (w.multiword is not None and part == w.multiword)
        assert all(i in covered for i, c in enumerate(row.text) if not c.isspace())
        assert not any(row.text[i].isspace() for i in covered)
        parts = [c[0].split("-") for c in lines if "-" in c[0]]
        inside = {str(n) for a, b in parts for n in range(int(a), int(b) + 1)}
        assert {w.word_id for w in row.words if w.multiword} == inside
        kinds.update("empty" if "." in w.word_id else "word" for w in row.words)
        kinds["multiword"] += len(parts)
    assert not rows
    plain = Counter(
        "multiword" if "-" in line.split("\t")[0] else "empty" if "." in line.split("\t")[0] else "word"
        for line in path.read_text(encoding="utf-8").split("\n")
        if line[:1].isdigit()
    )
    assert kinds == plain and all(plain[k] for k in ("word", "multiword", "empty"))


GOOD = """# sent_id = one
# text = I can't go
1\tI\tI\tPRON\tPRP\t_\t4\tnsubj\t_\t_
2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_
2\tca\tcan\tAUX\tMD\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tPRP\t_\t4", "\tPRP\t4", "line 3 has 9 columns, not 10"),
        ("1\tI\tI", "1  I  I", "line 3 has 8 columns"),
        ("1\tI\tI", "1\tI  I\tI", "line 3: the column FORM has two spaces"),
        ("\tMD\t", "\t\t", "line 5: the column XPOS is empty"),
        ("3\tn't", "5\tn't", "line 6: the id 5 is not in order"),
        ("3\tn't", "2\tn't", "line 6: the id 2 is not in order"),
        ("2-3\t", "3-2\t", "line 4 is not CoNLL-U.*'3-2' is not a valid ID"),
        ("2-3\t", "3-4\t", "line 4: the id 3-4 is not in order"),
        ("2-3\t", "2-9\t", "line 7: the sentence ends before the multiword token"),
        ("3\tn't", "2.2\tn't", r"line 6: the id 2.2 is not in order"),
        ("1\tI\tI", "x\tI\tI", "line 3 is not CoNLL-U.*'x'"),
        ("1\tI\tI", "_\tI\tI", "line 3 has no ID"),
        ("\t4\taux", "\t9\taux", "line 5: the head 9 is not a word"),
        ("\t4\taux", "\t-1\taux", "line 5: -1 cannot be the head"),
        ("\t4\taux", "\t2\taux", "line 5: 2 cannot be the head"),
        ("\t4\taux", "\tgo\taux", "line 5 is not CoNLL-U.*head.*'go'"),
        ("4\tgo", "4\tstay", "line 7: the text continues with 'go', not with 'stay'"),
        ("can't go", "can't go home", "line 7: the sentence ends here.*'home'"),
        ("# sent_id = one\n", "", "line 1: the sentence has no '# sent_id"),
        ("# sent_id", "# a comment\n\n# sent_id", "line 1: comments without a sentence"),
    ],
)
def test_what_is_not_conllu_is_named_with_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "dev.conllu"
    assert GOOD.count(old) == 1
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UsageError, match=rf"dev\.conllu, {message}"):
        read(path)


def test_a_sentence_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "dev.conllu"
    path.write_text(f"{GOOD}\n{GOOD}")
    with pytest.raises(UsageError, match="line 9: the sentence one is already on line 1"):
        read(path)
    path.write_text(GOOD.replace("\n", "\r\n"))
    assert [w.form for w in read(path)[0].words] == ["I", "ca", "n't", "go"]


TAGS = ["NOUN", "PUNCT", "ADP", "NUM", "SYM", "SCONJ", "ADJ", "PART", "DET", "CCONJ", "PROPN", "PRON", "X", "_", "ADV",
        "INTJ", "VERB", "AUX"]  # fmt: skip


def as_the_hub_has_it(path: Path) -> list[dict]:
    """What the hub's script made of a CoNLL-U file: conllu's values, most of them through `str`."""
    texts = {row.source_id: row.text for row in read(path)}
    return [
        {
            "idx": s.metadata["sent_id"],
            "text": texts[s.metadata["sent_id"]],
            "tokens": [t["form"] for t in s],
            "lemmas": [t["lemma"] for t in s],
            "upos": [t["upos"] for t in s],
            "xpos": [t["xpos"] for t in s],
            **{name: [str(t[name]) for t in s] for name in ("feats", "head", "deprel", "deps", "misc")},
        }
        for s in conllu.parse(path.read_text(encoding="utf-8"))
    ]


def publish_treebank(publish: Callable[..., None], path: Path) -> None:
    from datasets import ClassLabel, Features, Value

    texts = [Value("string")]
    names = ("tokens", "lemmas", "xpos", "feats", "head", "deprel", "deps", "misc")
    features = {"idx": Value("string"), "text": Value("string"), "upos": [ClassLabel(names=TAGS)]}
    publish(HUB, "en_ewt", {"validation": as_the_hub_has_it(path)}, Features(features | dict.fromkeys(names, texts)))


def seen(examples: list[Example]) -> list[tuple]:
    return [(e.example_id, e.text, e.row.words) for e in examples]


def test_the_hubs_copy_and_the_file_are_the_same_examples(publish: Callable[..., None]) -> None:
    publish_treebank(publish, SAMPLE)
    hub = open_data("ud_ewt")
    file = open_data("ud_ewt", split="dev", origin=str(SAMPLE))
    assert hub.origin == HUB and file.origin == str(SAMPLE)
    assert seen(list(hub.read())) == seen(list(file.read()))


@pytest.mark.slow
def test_the_whole_treebank_as_the_hub_has_it(publish: Callable[..., None], shared: Callable[[str], Path]) -> None:
    path = shared("ud_ewt/dev.conllu")
    publish_treebank(publish, path)
    hub = open_data("ud_ewt")
    file = open_data("ud_ewt", origin=str(path))
    assert seen(list(hub.read())) == seen(list(file.read()))
