"""Columns of files, of folders and of data sets of the hub by name: scores, responses, choices and answers; nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capture.data.example import Choice, Example
from capture.data.named_columns import NamedColumns
from capture.data.registry import open_data
from capture.data.transcript import Chat, Completion
from warehouse.errors import NotFoundError, UsageError

DOGS = [
    {"text": "A dog barks.", "animal": 0, "key": "a"},
    {"text": "A cat sleeps.", "animal": 1, "key": "b"},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, split: str = "validation", **columns: Any) -> list[Example]:
    return list(open_data(str(path), split=split, columns=NamedColumns(**columns)).read())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two splits as the hub's are laid out, with named labels."""
    home = tmp_path / "animals"
    (home / "data").mkdir(parents=True)
    features = datasets.Features(
        {"text": datasets.Value("string"), "animal": datasets.ClassLabel(names=["dog", "cat"]), "key": datasets.Value("string")}
    )  # fmt: skip
    for split, rows in (("train", DOGS), ("validation", DOGS[:1])):
        datasets.Dataset.from_list(rows, features).to_parquet(home / "data" / f"{split}-00000-of-00001.parquet")
    return home


def test_a_folder_of_parquet_files_is_a_data_set_with_its_splits_and_labels(folder: Path) -> None:
    found = read(folder, "train", label="animal")
    assert [(e.text, e.row.labels[0].label, e.row.labels[0].label_id) for e in found] == [
        ("A dog barks.", "dog", 0),
        ("A cat sleeps.", "cat", 1),
    ]
    assert [e.text for e in read(folder, "dev")] == ["A dog barks."]
    with pytest.raises(NotFoundError, match=r"split of .*animals.*'test'"):
        read(folder, "test")
    with pytest.raises(NotFoundError, match=r"column 'animals'.*--label-column"):
        read(folder, "train", label="animals")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_folder_of_other_files_too(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "d"
    home.mkdir()
    if kind == "jsonl":
        jsonl(home / "validation.jsonl", DOGS)
    else:
        (home / "validation.csv").write_text("text,animal,key\nA dog barks.,0,a\nA cat sleeps.,1,b\n")
    assert [e.row.source_id for e in read(home, id="key")] == ["a", "b"]


def test_what_save_to_disk_wrote_is_a_data_set(folder: Path, tmp_path: Path) -> None:
    splits = datasets.load_dataset(str(folder))
    splits.save_to_disk(tmp_path / "saved")
    splits["train"].save_to_disk(tmp_path / "one")
    same = [e.example_id for e in read(folder, "train")]
    for path in (tmp_path / "saved", tmp_path / "one"):
        found = read(path, "train", label="animal")
        assert [e.example_id for e in found] == same  # of texts of one's own, wherever they are
        assert [x.label for e in found for x in e.row.labels] == ["dog", "cat"]


def test_a_folder_without_data_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 no")
    for name in ("empty", "bad"):
        with pytest.raises(UsageError) as e:
            read(tmp_path / name, "train")
        assert "\n" not in str(e.value) and name in str(e.value)


def test_scores_of_texts_chats_and_responses(tmp_path: Path) -> None:
    said = {"target": "2", "model": "m", "judge": 0.5, "right": True, "ratings": {"wit": 3, "tone": None}}
    chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    files = {
        "texts": {"text": "1 + 1 is 2."} | said,
        "chats": {"messages": chat} | said,
        "responses": {"prompt": "1 + 1?", "response": " 2"} | said,
    }
    kinds = {}
    for name, row in files.items():
        path = jsonl(tmp_path / f"{name}.jsonl", [row])
        scores = ["judge", "right", "ratings"]
        if name == "texts":
            (example,) = open_data(text=str(path), columns=NamedColumns(scores=tuple(scores))).read()
        else:
            (example,) = read(path, scores=tuple(scores))
        kinds[name] = [type(t) for t in example.row.transcripts]
        assert [(x.seq, x.scorer, x.metric, x.value, x.is_correct) for x in example.row.evaluations] == [
            (0, "judge", "score", 0.5, None),
            (0, "right", "score", 1.0, True),
            (0, "ratings", "wit", 3.0, None),
        ]
        assert {(x.target, x.answered_by) for x in example.row.evaluations} == {("2", "m")}
    assert kinds == {"texts": [], "chats": [Chat], "responses": [Completion]}


def test_a_prompt_with_its_response_is_one_sequence(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "1 + 1?", "a": " 2"}])
    (example,) = read(path, text="q", response="a")
    assert (example.text, example.row.transcripts) == ("1 + 1?", (Completion("1 + 1?", " 2"),))


@pytest.mark.parametrize(
    ("choices", "answer", "place"),
    [
        (["stone", "wood"], 1, 1),
        (["stone", "wood"], "B", 1),
        (["stone", "wood"], "wood", 1),
        (["stone", "wood"], "1", 1),
        ({"text": ["stone", "wood"], "label": ["1", "2"]}, "1", 0),
        ({"text": ["stone", "wood"], "label": ["1", "2"]}, 2, 1),
        ([{"label": "a", "text": "stone"}, {"label": "b", "text": "wood"}], "b", 1),
        ('["stone", "wood"]', "A", 0),
        (["stone", "wood"], None, None),
        (["stone", "wood"], -1, None),
        (["stone", "wood"], "", None),
    ],
)
def test_choices_and_answers_in_any_form(tmp_path: Path, choices: Any, answer: Any, place: int | None) -> None:
    path = jsonl(tmp_path / "q.jsonl", [{"question": "Of what?", "c": choices, "a": answer}])
    (example,) = read(path, text="question", choices="c", answer="a")
    assert [c.text for c in example.row.choices] == ["stone", "wood"]
    assert example.row.answer == place


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        ("stone", "A", r"line 1: c holds 'stone', not choices: a list of texts, or "),
        (["stone"], "A", r"line 1: c has 1 choices with the labels A: give two or more"),
        ({"text": ["a", "b"], "label": ["A"]}, "A", r"line 1: c has 2 choices, and not a label for each\."),
        (
            ["stone", "wood"],
            "C",
            r"line 1: a holds C, which is none of the choices: give a label \(A, B\), a choice's text, or",
        ),
        (["stone", "wood"], 2, r"line 1: a holds 2, which is none of the choices"),
        (["same", "same"], "same", r"line 1: a holds same, which is none of the choices"),
    ],
)
def test_choices_that_are_none_are_refused(tmp_path: Path, choices: Any, answer: Any, message: str) -> None:
    path = jsonl(tmp_path / "q.jsonl", [{"question": "Of what?", "c": choices, "a": answer}])
    with pytest.raises(UsageError, match=message):
        read(path, text="question", choices="c", answer="a")


def test_columns_that_are_not_there_or_named_twice_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", [{"question": "Of what?", "c": ["a", "b"]}])
    with pytest.raises(NotFoundError, match="--answer-column"):
        read(path, text="question", choices="c", answer="key")
    with pytest.raises(UsageError, match=r"--answer-column c is what --choices-column names already: name another\."):
        read(path, text="question", choices="c", answer="c")
    with pytest.raises(UsageError, match=r"--score-column goes with --text FILE, or with --data and a file, a folder"):
        read(Path("csqa"), scores=("x",))
    with pytest.raises(UsageError, match="--score-column is empty"):
        read(path, scores=("", "x"))


def test_a_struct_of_choices_in_parquet_is_read(tmp_path: Path) -> None:
    home = tmp_path / "arc"
    home.mkdir()
    rows = [{"question": "Of what?", "choices": {"text": ["stone", "wood"], "label": ["A", "B"]}, "answerKey": "B"}]
    pq.write_table(pa.Table.from_pylist(rows), home / "validation.parquet")
    (example,) = read(home, text="question", choices="choices", answer="answerKey")
    assert (example.row.choices, example.row.answer) == ((Choice("A", "stone"), Choice("B", "wood")), 1)
