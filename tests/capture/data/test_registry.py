from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import DATA

from capture.data import prepared
from capture.data.example import Row, Source
from capture.data.named_columns import NamedColumns
from capture.data.registry import DATASETS, open_data, split_reader
from capture.data.text import open_text
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage.paths import prepared_path


def texts(path: Path, **kw: str) -> list[str]:
    return [e.text for e in open_text(str(path), kw.get("text_column", "text")).read()]


def test_a_line_is_an_example_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n   \n two \nthree".encode())
    found = list(open_text(str(path), "text").read())
    assert [e.text for e in found] == ["one", " two ", "three"]
    assert [e.row.source_id for e in found] == ["1", "4", "5"]


def test_jsonl_keeps_the_other_fields_and_repeated_texts_have_ids_of_their_own() -> None:
    found = list(open_text(str(DATA / "notes.jsonl"), "text").read())
    assert [e.row.metadata["keeper"] for e in found] == ["Anna", "Anna", "Jon", "Jon"]
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
    with pytest.raises(NotFoundError, match="No column 'text'.*body"):
        texts(path)
    with pytest.raises(NotFoundError, match="Did you mean text"):
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
    with pytest.raises(NotFoundError, match=r"Did you mean .*mytext\.txt"):
        texts(tmp_path / "mytxt.txt")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match="holds no text"):
        open_data(text=str(path))


def opened(data: str | None, origin: Path | None = None, split: str = "validation", **kw: object) -> Source:
    return open_data(data, split=split, origin=None if origin is None else str(origin), **kw)


def test_data_that_is_not_known_or_not_named() -> None:
    with pytest.raises(NotFoundError, match="Did you mean wikitext2.*OWNER/NAME"):
        opened("wikitex2")
    with pytest.raises(UsageError, match="either --data NAME or --text FILE"):
        opened(None)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("ud_ewt", {"split": "tset"}, "No split of ud_ewt 'tset'. Did you mean test"),
        ("ud_ewt", {"config": "en_gum"}, "--config goes with"),
        ("ud_ewt", {"headings": True}, "--headings goes with"),
        ("some/where", {"origin": Path("a.txt")}, "For a file of some/where: --text FILE"),
        ("repeated-words", {"origin": Path("a.txt")}, "takes no --from"),
    ],
)
def test_options_that_do_not_go_together(data: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(data, **options)


def test_a_local_copy_is_a_file_or_a_folder_with_a_file_a_split(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_bytes((DATA / "emotions.tsv").read_bytes())
    by_name = [e.example_id for e in opened("go_emotions", tmp_path / "dev.tsv", "dev").read()]
    assert [e.example_id for e in opened("go_emotions", tmp_path).read()] == by_name
    with pytest.raises(NotFoundError, match=r"No split 'train'. There is: validation.*looked for train\.tsv"):
        opened("go_emotions", tmp_path, "train")
    with pytest.raises(UsageError, match="is the split validation by its name, not test: say --split validation"):
        opened("go_emotions", tmp_path / "dev.tsv", "test")
    with pytest.raises(UsageError, match=r"has no file of csqa under a usual name.*dev\.jsonl"):
        opened("csqa", tmp_path)
    with pytest.raises(NotFoundError, match=r"Did you mean .*dev\.tsv"):
        opened("go_emotions", tmp_path / "devv.tsv")


SAMPLES = {
    "ud_ewt": DATA / "harbour.conllu",
    "go_emotions": DATA / "emotions.tsv",
    "csqa": DATA / "questions.jsonl",
    "wikitext2": DATA / "articles.txt",
}
REAL = {
    "ud_ewt": "ud_ewt/dev.conllu",
    "go_emotions": "go_emotions/validation.tsv",
    "csqa": "csqa/validation.jsonl",
    "wikitext2": "wikitext2/validation.txt",
}


def prepare(root: Path, name: str, origin: Path) -> tuple[Path, list[Row]]:
    rows, where = split_reader(DATASETS[name], "validation", str(origin))
    path = prepared_path(root, name, "validation")
    prepared.write(path, DATASETS[name], "validation", where, rows)
    return path, list(rows())


@pytest.mark.parametrize("name", SAMPLES)
def test_prepared_rows_come_out_as_they_went_in(name: str, tmp_path: Path, shared: Callable[[str], Path]) -> None:
    path, rows = prepare(tmp_path, name, SAMPLES[name])
    assert list(prepared.read(path, DATASETS[name], "validation")) == rows
    path, rows = prepare(tmp_path, name, shared(REAL[name]))
    assert list(prepared.read(path, DATASETS[name], "validation")) == rows


@pytest.mark.parametrize("name", SAMPLES)
def test_prepared_data_is_read_where_no_copy_is_named_and_has_the_same_ids(name: str, tmp_path: Path) -> None:
    path, _ = prepare(tmp_path, name, SAMPLES[name])
    kept, file = opened(name, root=tmp_path), opened(name, SAMPLES[name], root=tmp_path)
    assert kept.origin == str(path) and file.origin == str(SAMPLES[name])
    assert [(e.example_id, e.row) for e in kept.read()] == [(e.example_id, e.row) for e in file.read()]


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "one bit":
        content[len(content) // 8] ^= 1
    else:
        content = bytearray(b"not parquet")
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "one bit", "no parquet"])
def test_damaged_prepared_data_names_the_command_that_makes_it_again(tmp_path: Path, how: str) -> None:
    path, _ = prepare(tmp_path, "ud_ewt", SAMPLES["ud_ewt"])
    damaged(path, how)
    with pytest.raises(TracesError, match=r"validation\.parquet is damaged.*traces data prepare ud_ewt") as e:
        list(opened("ud_ewt", root=tmp_path).read())
    assert "\n" not in str(e.value)


def test_prepared_data_of_a_newer_version_or_of_another_program(tmp_path: Path) -> None:
    path, _ = prepare(tmp_path, "ud_ewt", SAMPLES["ud_ewt"])
    table = pq.read_table(path)
    about = json.loads(pq.ParquetFile(path).metadata.metadata[b"trace-warehouse"])
    assert about["counts"] == {"rows": 3, "words": 11 + 11 + 6} and about["origin"].endswith("harbour.conllu")
    newer = {b"trace-warehouse": json.dumps(about | {"format_version": 2}).encode()}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(TracesError, match="newer version.*pip install -U"):
        opened("ud_ewt", root=tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(TracesError, match="is not prepared data.*traces data prepare ud_ewt"):
        opened("ud_ewt", root=tmp_path)


def test_what_is_prepared_stays_until_the_new_file_is_whole(tmp_path: Path) -> None:
    path, rows = prepare(tmp_path, "go_emotions", SAMPLES["go_emotions"])

    def breaks() -> Iterator[Row]:
        yield from rows * 1000
        raise UsageError("line 5 is bad")

    with pytest.raises(UsageError, match="line 5"):
        prepared.write(path, DATASETS["go_emotions"], "validation", "x", breaks)
    assert list(prepared.read(path, DATASETS["go_emotions"], "validation")) == rows
    assert [p.name for p in path.parent.iterdir()] == ["validation.parquet"]


def test_any_hub_data_set_by_its_own_name(publish: Callable[..., None]) -> None:
    rows = [{"body": "one", "n": 1}, {"body": "two", "n": 2}, {"body": "one", "n": 3}]
    publish("harbour/logs", "short", {"dev": rows, "train": rows[:1]})
    source = open_data("harbour/logs", columns=NamedColumns(text="body"))
    found = list(source.read())
    assert (source.dataset, source.config, source.split) == ("harbour/logs", None, "dev")
    assert [(e.text, e.row.source_id, e.row.metadata) for e in found] == [
        ("one", "0", {"n": 1}),
        ("two", "1", {"n": 2}),
        ("one", "2", {"n": 3}),
    ]
    assert len({e.example_id for e in found}) == 3
    with pytest.raises(NotFoundError, match="No column 'text'.*body.*--text-column"):
        opened("harbour/logs", split="dev")
    with pytest.raises(UsageError, match="row 0: column 'n' holds int, not text"):
        open_data("harbour/logs", split="dev", columns=NamedColumns(text="n"))
    with pytest.raises(NotFoundError, match="No split of harbour/logs 'test'. There is: dev, train"):
        open_data("harbour/logs", split="test", columns=NamedColumns(text="body"))
    with pytest.raises(NotFoundError, match="No configuration of harbour/logs 'shrot'. Did you mean short"):
        opened("harbour/logs", config="shrot")


def test_a_hub_data_set_with_several_configurations(publish: Callable[..., None]) -> None:
    for config in ("short", "long"):
        publish("harbour/logs", config, {"validation": [{"text": config}]})
    with pytest.raises(UsageError, match="several configurations: short, long. Choose one: --config"):
        opened("harbour/logs")
    assert [e.text for e in opened("harbour/logs", config="long").read()] == ["long"]


def test_code_that_comes_with_a_data_set_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harbour" / "logs").mkdir(parents=True)
    (tmp_path / "harbour" / "logs" / "logs.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="comes with Python code that reads it, which is never run"):
        opened("harbour/logs")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("data", "file"), [("wikitext2", "validation.txt"), ("ud_ewt", "en_ewt-ud-dev.conllu")])
def test_a_hub_that_cannot_be_reached_is_one_line_with_the_remedy(tmp_path: Path, data: str, file: str) -> None:
    code = f"from capture.data.registry import open_data; open_data('{data}')"
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert "cannot be fetched" in done.stderr and f"--from {file}" in done.stderr
    assert f"traces data prepare {data}" in done.stderr
