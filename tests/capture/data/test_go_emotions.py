from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import DATA

from capture.data.example import Label
from capture.data.go_emotions import DATASET, NAMES
from capture.data.registry import open_data
from warehouse.errors import UsageError

SAMPLE = DATA / "emotions.tsv"
HUB = "google-research-datasets/go_emotions"


def test_labels_have_their_names_and_quoted_texts_are_unquoted() -> None:
    rows = list(DATASET.read_file(SAMPLE))
    assert [(r.source_id, r.labels) for r in rows[:2]] == [
        ("harbour1", (Label(15, "gratitude"),)),
        ("harbour2", (Label(25, "sadness"), Label(17, "joy"))),
    ]
    assert rows[1].text == 'The old lamp said "good night", and I cried.'
    assert rows[2].text == 'A lone " mark in a line is only a mark.'


def test_the_names_are_those_of_the_release(shared: Callable[[str], Path]) -> None:
    assert list(NAMES) == shared("go_emotions/labels.txt").read_text().split()


def test_the_whole_part_as_a_reader_of_csv_sees_it(shared: Callable[[str], Path]) -> None:
    path = shared("go_emotions/validation.tsv")
    with path.open(encoding="utf-8", newline="") as f:
        plain = [(t, [int(i) for i in ids.split(",")], c) for t, ids, c in csv.reader(f, delimiter="\t")]
    found = [(r.text, [x.label_id for x in r.labels], r.source_id) for r in DATASET.read_file(path)]
    assert found == plain and len(found) == 5426
    assert all(x.label == NAMES[x.label_id] for r in DATASET.read_file(path) for x in r.labels)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("only a text", "line 2 has 1 fields, not 3"),
        ("a\tb\t3\tid", "line 2 has 4 fields, not 3"),
        ("a\t28\tid", "line 2: there is no label 28: they go from 0 to 27"),
        ("a\t-1\tid", "line 2: '-1' is not label ids"),
        ("a\tjoy\tid", "line 2: 'joy' is not label ids"),
        ("a\t\tid", "line 2: '' is not label ids"),
        ("a\t3,3\tid", "line 2 has the label 3 .annoyance. twice"),
        ("a\t3\tfirst", "line 2: the comment first is already on line 1"),
        ("a\t3\t", "line 2 has no comment id"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text(f"good\t0\tfirst\n{line}\n")
    with pytest.raises(UsageError, match=rf"dev\.tsv, {message}"):
        list(DATASET.read_file(path))


def publish_rows(publish: Callable[..., None], rows: list[dict]) -> None:
    from datasets import ClassLabel, Features, Value

    features = Features({"text": Value("string"), "labels": [ClassLabel(names=list(NAMES))], "id": Value("string")})
    publish(HUB, "simplified", {"validation": rows}, features)


@pytest.mark.parametrize("name", ["", "go_emotions/validation.tsv"])
def test_the_hubs_copy_and_the_file_are_the_same_examples(
    name: str, publish: Callable[..., None], shared: Callable[[str], Path]
) -> None:
    path = shared(name) if name else SAMPLE
    rows = [
        {"text": r.text, "labels": [x.label_id for x in r.labels], "id": r.source_id} for r in DATASET.read_file(path)
    ]
    publish_rows(publish, rows)
    hub = open_data("go_emotions")
    file = open_data("go_emotions", origin=str(path))
    assert [(e.example_id, e.row) for e in hub.read()] == [(e.example_id, e.row) for e in file.read()]


def test_a_hubs_copy_that_has_changed(publish: Callable[..., None]) -> None:
    publish(HUB, "simplified", {"validation": [{"text": "a", "emotions": [1]}]})
    with pytest.raises(UsageError, match="has no column labels or id, but text, emotions.*--from FILE"):
        open_data("go_emotions")
