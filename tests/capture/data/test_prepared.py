"""Prepared data and the hub's copies come from elsewhere: what cannot be of its data set is one line that names the row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import DATA

from capture.data import prepared
from capture.data.example import Row
from capture.data.registry import DATASETS, open_data, split_reader
from warehouse.errors import TracesError, UsageError
from warehouse.storage.paths import prepared_path

SAMPLES = {"ud_ewt": "harbour.conllu", "go_emotions": "emotions.tsv", "csqa": "questions.jsonl"}
KEY = b"trace-warehouse"


def change(
    root: Path, name: str, rows: Callable[[list[dict]], object] | None = None, about: bytes | None = None
) -> Path:
    """Prepares a sample, and writes it again as somebody else may have left it."""
    origin = str(DATA / SAMPLES[name])
    path = prepared_path(root, name, "validation")
    prepared.write(path, DATASETS[name], "validation", origin, split_reader(DATASETS[name], "validation", origin)[0])
    table, told = pq.read_table(path), pq.ParquetFile(path).metadata.metadata[KEY]
    found = table.to_pylist()
    if rows is not None:
        rows(found)
    schema = table.schema.with_metadata({KEY: told if about is None else about})
    pq.write_table(pa.Table.from_pylist(found, schema), path)
    return path


def refused(root: Path, name: str, message: str) -> None:
    with pytest.raises(TracesError, match=message) as e:
        list(open_data(name, root=root).read())
    assert "\n" not in str(e.value) and f"traces data prepare {name}" in str(e.value)


def put(key: str, value: object) -> Callable[[list[dict]], object]:
    return lambda rows: rows[1].update({key: value})


def put_in(key: str, place: int, value: Any) -> Callable[[list[dict]], object]:
    def changed(rows: list[dict]) -> None:
        rows[1][key][place] = None if value is None else rows[1][key][place] | value

    return changed


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        *(("csqa", put(key, None), f"its column {key} is null") for key in ("source_id", "text", "metadata", "words")),
        *(("ud_ewt", put("metadata", m), "metadata is not a JSON object") for m in ("[]", "null", '"a"', "1")),
        ("ud_ewt", put("metadata", "{"), "metadata is not JSON"),
        ("ud_ewt", put("metadata", "[" * 100_000), "metadata is not JSON: it is nested"),
        ("ud_ewt", put("metadata", '{"a": "\\ud800"}'), r"metadata is not JSON: it holds \\ud800"),
        ("ud_ewt", put_in("words", 2, None), "its word 2 is null"),
        ("ud_ewt", put_in("words", 2, {"word_id": None}), "its word 2 is null"),
        ("ud_ewt", put_in("words", 2, {"start": 5, "end": 3}), "word 2 is at characters 5 to 3 of a text of"),
        ("ud_ewt", put_in("words", 2, {"end": 9999}), "word 2 is at characters .* to 9999 of a text of"),
        ("ud_ewt", put_in("words", 2, {"start": -1}), "word 2 is at characters -1 to"),
        ("ud_ewt", put_in("words", 2, {"start": None}), "word 2 is at characters None to"),
        ("ud_ewt", put_in("words", 2, {"head": 99}), "the head of its word 2 is word 99 of 11"),
        ("ud_ewt", put_in("words", 2, {"head": -1}), "the head of its word 2 is word -1 of 11"),
        ("ud_ewt", put("answer", 0), "its answer is choice 0 of 0"),
        ("go_emotions", put_in("labels", 0, {"label_id": 28}), "there is no label 28"),
        ("go_emotions", put_in("labels", 0, {"label_id": None}), "there is no label None"),
        ("go_emotions", put_in("labels", 0, {"label": "bliss"}), "there is no label .* 'bliss'"),
        ("go_emotions", put_in("labels", 0, None), "a label that is null or repeated"),
        ("go_emotions", put("labels", [{"label_id": 17, "label": "joy"}] * 2), "a label that is null or repeated"),
        ("csqa", put("choices", []), "it has 0 choices, not 5"),
        ("csqa", lambda rows: rows[1]["choices"].pop(), "it has 4 choices, not 5"),
        ("csqa", put_in("choices", 0, None), "it has a choice that is null"),
        ("csqa", put_in("choices", 0, {"text": None}), "it has a choice that is null"),
        ("csqa", put_in("choices", 0, {"label": "B"}), "two of its choices have the same label"),
        ("csqa", put("answer", 5), "its answer is choice 5 of 5"),
        ("csqa", put("answer", -1), "its answer is choice -1 of 5"),
    ],
)
def test_a_row_that_cannot_be_of_its_data_set_is_named(
    tmp_path: Path, name: str, rows: Callable[[list[dict]], object], message: str
) -> None:
    change(tmp_path, name, rows)
    refused(tmp_path, name, rf"validation\.parquet, row 2: .*{message}")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        *(
            (about, "is not prepared data")
            for about in (b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format_version": "1"}')
        ),
        (b'{"format_version": 99}', "prepared by a newer version"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "is not prepared data"),
        (b'{"format_version": 1}', "says that it holds other data: nothing"),
        (b'{"format_version": 1, "dataset": "csqa", "split": "validation"}', "other data: csqa validation"),
        (b'{"format_version": 1, "dataset": "ud_ewt", "split": "test"}', "other data: ud_ewt test"),
        (b'{"format_version": 1, "dataset": ["a\\nb"], "split": {"x": 1}}', "other data"),
    ],
    ids=range(11),
)
def test_a_file_that_says_it_is_something_else_is_refused(tmp_path: Path, about: bytes, message: str) -> None:
    change(tmp_path, "ud_ewt", about=about)
    refused(tmp_path, "ud_ewt", message)


def test_text_that_is_none_and_a_folder_in_its_place(tmp_path: Path) -> None:
    path = change(tmp_path, "csqa")
    table = pq.read_table(path)
    held = pa.array([b"\xff"] * table.num_rows, pa.binary())
    broken = pa.StringArray.from_buffers(len(held), held.buffers()[1], held.buffers()[2])
    pq.write_table(table.set_column(1, "text", broken), path)
    refused(tmp_path, "csqa", "row 1: column 'text' cannot be read: it is not UTF-8 text")
    path.unlink()
    path.mkdir()
    refused(tmp_path, "csqa", "is damaged")


def test_an_id_that_is_there_twice(tmp_path: Path) -> None:
    change(tmp_path, "ud_ewt", put("source_id", "harbour-1"))
    with pytest.raises(UsageError, match=r"validation\.parquet has two rows with the id 'harbour-1'"):
        list(open_data("ud_ewt", root=tmp_path).read())


def test_what_cannot_be_kept_is_named_before_it_is_prepared(tmp_path: Path) -> None:
    path = tmp_path / "validation.parquet"
    with pytest.raises(UsageError, match=r"mine, row q2: its text has \\ud800, half of a surrogate pair"):
        prepared.write(
            path, DATASETS["csqa"], "validation", "mine", lambda: iter([Row("q1", "a"), Row("q2", "\ud800")])
        )
    assert not list(tmp_path.iterdir())


# -- the hub -----------------------------------------------------------------------------------------------------------

EMOTIONS = "google-research-datasets/go_emotions"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None, "labels": [1], "id": "b"}, "row 1: column 'text' holds None, not str"),
        ({"text": "b", "labels": None, "id": "b"}, r"row 1: column 'labels' holds None, not list\[int\]"),
        ({"text": "b", "labels": [None], "id": "b"}, r"row 1: column 'labels' holds \[None\], not list\[int\]"),
        ({"text": "b", "labels": [99], "id": "b"}, "row 1: there is no label 99"),
        ({"text": "b", "labels": [1], "id": None}, "row 1: column 'id' holds None"),
        ({"text": "b", "labels": [1], "id": "a"}, "has two rows with the id 'a'"),
    ],
)
def test_a_row_of_the_hub_that_is_not_what_it_was_is_named(
    publish: Callable[..., None], row: dict, message: str
) -> None:
    publish(EMOTIONS, "simplified", {"validation": [{"text": "a", "labels": [1], "id": "a"}, row]})
    with pytest.raises(UsageError, match=message) as e:
        list(open_data("go_emotions").read())
    assert "\n" not in str(e.value)


def sentence(**changes: Any) -> dict:
    word = {
        "tokens": "a",
        "lemmas": "a",
        "upos": "X",
        "xpos": "X",
        "feats": "None",
        "head": "0",
        "deprel": "root",
        "deps": "None",
    }
    return {"idx": "s2", "text": "a", **{name: [value] for name, value in word.items()}} | changes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (sentence(tokens=None), "row 1: column 'tokens' holds None"),
        (sentence(head=["x"]), "the head 'x' is not a number"),
        (sentence(head=["9" * 5000]), "the head '99"),
        (sentence(lemmas=[]), "is not a sentence: it has 1 tokens, 0 lemmas"),
        (
            sentence(**{name: [] for name in sentence() if name not in ("idx", "text")}),
            "is not a sentence: it has 0 tokens",
        ),
        (sentence(text="b"), "the text continues with 'b', not with 'a'"),
        (sentence(head=["None"]), "the multiword token 'a' has no words"),
    ],
    ids=range(7),
)
def test_a_sentence_of_the_hub_that_is_none_is_named(publish: Callable[..., None], row: dict, message: str) -> None:
    publish("universal-dependencies/universal_dependencies", "en_ewt", {"validation": [sentence(idx="s1"), row]})
    with pytest.raises(UsageError, match=message):
        list(open_data("ud_ewt").read())


@pytest.mark.parametrize("deps", ["[" * 5000, "[1]", "[('a', 'b')]", "[('a', None)]", "{1: 2}"])
def test_enhanced_dependencies_that_have_no_structure_stay_text(publish: Callable[..., None], deps: str) -> None:
    publish("universal-dependencies/universal_dependencies", "en_ewt", {"validation": [sentence(deps=[deps])]})
    (example,) = open_data("ud_ewt").read()
    assert example.row.words[0].deps == deps.replace("None", "_")


def test_a_column_of_the_hub_that_is_not_text_is_named(publish: Callable[..., None]) -> None:
    publish("harbour/logs", "default", {"validation": [{"text": "a", "n": 1}, {"text": None, "n": float("nan")}]})
    with pytest.raises(UsageError, match="harbour/logs, validation, row 1: column 'text' is null"):
        list(open_data("harbour/logs").read())


# -- local copies ------------------------------------------------------------------------------------------------------


def test_usual_names_are_found_in_capitals_too(tmp_path: Path) -> None:
    (tmp_path / "DEV.TSV").write_bytes((DATA / "emotions.tsv").read_bytes())
    by_name = open_data("go_emotions", origin=str(tmp_path / "DEV.TSV"))
    in_folder = open_data("go_emotions", origin=str(tmp_path))
    assert [e.example_id for e in by_name.read()] == [e.example_id for e in in_folder.read()]
    with pytest.raises(UsageError, match="is the split validation by its name, not test"):
        open_data("go_emotions", split="test", origin=str(tmp_path / "DEV.TSV"))


CONLLU = "# sent_id = one\n# text = a\n1\ta\ta\tX\tX\t_\t0\troot\t_\t_\n"


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("ud_ewt", "a.conllu", CONLLU.replace("1\t", "9" * 5000 + "\t"), "line 3 is not CoNLL-U"),
        ("ud_ewt", "a.conllu", CONLLU.replace("\t0\t", f"\t{'9' * 5000}\t"), "line 3 is not CoNLL-U"),
        ("ud_ewt", "a.conllu", CONLLU.replace("1\ta", "1\t\x1b[31mb"), r"line 3: .* not with '\\x1b\[31mb'"),
        ("go_emotions", "a.tsv", "a\t" + "9" * 5000 + "\tid\n", "line 1: '99.*' is not label ids"),
        (
            "csqa",
            "a.jsonl",
            json.dumps({"id": "1", "question": "\ud800"}),
            r"line 1 .*\\ud800, half of a surrogate pair",
        ),
        ("csqa", "a.jsonl", "[" * 100_000, "line 1 is not JSON: it is nested"),
        ("wikitext2", "a.zip", "PK", "not from .zip"),
        ("wikitext2", "a.parquet", "PK", "is not a Parquet file, or damaged"),
    ],
)
def test_a_copy_that_is_not_sound_is_named_with_its_line(
    tmp_path: Path, name: str, file: str, content: str, message: str
) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(UsageError, match=message) as e:
        list(open_data(name, origin=str(tmp_path / file)).read())
    assert str(e.value).isprintable() and len(str(e.value)) < 400


@pytest.mark.parametrize("ending", ["tokens", "raw", "txt", "TXT"])
def test_wikitext_is_lines_under_the_releases_own_names(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"wiki.valid.{ending}").write_text(" = Lamp = \n\n The lamp burned. \n")
    source = open_data("wikitext2", origin=str(tmp_path / f"wiki.valid.{ending}"))
    assert [(e.row.source_id, e.text) for e in source.read()] == [("2", "The lamp burned.")]
