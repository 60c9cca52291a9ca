from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capture.data import open_data
from capture.data.text import open_text
from warehouse.errors import NotFound, UsageError

DATA = Path(__file__).parent.parent / "data"


def texts(path: Path, **kw: str) -> list[str]:
    return [e.text for e in open_text(str(path), kw.get("text_column", "text")).read()]


def test_a_line_is_an_example_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n   \n two \nthree".encode())
    found = list(open_text(str(path), "text").read())
    assert [e.text for e in found] == ["one", " two ", "three"]
    assert [e.source_id for e in found] == ["1", "4", "5"]


def test_jsonl_keeps_the_other_fields_and_repeated_texts_have_ids_of_their_own() -> None:
    found = list(open_text(str(DATA / "notes.jsonl"), "text").read())
    assert [e.metadata["keeper"] for e in found] == ["Anna", "Anna", "Jon", "Jon"]
    assert found[1].text == found[2].text
    assert len({e.example_id for e in found}) == 4


def test_ids_depend_on_the_text_not_on_where_the_file_is_or_on_the_lines_around_it(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    a, b = tmp_path / "same.txt", tmp_path / "x" / "same.txt"
    a.write_text("first\nsecond\n")
    b.write_text("zeroth\nsecond\n")
    ids = [{e.text: e.example_id for e in open_text(str(p), "text").read()} for p in (a, b)]
    assert ids[0]["second"] == ids[1]["second"]


def test_parquet_and_jsonl_say_which_columns_there_are(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"body": ["x y", "z"], "n": [1, 2]}), path)
    assert texts(path, text_column="body") == ["x y", "z"]
    with pytest.raises(NotFound, match="No column 'text'.*body"):
        texts(path)
    with pytest.raises(NotFound, match="Did you mean text"):
        texts(DATA / "notes.jsonl", text_column="txet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("list.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("number.jsonl", b'{"text": 3}\n', "holds int, not text"),
        ("latin.txt", "caf\xe9\n".encode("latin-1"), "line 1 is not UTF-8"),
        ("no.parquet", b"PAR1 not", "not a Parquet file"),
        ("weights.pt", b"", "not from .pt"),
    ],
)
def test_unreadable_files_are_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        texts(tmp_path / name)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "mytext.txt").write_text("x")
    with pytest.raises(NotFound, match=r"Did you mean .*mytext\.txt"):
        texts(tmp_path / "mytxt.txt")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match="holds no text"):
        open_data(None, str(path), "validation", None, "text")


def test_wikitext_rows_keep_their_number(wikitext: Path) -> None:
    source = open_data("wikitext2", None, "validation", str(wikitext), "text")
    found = list(source.read())
    lines = wikitext.read_text(encoding="utf-8").split("\n")
    assert all(lines[int(e.source_id)].strip() == e.text for e in found)
    assert len(found) == sum(bool(line.strip()) for line in lines)
    assert len({e.example_id for e in found}) == len(found)
    folder = open_data("wikitext2", None, "validation", str(wikitext.parent), "text")
    assert [e.example_id for e in folder.read()] == [e.example_id for e in found]


def test_data_that_is_not_known_or_not_named() -> None:
    with pytest.raises(NotFound, match="Did you mean wikitext2"):
        open_data("wikitex2", None, "validation", None, "text")
    with pytest.raises(UsageError, match="either --data NAME or --text FILE"):
        open_data(None, None, "validation", None, "text")


def test_a_hub_that_cannot_be_reached_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    code = "from capture.data import open_data; open_data('wikitext2', None, 'validation', None, 'text')"
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert "cannot be fetched" in done.stderr and "--from validation.txt" in done.stderr
