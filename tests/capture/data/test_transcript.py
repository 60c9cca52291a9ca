"""Chats as files hold them: OpenAI's and the older form, parts, reasoning, tool calls; and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import capture
from capture.data.named_columns import NamedColumns
from capture.data.registry import open_data
from capture.data.text import open_chats as open_chat_file
from capture.data.transcript import Chat, parse_chat
from warehouse.errors import NotFoundError, UsageError

ASKED = {"role": "user", "content": "How far?"}
ANSWERED = {"role": "assistant", "content": "Two miles."}


def chat(*messages: Any, tools: Any = None) -> Chat:
    return parse_chat(list(messages), tools, "here")


def chats_file(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def open_chats(path: Path, **columns: Any) -> Any:
    return open_data(str(path), columns=NamedColumns(**columns))


def test_both_forms_of_chats_are_one() -> None:
    older = [{"from": "human", "value": "How far?"}, {"from": "gpt", "value": "Two miles."}]
    assert chat(*older) == chat(ASKED, ANSWERED) == parse_chat(json.dumps([ASKED, ANSWERED]), None, "here")


def test_parts_become_a_text_and_reasoning() -> None:
    parts = [
        {"type": "thinking", "thinking": "Far?"},
        {"type": "text", "text": "Two "},
        {"type": "text", "text": "miles."},
    ]
    assert chat({"role": "assistant", "content": parts}).messages == (
        {"role": "assistant", "content": "Two miles.", "reasoning_content": "Far?"},
    )
    for name in ("reasoning_content", "thinking", "reasoning"):
        (message,) = chat(ANSWERED | {name: "Far?"}).messages
        assert message == ANSWERED | {"reasoning_content": "Far?"}


def test_arguments_of_calls_become_objects() -> None:
    for arguments in ('{"to": "the quay"}', {"to": "the quay"}):
        call = {"id": "1", "type": "function", "function": {"name": "measure", "arguments": arguments}}
        (message,) = chat({"role": "assistant", "content": None, "tool_calls": [call]}).messages
        assert message["tool_calls"][0]["function"] == {"name": "measure", "arguments": {"to": "the quay"}}
        assert "content" not in message
    bare = {"name": "measure", "arguments": "not JSON"}
    (message,) = chat({"role": "assistant", "tool_calls": [bare]}).messages
    assert message["tool_calls"] == [{"type": "function", "function": bare}]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "`messages` is missing, not a list"),
        ([], "`messages` is empty, not a list"),
        ("so", "`messages` is a text that is not JSON"),
        (["so"], "message 0 is str, not an object"),
        ([{"content": "so"}], "message 0 has no role"),
        ([{"role": "user"}], r"message 0 \(role user\) has no content"),
        ([ASKED, {"role": "user", "content": 5}], "message 1: its content is int, not a text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "a part of the kind image_url"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "a tool call has no function with a name"),
        ([{"role": "assistant", "tool_calls": "f"}], "its tool_calls is str, not a list"),
        ([ANSWERED | {"reasoning": 3}], "its reasoning is int, not a text"),
    ],
)
def test_what_is_no_chat_is_one_line(messages: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"here.*{said}"):
        parse_chat(messages, None, "here")


def test_tools_are_a_list_of_schemas() -> None:
    assert chat(ASKED, tools=[{"type": "function"}]).tools == ({"type": "function"},)
    for tools, kind in (({"name": "f"}, "dict"), (["f"], "list"), ([{"function": "f"}], "list")):
        with pytest.raises(UsageError, match=f"`tools` is {kind}, not a list of functions"):
            chat(ASKED, tools=tools)


def test_files_of_chats_give_the_same_examples(tmp_path: Path) -> None:
    rows = [
        {"messages": [ASKED, ANSWERED], "place": "harbour", "kind": "far"},
        {"messages": [ASKED], "place": "quay", "kind": "near"},
    ]
    lines = chats_file(tmp_path / "a.jsonl", *rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text(lines.read_text().replace('"messages"', '"conversations"'))
    read = [
        list(open_chats(tmp_path / name, label="kind").read()) for name in ("a.jsonl", "a.json", "a.parquet", "b.jsonl")
    ]
    for examples in read:
        assert [e.text for e in examples] == ["user: How far?\n\nassistant: Two miles.", "user: How far?"]
        assert [e.row.metadata for e in examples] == [{"place": "harbour"}, {"place": "quay"}]
        assert [x.label for e in examples for x in e.row.labels] == ["far", "near"]
        assert [e.example_id for e in examples] == [e.example_id for e in read[0]]
    in_memory = list(capture.open_chats([[ASKED, ANSWERED], [ASKED]]).read())
    assert [e.example_id for e in in_memory] == [e.example_id for e in read[0]]


@pytest.mark.parametrize("column", ["messages", "conversations", "turns"])
def test_a_folder_of_chats_is_a_data_set_of_chats(tmp_path: Path, column: str) -> None:
    rows = [{column: [ASKED, ANSWERED], "n": 1}, {column: [ASKED], "n": 2}]
    (tmp_path / "chats").mkdir()
    chats_file(tmp_path / "chats" / "validation.jsonl", *rows)
    source = open_chats(tmp_path / "chats", text="turns" if column == "turns" else None)
    examples = list(source.read())
    assert source.chats
    assert [e.example_id for e in examples] == [
        e.example_id for e in capture.open_chats([r[column] for r in rows]).read()
    ]
    assert [e.row.metadata for e in examples] == [{"n": 1}, {"n": 2}]


def test_what_tells_chats_apart_is_all_of_them_or_an_id(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": "So.", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    chats = [[ASKED], [ASKED | {"name": "Ada"}], [ASKED, called], [ASKED, called | {"reasoning": "Hm."}], [ASKED]]
    ids = [e.example_id for e in capture.open_chats(chats).read()]
    assert len(set(ids)) == len(chats)
    one, two = (capture.open_chats([[ASKED]], tools=tools) for tools in (None, [{"name": "f"}]))
    assert next(one.read()).example_id != next(two.read()).example_id
    path = chats_file(tmp_path / "a.jsonl", {"messages": [ASKED], "n": 1}, {"messages": [ASKED], "n": 2})
    assert [e.row.source_id for e in open_chats(path, id="n").read()] == ["1", "2"]


def test_a_file_that_holds_no_chats_says_so(tmp_path: Path) -> None:
    path = chats_file(tmp_path / "a.jsonl", {"text": "How far?"})
    with pytest.raises(
        UsageError, match=r"a\.jsonl, line 1 has no chat: no column messages or conversations .*--text FILE"
    ):
        open_chats(path)
    with pytest.raises(NotFoundError, match="No file"):
        open_chats(tmp_path / "none.jsonl")
    path.write_text("")
    with pytest.raises(UsageError, match="holds no text"):
        open_chats(path)
    (tmp_path / "log.eval").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"chats come from \.jsonl, .*, not from \.eval"):
        open_chat_file(str(tmp_path / "log.eval"))
    half = chats_file(tmp_path / "b.jsonl", {"messages": [ASKED]}, {"messages": [{"role": "user"}]})
    with pytest.raises(UsageError, match="line 2, message 0"):
        list(open_chats(half).read())
    chats = chats_file(tmp_path / "c.jsonl", {"messages": [ASKED]})
    with pytest.raises(NotFoundError, match="Chats are read with --data FILE"):
        open_data(text=str(chats))
    with pytest.raises(UsageError, match="half of a surrogate pair"):
        list(capture.open_chats([[{"role": "user", "content": "\ud800"}]]).read())
