from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import DATA

from capture.data.csqa import DATASET
from capture.data.example import Choice
from capture.data.registry import open_data
from warehouse.errors import UsageError

HUB = "tau/commonsense_qa"


def test_a_question_has_its_concept_five_choices_and_the_place_of_the_right_one() -> None:
    row = next(DATASET.read_file(DATA / "questions.jsonl"))
    assert (row.source_id, row.text) == ("q1", "The keeper climbs the stairs to light what?")
    assert row.metadata == {"question_concept": "stairs"}
    assert row.choices[:2] == (Choice("A", "lamp"), Choice("B", "boat")) and len(row.choices) == 5
    assert row.answer == 0


def test_the_original_shape_and_the_hubs_are_the_same_rows() -> None:
    assert list(DATASET.read_file(DATA / "questions.jsonl")) == list(
        DATASET.read_file(DATA / "questions_original.jsonl")
    )


@pytest.mark.parametrize("part", ["train", "validation"])
def test_the_real_parts_field_by_field(part: str, shared: Callable[[str], Path]) -> None:
    path = shared(f"csqa/{part}.jsonl")
    plain = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = list(open_data("csqa", split=part, origin=str(path.parent)).read())
    assert [e.row.source_id for e in rows] == [p["id"] for p in plain]
    for example, p in zip(rows, plain, strict=True):
        row = example.row
        assert row.text == p["question"] and row.metadata == {"question_concept": p["question_concept"]}
        assert [c.text for c in row.choices] == p["choices"]["text"]
        assert row.choices[row.answer].label == p["answerKey"]


GOOD = {
    "id": "q9",
    "question": "Where is the light?",
    "question_concept": "light",
    "choices": {"label": list("ABCDE"), "text": ["rock", "boat", "sea", "sky", "sand"]},
    "answerKey": "A",
}


def read(path: Path, **changes: Any) -> list:
    fields = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    path.write_text(json.dumps(GOOD | {"id": "q8"}) + "\n" + json.dumps(fields) + "\n")
    return list(DATASET.read_file(path))


@pytest.mark.parametrize("key", ["", None, ...])
def test_a_split_without_keys(tmp_path: Path, key: object) -> None:
    assert read(tmp_path / "test.jsonl", answerKey=key)[1].answer is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answerKey": "F"}, "the key 'F' is not among the choices .A, B, C, D, E."),
        ({"answerKey": 1}, "the key '1' is not among"),
        ({"choices": {"label": list("ABCD"), "text": list("abcd")}}, "has 4 choices with 4 labels, not 5"),
        ({"choices": {"label": list("ABCDE"), "text": list("abcd")}}, "has 4 choices with 5 labels, not 5"),
        ({"choices": {"label": list("ABCDA"), "text": list("abcde")}}, "two choices have the same label"),
        ({"choices": {"label": list("ABCDE"), "text": ["a", None, "c", "d", "e"]}}, "the text of a choice is missing"),
        ({"choices": {"label": list("ABCDE")}}, "has no 'text'"),
        ({"choices": list("abcde")}, "'choices' holds list, not dict"),
        ({"id": ...}, "has no 'id'"),
        ({"question": ...}, "has no 'question'"),
        ({"question": 7}, "'question' holds int, not str"),
        ({"question_concept": ...}, "has no 'question_concept'"),
        ({"question": {"stem": "x", "choices": ["a"]}}, "a choice is not an object"),
        ({"question": {"stem": "x"}}, "has no 'choices'"),
        ({"id": "q8"}, "the question q8 is already on line 1"),
    ],
)
def test_bad_questions_are_named_with_file_and_line(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=rf"dev\.jsonl, line 2.*{message}"):
        read(tmp_path / "dev.jsonl", **changes)


@pytest.mark.parametrize("name", ["", "csqa/validation.jsonl"])
def test_the_hubs_copy_and_the_file_are_the_same_examples(
    name: str, publish: Callable[..., None], shared: Callable[[str], Path]
) -> None:
    path = shared(name) if name else DATA / "questions.jsonl"
    plain = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    publish(HUB, "default", {"validation": plain, "test": [p | {"answerKey": ""} for p in plain]})
    hub = open_data("csqa")
    file = open_data("csqa", origin=str(path))
    assert [(e.example_id, e.row) for e in hub.read()] == [(e.example_id, e.row) for e in file.read()]
    assert all(e.row.answer is None for e in open_data("csqa", split="test").read())


def test_a_text_that_is_not_unicode_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dev\.jsonl, line 2 is not JSON: it holds \\ud800, half of a surrogate pair"):
        read(tmp_path / "dev.jsonl", question="half \ud800 of a pair")
