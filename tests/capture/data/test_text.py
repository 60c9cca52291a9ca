"""Texts that people bring: every kind of file is read in every case of its ending, and what cannot be read is one line that
says which file, where in it, and what to do."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capture.data.example import Row, Source, Word
from capture.data.files import printable_value
from capture.data.named_columns import NamedColumns
from capture.data.prompt_sets import open_prompt_sets, open_prompts
from capture.data.registry import open_data
from capture.data.text import one_text, open_text
from warehouse.errors import NotFoundError, UsageError


def rows(path: Path, column: str = "text") -> list[tuple[str, str, dict[str, Any]]]:
    return [(e.row.source_id, e.text, e.row.metadata) for e in open_text(str(path), column).read()]


def refused(path: Path, match: str, column: str = "text") -> None:
    with pytest.raises(UsageError, match=match) as e:
        rows(path, column)
    message = str(e.value)
    assert "\n" not in message and message.isprintable() and printable_value(path.name) in message


# -- endings -----------------------------------------------------------------------------------------------------------

LINES = [("1", "one", {}), ("2", "two", {})]
OBJECTS = b'{"text": "one", "n": 1}\n\n{"text": "two", "n": null}\n'


@pytest.mark.parametrize("name", ["a.txt", "A.TXT", "noending", ".hidden"])
def test_lines_are_read_from_files_of_text_and_from_files_without_an_ending(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("one\ntwo\n")
    assert rows(tmp_path / name) == LINES


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.ndjson", "a.NdJson"])
def test_json_lines_go_by_either_name_in_any_case(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(OBJECTS)
    assert rows(tmp_path / name) == [("1", "one", {"n": 1}), ("3", "two", {"n": None})]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV"])
def test_csv_has_quotes_line_ends_within_them_and_a_mark_at_its_start(tmp_path: Path, name: str) -> None:
    content = '\ufeffid,text,note\r\n1,"She said ""no"",\r\nand left",\r\n\r\n2,plain,"a,b"\r\n'
    (tmp_path / name).write_bytes(content.encode())
    assert rows(tmp_path / name) == [
        ("2", 'She said "no",\r\nand left', {"id": "1", "note": ""}),
        ("5", "plain", {"id": "2", "note": "a,b"}),
    ]


@pytest.mark.parametrize("name", ["a.tsv", "a.Tsv"])
def test_tsv_is_quoted_where_a_field_begins_with_a_mark_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('id\ttext\n1\t"with\ta tab"\n2\t6" nails, a,b\n')
    assert rows(tmp_path / name) == [("2", "with\ta tab", {"id": "1"}), ("3", '6" nails, a,b', {"id": "2"})]


def test_the_same_texts_have_the_same_ids_from_every_kind_of_file(tmp_path: Path) -> None:
    contents = {"txt": "one\ntwo\n", "jsonl": OBJECTS.decode(), "csv": "text\none\ntwo\n", "tsv": "text\none\ntwo\n"}
    for ending, content in contents.items():
        (tmp_path / f"same.{ending}").write_text(content)
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "same.parquet")
    found = {tuple(e.example_id for e in open_text(str(p), "text").read()) for p in tmp_path.iterdir()}
    assert len(found) == 1 and len(next(iter(found))) == 2


@pytest.mark.parametrize("name", ["a.log", "a.jsonl.gz", "a.TAB", "a.2024", "new\nline.\x1bx"])
def test_any_other_ending_is_refused_with_those_that_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "a"}\n')
    refused(
        tmp_path / name, r"texts come from \.txt .*\.jsonl, \.ndjson, \.json, \.csv, \.tsv or \.parquet, not from \."
    )


# -- files that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # JSON lines
        ("a.jsonl", b'{"text": "a"}\n{"text": "half \\ud800"}\n', r"line 2 .*\\ud800, half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a", "x": [{"y": "\\udfff"}]}\n', r"line 1 .*\\udfff, half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a", "\\udfff": 1}\n', r"line 1 .*\\udfff, half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, "line 2 .*nested more than 100 deep"),
        ("a.jsonl", b'{"text": "a", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "line 1 .*nested"),
        ("a.jsonl", b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
        ("a.jsonl", b'{"text": null}\n', "line 1: column 'text' is null"),
        ("a.jsonl", b'{"text": {"a": 1}}\n', "line 1: column 'text' holds dict, not text"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "line 1 is not UTF-8"),
        ("a.jsonl", b'{"text": "a\0b"}\n', "line 1 is not JSON"),
        # lines
        ("a.txt", "line\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("a.txt", b"fine\n\xed\xa0\x80\n", "line 2 is not UTF-8"),
        # CSV and TSV
        ("a.csv", b'id,text\n1,a\n2,"b\n3,c\n', "line 3: a quotation mark opens a field and none closes it"),
        ("a.csv", b'id,text\n1,"a"b\n', "line 2: ',' expected after"),
        ("a.csv", b'id,text\n1,"x\ny"\n2,b,c\n', "line 4 has 3 fields, not 2"),
        ("a.csv", b"id,text\n1\n", "line 2 has 1 fields, not 2"),
        ("a.csv", b"text,id,text\na,1,b\n", "line 1: the header has the column 'text' twice"),
        ("a.csv", b"text,\na,1\n", "line 1: column 2 of the header has no name"),
        ("a.csv", b"id,text\n1,a\0b\n", "line 2 holds a NUL"),
        ("a.csv", b"id,text\r1,a\r", "line 1: a carriage return"),
        ("a.csv", b"id,text\n1,caf\xe9\n", "line 2 is not UTF-8"),
        ("a.csv", b'"te\nxt",id\na,1\n', r"No column 'text'\. Did you mean te\\nxt\? \(.*line 3\)"),
        ("a.tsv", b'id\ttext\n1\t"a\n', "line 2: a quotation mark opens"),
        # Parquet
        ("a.parquet", b"", "not a Parquet file, or damaged"),
        ("a.parquet", b"PAR1" * 10, "not a Parquet file, or damaged"),
    ],
)
def test_what_is_no_text_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


def test_a_line_may_be_as_long_as_it_likes(tmp_path: Path) -> None:
    long = "word " * 200_000
    for name, content in {"a.txt": long, "a.csv": f'text\n"{long}"', "a.jsonl": json.dumps({"text": long})}.items():
        (tmp_path / name).write_text(content)
        assert [text for _, text, _ in rows(tmp_path / name)] == [long]


def test_a_file_may_have_as_many_columns_as_it_likes(tmp_path: Path) -> None:
    """Each name is looked for among the others once: with a look at each of them this would take an hour."""
    others = [f"c{i}" for i in range(200_000)]
    (tmp_path / "a.csv").write_text(f"text,{','.join(others)}\na{',1' * len(others)}\n")
    [(_, text, fields)] = rows(tmp_path / "a.csv")
    assert text == "a" and len(fields) == len(others)
    refused_header = f"text,{','.join(others)},c7\n"
    (tmp_path / "b.csv").write_text(refused_header)
    refused(tmp_path / "b.csv", "the header has the column 'c7' twice")


def test_what_the_system_has_against_a_file_is_told_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    refused(tmp_path / "folder.txt", "is a folder: name a file in it")
    os.mkfifo(tmp_path / "pipe.txt")
    refused(tmp_path / "pipe.txt", "a pipe or a device, which cannot be read twice")
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long")
    refused(tmp_path / "nul\0.txt", r"No file '.*nul\\x00\.txt'")
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    refused(tmp_path / "link.txt", "No file ")
    strange = tmp_path / os.fsdecode(b"caf\xe9.txt")
    strange.write_text("one\n")
    refused(strange, r"caf\\udce9\.txt: its name is not UTF-8 text\. Rename it")
    with pytest.raises(NotFoundError, match=r"Did you mean .*caf\\udce9\.txt"):
        rows(tmp_path / "zzz.txt")
    with pytest.raises(UsageError, match=r"no such user|No file"):
        open_text("~nobody-of-that-name/a.txt", "text")


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become somebody else for a moment")
def test_a_file_that_may_not_be_read_is_told_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "a.txt").chmod(0)
    with (tmp_path / "a.txt").open("rb"):  # its path is found before rights are given up
        here = os.open(tmp_path, os.O_RDONLY)
    before = Path.cwd()
    os.fchdir(here)
    os.close(here)
    os.seteuid(65534)
    try:
        refused(Path("a.txt"), "a.txt cannot be read: Permission denied")
    finally:
        os.seteuid(0)
        os.chdir(before)


@pytest.mark.parametrize("option", ["data", "text", "split", "from", "config", "text-column", "label-column"])
def test_an_option_without_a_value_is_named(option: str) -> None:
    given = {"data": "csqa"} if option in ("split", "from", "config") else {"text": "a.txt"}
    column = option.removesuffix("-column")
    empty = {"from": "origin"}.get(option, option)
    with pytest.raises(UsageError, match=rf"^--{option} is empty"):
        open_data(**given | ({"columns": NamedColumns(**{column: ""})} if column != option else {empty: ""}))


def test_standard_input_is_lines_and_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one\n\xff\n")))
    with pytest.raises(UsageError, match="standard input, line 2 is not UTF-8"):
        list(open_text("-", "text").read())
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="Standard input is closed"):
        open_text("-", "text")


# -- Parquet -----------------------------------------------------------------------------------------------------------


def not_text(*values: bytes) -> pa.StringArray:
    """A column of Arrow's that says it is text and is not: Arrow believes who made it."""
    held = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(values), held.buffers()[1], held.buffers()[2])


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["one", "two"]).dictionary_encode(),
        pa.array(["one", "two"], pa.large_string()),
        pa.array([b"one", b"two"]),
        pa.array([b"one", b"two"], pa.large_binary()),
        pa.array([b"one", b"two"], pa.binary(3)),
        pa.array([b"one", b"two"]).dictionary_encode(),
    ],
    ids=lambda c: str(c.type)[:30],
)
def test_text_is_read_whatever_type_its_column_has(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.PARQUET")
    assert rows(tmp_path / "a.PARQUET") == LINES


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"text": not_text(b"fine", b"\xff\xfe")}), "row 2: column 'text' .*not UTF-8 text"),
        (pa.table({"text": ["a", "b"], "n": not_text(b"fine", b"\xff\xfe")}), "row 2: column 'n' .*not UTF-8 text"),
        (pa.table({"text": not_text(b"a", b"\xff\xfe").dictionary_encode()}), "row 2: column 'text' .*not UTF-8 text"),
        (pa.table({"text": [b"a", b"\xff"]}), "row 2: column 'text' is not UTF-8 text"),
        (pa.table({"text": ["a"] * 1500 + [None]}), "row 1501: column 'text' is null"),
        (pa.table({"text": pa.nulls(1)}), "row 1: column 'text' is null"),
        (pa.table({"text": [["a"]]}), "row 1: column 'text' holds list, not text"),
        (pa.table([["a"], ["b"]], names=["text", "text"]), "has the column 'text' twice"),
        (pa.table({"text": ["a"], "at": pa.array([2**50], pa.timestamp("ms"))}), "row 1: column 'at' cannot be read"),
        (pa.table({"te\nxt\x1b[31m": ["a"]}), r"No column 'text'.*te\\nxt\\x1b\[31m"),
    ],
    ids=range(10),
)
def test_a_row_that_is_no_text_is_named(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", message)


@pytest.mark.parametrize("how", ["cut", "cut short", "pages"])
def test_a_parquet_file_that_is_damaged_is_one_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {i} " * 20 for i in range(5000)]}), path, write_page_checksum=True)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:middle],
            "cut short": content[:-3],
            "pages": content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 99]) + content[middle + 99 :],
        }[how]
    )
    refused(path, "is not a Parquet file, or damaged")


# -- what every source passes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (Row("\ud800", "a"), "id"),
        (Row("1", "a \udfff"), "text"),
        (Row("1", "a", {"k": ["\ud800"]}), "metadata"),
        (Row("1", "a", {"\ud800": 1}), "metadata"),
        (Row("1", "a", words=(Word("1", "a"), Word("2", "b", feats="\ud800"))), "words"),
        (Row("1", "a", prompt_set="\ud800"), "prompt set"),
    ],
)
def test_what_no_run_could_store_is_refused_wherever_it_comes_from(row: Row, what: str) -> None:
    source = Source("mine", None, None, "mine.db", lambda: iter([Row("0", "fine"), row]))
    with pytest.raises(UsageError, match=rf"mine\.db, row .*: its {what} has \\ud\w+, half of a surrogate pair") as e:
        list(source.read())
    assert str(e.value).isprintable()


def test_an_id_tells_one_row_from_every_other() -> None:
    source = Source("mine", None, None, "mine.db", lambda: iter([Row("a", "one"), Row("a", "two")]))
    with pytest.raises(UsageError, match=r"mine\.db has two rows with the id 'a'"):
        list(source.read())


def test_arguments_that_are_not_unicode_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    half = os.fsdecode(b"caf\xe9")  # as Python has an argument that is not UTF-8
    with pytest.raises(UsageError, match=r"--prompt, prompt 2: its text has \\udce9"):
        open_prompts(["fine", half])
    with pytest.raises(UsageError, match=r"the text, row 0: its text has \\udce9"):
        list(one_text(half).read())
    with pytest.raises(UsageError, match=r"caf\\udce9"):
        open_data(half)
    with pytest.raises(UsageError, match=r"caf\\udce9\.json: its name is not UTF-8"):
        open_prompt_sets([str(tmp_path / f"{half}.json")])


def test_other_columns_are_kept_as_json_that_any_parser_reads(capture_tiny: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "notes.jsonl"
    text.write_text('{"text": "The lamp.", "n": NaN, "deep": {"x": [1e999]}, "big": 123456789012345678901234567890}\n')
    store = capture_tiny(tmp_path / "runs", text=text, capture="none")
    (kept,) = store.query("SELECT metadata FROM examples").fetchone()
    assert kept == '{"n": null, "deep": {"x": [null]}, "big": 123456789012345678901234567890}'
    assert store.query("SELECT json_extract_string(metadata, '$.big') FROM examples").fetchone() == (
        "123456789012345678901234567890",
    )


def test_a_template_is_text_from_a_file(tmp_path: Path) -> None:
    from capture.cli.capture import _read_template

    (tmp_path / "t.txt").write_bytes("\ufeff{question}\n{choices}\n".encode())
    assert _read_template(str(tmp_path / "t.txt")) == "{question}\n{choices}"
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9")
    for given, message in {
        "": "^--template is empty",
        str(tmp_path): "is a folder",
        str(tmp_path / "latin.txt"): r"latin\.txt, line 2 is not UTF-8",
        str(tmp_path / "l.txt"): r"Did you mean .*t\.txt",
    }.items():
        with pytest.raises(UsageError, match=message):
            _read_template(given)
