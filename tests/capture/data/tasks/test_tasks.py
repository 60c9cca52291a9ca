"""Tasks that ship, and pairs of one's own: what is drawn, and what a file may hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import odd_tokenizers
import pytest

from capture.data.repeated_words import WORDS
from capture.data.tasks.registry import TASKS, find_task
from capture.data.tasks.task import Pair
from capture.recording.metrics import METRICS
from warehouse.errors import NotFoundError, UsageError


@pytest.fixture(scope="module")
def word_tokenizer():
    return odd_tokenizers.of_words([f"{word} {word}" for word in WORDS], 1)


def drawn(name: str, tokenizer: object, n: int = 300, seed: int = 0) -> list[Pair]:
    return list(islice(find_task(name).pairs(tokenizer, seed), n))


@pytest.mark.parametrize("name", TASKS)
def test_hundreds_of_pairs_each_once_and_the_same_for_the_same_seed(name: str, word_tokenizer) -> None:
    pairs = drawn(name, word_tokenizer)
    assert len({p.clean for p in pairs}) == len({p.source_id for p in pairs}) == 300
    assert pairs == drawn(name, word_tokenizer)
    assert len({p.clean for p in pairs} & {p.clean for p in drawn(name, word_tokenizer, seed=1)}) < 150
    templates = Counter(p.template for p in pairs)
    assert len(templates) >= 4 and min(templates.values()) > 10
    assert find_task(name).metric in METRICS
    for pair in pairs:
        assert pair.clean != pair.corrupted and len(pair.clean.split()) == len(pair.corrupted.split())
        assert {1, -1} <= set(pair.continuations.values())


def test_the_receiver_is_the_one_who_is_not_named_again() -> None:
    orders = Counter()
    for pair in drawn("ioi", None):
        ((right, _), (wrong, _)) = sorted(pair.continuations.items(), key=lambda item: -item[1])
        clean, corrupted = ([w.strip(".,") for w in text.split()] for text in (pair.clean, pair.corrupted))
        assert (clean.count(wrong[1:]), clean.count(right[1:])) == (2, 1)
        assert (corrupted.count(wrong[1:]), corrupted.count(right[1:])) == (1, 2)
        orders[clean.index(right[1:]) < clean.index(wrong[1:])] += 1
    assert orders[True] == orders[False] == 150


def test_agreement_changes_the_subject_alone() -> None:
    right = Counter()
    for pair in drawn("agreement", None):
        changed = [(x, y) for x, y in zip(pair.clean.split(), pair.corrupted.split(), strict=True) if x != y]
        assert len(changed) == 1
        answer = next(text for text, sign in pair.continuations.items() if sign == 1)
        plural = changed[0][0].endswith(("s", "men", "children")) and not changed[0][1].endswith("children")
        assert (answer in (" are", " were", " have")) == plural
        right[plural] += 1
    assert abs(right[True] - right[False]) < 30


def test_greater_than_begins_at_01_where_it_is_corrupted() -> None:
    for pair in drawn("greater_than", None):
        (first, century), corrupted = re.findall(r"\d+", pair.clean), re.findall(r"\d+", pair.corrupted)
        assert first[:2] == century and corrupted == [f"{century}01", century]
        assert pair.clean.endswith(century)
        above = {text for text, sign in pair.continuations.items() if sign == 1}
        assert above == {f"{n:02d}" for n in range(int(first[2:]) + 1, 100)}
        assert pair.continuations[first[2:]] == 0


def test_induction_looks_up_the_first_copy(word_tokenizer) -> None:
    for pair in drawn("induction", word_tokenizer):
        answer, wrong = (text[1:] for text in pair.continuations)
        for text, last in ((pair.clean, answer), (pair.corrupted, wrong)):
            words = text.split()
            n = len(words) // 2
            assert words[n] == last and words[:n] == words[n + 1 :] and len(set(words[: n + 1])) == n + 1


def test_induction_needs_words_that_are_single_tokens(tokenizer) -> None:
    with pytest.raises(UsageError, match="25 words that are one token each"):
        next(find_task("induction").pairs(tokenizer, 0))


def test_an_unknown_task_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Did you mean induction"):
        find_task("inducton")
    with pytest.raises(NotFoundError, match="greater_than, indirect_object, agreement, induction"):
        find_task("xyz")
    with pytest.raises(NotFoundError, match="No file"):
        find_task(str(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match="is empty"):
        find_task(" ")


ROWS = [
    {"clean": "The key", "corrupted": "The keys", "answer": " is", "wrong": " are", "topic": "things"},
    {"clean": 'A "dog", she said,', "corrupted": "Two, he", "answer": " a", "wrong": " b", "topic": "x"},
]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_pairs_of_ones_own_come_from_any_file_with_columns(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"mine{ending}"
    if ending == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        quoted = [['"' + value.replace('"', '""') + '"' for value in row.values()] for row in ROWS]
        mark = "," if ending == ".csv" else "\t"
        path.write_text("\n".join(mark.join(fields) for fields in [list(ROWS[0]), *quoted]))
    task = find_task(str(path))
    assert (task.name, task.metric, task.own, task.whole_answers) == ("mine", "logit_diff", True, True)
    pairs = list(task.pairs(None, 0))
    assert [(p.clean, p.corrupted) for p in pairs] == [(row["clean"], row["corrupted"]) for row in ROWS]
    assert [dict(p.continuations) for p in pairs] == [{" is": 1, " are": -1}, {" a": 1, " b": -1}]
    assert (pairs[0].corruption, pairs[0].template) == ("own", None)
    assert pairs[0].facts == {"answer": " is", "wrong": " are", "topic": "things"}


def test_template_and_corruption_are_read_where_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("clean,corrupted,answer,wrong,template,corruption\nx,y, a, b,[x],the letter\n")
    (pair,) = find_task(str(tmp_path / "a.csv")).pairs(None, 0)
    assert (pair.template, pair.corruption) == ("[x]", "the letter")


def test_a_file_with_labels_is_greater_than(tmp_path: Path) -> None:
    (tmp_path / "years.csv").write_text("clean,corrupted,label\nfrom 1302 to 13,from 1301 to 13,2\n")
    task = find_task(str(tmp_path / "years.csv"))
    assert (task.name, task.metric, task.own, task.whole_answers) == ("greater_than", "prob_diff", True, False)
    (pair,) = task.pairs(None, 0)
    assert Counter(pair.continuations.values()) == {1: 97, -1: 2, 0: 1} and pair.continuations["02"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clean,corrupted,answer\nx,y, a\n", "No column 'wrong'.*line 2.*Pairs need the columns"),
        ("text\nx\n", "No column 'clean'"),
        ("clean,corrupted,answer,wrong\nx,y, a, b\n ,y, a, b\n", "line 3: column 'clean' is empty"),
        ("clean,corrupted,answer,wrong\nx,y, a, a\n", "line 2: answer and wrong are the same text, ' a'"),
        ("clean,corrupted,label\nx,y,100\n", "line 2: label 100 is no number from 0 to 99"),
        ("clean,corrupted,label\nx,y,-3\n", "label -3"),
        ("clean,corrupted,answer,wrong\n", "holds no pairs"),
    ],
)
def test_what_is_no_file_of_pairs(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        find_task(str(tmp_path / "bad.csv"))


def test_a_text_file_holds_no_pairs(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("x\n")
    with pytest.raises(UsageError, match="pairs come from .csv, .tsv"):
        find_task(str(tmp_path / "bad.txt"))
