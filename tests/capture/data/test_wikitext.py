from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from samples import DATA

from capture.data.registry import DATASETS, open_data
from capture.data.wikitext import kind

SAMPLE = DATA / "articles.txt"
NAMES = ["wikitext2", "wikitext2-raw", "wikitext103", "wikitext103-raw"]


def test_headings_and_blank_rows_are_left_out_and_said() -> None:
    source = open_data("wikitext2", origin=str(SAMPLE))
    found = list(source.read())
    assert [(e.row.source_id, e.text[:4]) for e in found] == [("3", "Lamp"), ("7", "Anna"), ("8", "Jon ")]
    assert source.reads == "paragraphs"
    assert source.description() == "wikitext2: 3 paragraphs; 2 headings and 5 blank rows left out"
    next(source.read())
    assert source.description() == "wikitext2: 1 paragraph; 1 heading and 2 blank rows left out"


def test_headings_where_they_are_asked_for() -> None:
    source = open_data("wikitext2", origin=str(SAMPLE), headings=True)
    plain = open_data("wikitext2", origin=str(SAMPLE))
    found = {e.example_id: e.text for e in source.read()}
    assert list(found.values())[:3:2] == ["= Lamp rock =", "= = Keepers = ="]
    assert source.reads == "paragraphs and headings"
    assert source.description() == "wikitext2: 3 paragraphs and 2 headings; 5 blank rows left out"
    assert {e.example_id for e in plain.read()} < set(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" = Title = \n", "headings"),
        ("= = = Deep title = = =", "headings"),
        ("= a = b =", "headings"),
        ("x = y + z =", "paragraphs"),
        ("= = lopsided =", "paragraphs"),
        ("=", "paragraphs"),
        (" \n", "blank rows"),
    ],
)
def test_what_is_a_heading(text: str, expected: str) -> None:
    assert kind(text) == expected


def test_the_real_part_row_by_row(wikitext: Path) -> None:
    source = open_data("wikitext2", origin=str(wikitext), headings=True)
    found = list(source.read())
    lines = wikitext.read_text(encoding="utf-8").split("\n")
    assert all(lines[int(e.row.source_id)].strip() == e.text for e in found)
    assert len(found) == sum(bool(line.strip()) for line in lines)
    assert len({e.example_id for e in found}) == len(found)
    assert source.description() == "wikitext2: 1,841 paragraphs and 620 headings; 1,299 blank rows left out"
    folder = open_data("wikitext2", origin=str(wikitext.parent), headings=True)
    assert [e.example_id for e in folder.read()] == [e.example_id for e in found]


@pytest.mark.parametrize("name", NAMES)
def test_the_hubs_copy_and_the_file_are_the_same_examples(name: str, publish: Callable[..., None]) -> None:
    # The hub has its lines with their ends, and what is only white space as nothing.
    lines = SAMPLE.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [{"text": line if line.strip() else ""} for line in lines]
    publish("Salesforce/wikitext", DATASETS[name].config, {"validation": rows})
    hub = open_data(name)
    file = open_data(name, origin=str(SAMPLE))
    assert [(e.example_id, e.text) for e in hub.read()] == [(e.example_id, e.text) for e in file.read()]
    assert hub.description() == file.description()


def test_each_form_has_ids_of_its_own() -> None:
    ids = [e.example_id for name in NAMES for e in open_data(name, split="dev", origin=str(SAMPLE)).read()]
    assert len(set(ids)) == 3 * len(NAMES)


def test_an_id_is_made_of_data_set_form_split_and_row() -> None:
    first = next(open_data("wikitext2", origin=str(SAMPLE)).read())
    parts = ("wikitext2", "wikitext-2-v1", "validation", "3")
    assert first.example_id == sha256("\x1f".join(parts).encode()).hexdigest()[:16]
