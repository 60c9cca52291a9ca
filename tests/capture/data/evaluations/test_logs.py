"""Logs of evaluations, written here in the documented formats: what is read of them, and how damaged ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_logs import document, generated, header, sample, write_eval, write_samples

from capture.data.evaluations.open_logs import find_logs, is_log, open_logs
from capture.data.example import Example
from capture.data.transcript import Chat, Completion
from warehouse.errors import UsageError


def read(*paths: Path) -> list[Example]:
    assert all(map(is_log, paths))
    return list(open_logs(str(paths[0]), list(paths)).read())


def scores(example: Example) -> list[tuple[Any, ...]]:
    return [(x.seq, x.scorer, x.metric, x.value, x.is_correct) for x in example.row.evaluations]


@pytest.mark.parametrize("zstd", [False, True])
def test_epochs_of_a_sample_are_the_sequences_of_an_example(tmp_path: Path, zstd: bool) -> None:
    """So that logs of several models, and of several epochs, join by what was asked."""
    log = [sample("two"), sample("one", 2, "I"), sample("one", 1)]
    first, second = read(write_eval(tmp_path / "a.eval", log, zstd=zstd))
    assert [e.row.source_id for e in (first, second)] == ["one", "two"]  # the data set's order, not the log's
    assert [type(t) for t in first.row.transcripts] == [Chat, Chat]
    assert scores(first) == [(0, "match", "score", 1.0, True), (1, "match", "score", 0.0, False)]
    assert [(x.epoch, x.answered_by, x.target, x.answer, x.task) for x in first.row.evaluations] == [
        (1, "some/model", "2", "2", "sums"),
        (2, "some/model", "2", "2", "sums"),
    ]
    assert (first.text, first.row.metadata) == ("What is 1 + 1?", {"level": 1})


def test_both_formats_of_inspect_give_the_same_examples(tmp_path: Path) -> None:
    samples = [sample("one"), sample("two", value="P")]
    whole = tmp_path / "b.json"
    whole.write_text(json.dumps(header() | {"samples": samples}), encoding="utf-8")
    found, same = read(write_eval(tmp_path / "a.eval", samples)), read(whole)
    assert [(e.example_id, e.row) for e in found] == [(e.example_id, e.row) for e in same]


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ("C", [("score", 1.0, True, "C")]),
        ("I", [("score", 0.0, False, "I")]),
        ("P", [("score", 0.5, None, "P")]),
        ("N", [("score", 0.0, False, "N")]),
        (True, [("score", 1.0, True, "true")]),
        ("no", [("score", 0.0, False, "no")]),
        (0.25, [("score", 0.25, None, "0.25")]),
        ("7", [("score", 7.0, None, "7")]),
        ("B+", [("score", None, None, "B+")]),
        (float("nan"), [("score", None, None, "NaN")]),
        ({"wit": 3, "right": "C"}, [("wit", 3.0, None, "3"), ("right", 1.0, True, "C")]),
        ([1, False], [("0", 1.0, None, "1"), ("1", 0.0, False, "false")]),
    ],
)
def test_grades_are_numbers_as_in_inspect(tmp_path: Path, value: Any, read_as: list[tuple[Any, ...]]) -> None:
    (example,) = read(write_eval(tmp_path / "a.eval", [sample(value=value)]))
    assert [(x.metric, x.value, x.is_correct, x.score) for x in example.row.evaluations] == read_as


def test_tool_calls_and_reasoning_are_as_chat_templates_take_them(tmp_path: Path) -> None:
    call = {"id": "c1", "function": "add", "arguments": {"x": 1, "y": 1}, "type": "function"}
    tool = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}, "options": None}
    parts = [
        {"type": "reasoning", "reasoning": "One and one.", "redacted": False},
        {"type": "reasoning", "reasoning": "gAAAA", "redacted": True, "summary": "Summed."},
        {"type": "text", "text": "attachment://h1"},
    ]
    messages = [
        {"id": "u", "role": "user", "content": "What is 1 + 1?"},
        {"id": "a", "role": "assistant", "content": "", "tool_calls": [call]},
        {"id": "t", "role": "tool", "content": "2", "tool_call_id": "c1", "function": "add"},
        {"id": "f", "role": "tool", "content": "", "tool_call_id": "c1", "function": "add",
         "error": {"type": "timeout", "message": "too slow"}},
        {"id": "b", "role": "assistant", "content": parts},
    ]  # fmt: skip
    events = [
        {"event": "model", "tools": [tool], "output": {"choices": [{"message": {"id": "b"}}]}},
        {"event": "model", "tools": [tool | {"name": "grade"}], "output": {"choices": [{"message": {"id": "other"}}]}},
    ]
    (example,) = read(
        write_eval(tmp_path / "a.eval", [sample(messages=messages, events=events, attachments={"h1": "It is 2."})])
    )
    assert example.row.transcripts == (
        Chat(
            (
                {"role": "user", "content": "What is 1 + 1?"},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"x": 1, "y": 1}}}]},
                {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"},
                {"role": "tool", "content": "Error: too slow", "tool_call_id": "c1", "name": "add"},
                {"role": "assistant", "content": "It is 2.", "reasoning_content": "One and one.\nSummed."},
            ),
            ({"type": "function", "function": {k: tool[k] for k in ("name", "description", "parameters")}},),
        ),
    )  # fmt: skip


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    image = [{"role": "user", "content": [{"type": "image", "image": "data:image/png;base64,AA"}]}]
    log = [
        sample("one"),
        sample("two", messages=image),
        sample("three", error={"message": "boom"}, scores={}),
        sample("four", messages=[]),
        sample("five", scores=None),
    ]
    cancelled = header(status="cancelled")
    source = open_logs("a", [write_eval(tmp_path / "a.eval", log, cancelled)])
    assert [(e.row.source_id, len(e.row.evaluations)) for e in source.read()] == [("one", 1), ("five", 0)]
    assert source.description() == (
        "sums: 2 samples, 2 sequences, 1 scores; left out: 1 with a part that is no text (image), 1 ended in an error, "
        "1 without messages; 1 without a score; the evaluation was cancelled"
    )


def test_a_score_of_an_older_log_has_its_scorers_name(tmp_path: Path) -> None:
    old = sample()
    old["score"] = old.pop("scores")["match"]
    head = header(version=1, results={"scorer": {"name": "includes"}})
    (example,) = read(write_eval(tmp_path / "a.eval", [old], head))
    assert scores(example) == [(0, "includes", "score", 1.0, True)]


def test_a_log_that_has_no_end_yet_is_read(tmp_path: Path) -> None:
    """Its evaluation runs on, or was killed: only the journal says what it is."""
    head = header()
    del head["status"]
    source = open_logs("a", [write_eval(tmp_path / "a.eval", [sample()], head, head_name="_journal/start.json")])
    assert len(list(source.read())) == 1
    assert str(source.description()).endswith("; the evaluation had not ended")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.eval is a zip file without header\.json: it is no log of Inspect\.$"):
        read(write_eval(tmp_path / "a.eval", [sample()], head_name="readme.json"))


@pytest.mark.parametrize(
    ("samples", "head", "message"),
    [
        ([], header(), r"has no sample to read of sums: it is empty\.$"),
        ([], header(status="error", error={"message": "no key"}), r"sums: the evaluation ended in an error \(no key\)\.$"),
        ([sample(error={"message": "x"}, scores={})], header(), r"left out: 1 ended in an error\.$"),
        ([sample()], header(version=3), r"in format 3, and formats 1 and 2 can be read\. A newer"),
        ([sample()], {"version": 2}, r"has no `eval` with a `task`"),
        ([sample(scores={"m": 1})], header(), r"sample one, epoch 1: its score m has no value: the log is damaged\.$"),
        ([sample(messages=["hi"])], header(), r"sample one, epoch 1 has a message that is no object: the log is damaged\.$"),
    ],
)  # fmt: skip
def test_a_log_without_anything_to_read_is_refused(
    tmp_path: Path, samples: list[dict[str, Any]], head: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as e:
        read(write_eval(tmp_path / "a.eval", samples, head))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("zstd", [False, True])
def test_a_damaged_zip_is_refused_wherever_it_is_damaged(tmp_path: Path, zstd: bool) -> None:
    whole = write_eval(tmp_path / "a.eval", [sample(str(i)) for i in range(20)], zstd=zstd).read_bytes()
    path = tmp_path / "b.eval"
    for n in (3, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:n])
        with pytest.raises(UsageError, match=r"b\.eval is cut short or damaged .*Copy it again"):
            open_logs("b", [path])
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 0xFF]) + whole[101:])
    with pytest.raises(UsageError, match=r"b\.eval is damaged: samples/0_epoch_1\.json in it cannot be read.*Copy it"):
        open_logs("b", [path])


def test_the_same_sample_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(header() | {"samples": [sample(), sample()]}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"has the sample one twice in epoch 1: it is damaged\.$"):
        read(path)


def test_choices_are_sequences_and_their_metrics_are_of_the_example(tmp_path: Path) -> None:
    """The space before a continuation is read with it, as the harness does it."""
    (example,) = read(write_samples(tmp_path, [document()], results={"model_name": "tiny", "config": {}}))
    assert example.row.transcripts == (Completion("The lamp was", " lit"), Completion("The lamp was", " a fish"))
    assert scores(example) == [
        (0, "loglikelihood", "logprob", -1.5, None),
        (0, "loglikelihood", "is_greedy", 1.0, None),
        (1, "loglikelihood", "logprob", -7.25, None),
        (1, "loglikelihood", "is_greedy", 0.0, None),
        (None, "none", "acc", 1.0, True),
        (None, "none", "acc_norm", 0.0, False),
    ]
    assert {(x.task, x.answered_by) for x in example.row.evaluations} == {("lamps", "tiny")}
    assert (example.row.source_id, example.row.metadata) == ("0", {"q": "The lamp was", "gold": 0})


def test_filters_of_one_document_are_scorers_of_one_example(tmp_path: Path) -> None:
    lines = [generated(0), generated(1), generated(0, "flexible", 1.0), generated(1, "flexible", 1.0)]
    first, second = read(write_samples(tmp_path, lines))
    assert first.row.transcripts == (Completion("The lamp was", " out."),)
    assert scores(first) == [
        (0, "strict-match", "exact_match", 0.0, False),
        (0, "flexible", "exact_match", 1.0, True),
    ]
    assert [(x.target, x.answer) for x in second.row.evaluations] == [("lit", "out")] * 2


def test_older_samples_and_whole_texts_are_read(tmp_path: Path) -> None:
    old = document(arguments=[["The lamp was ", "lit"], ["The lamp was ", "a fish"]])
    rolling = document(1, arguments=[["The lamp was lit."]], resps=[["-12.5"]], metrics=["word_perplexity"],
                       word_perplexity=[-12.5, 4])  # fmt: skip
    first, second = read(write_samples(tmp_path, [old, rolling]))
    assert first.row.transcripts[0] == Completion("The lamp was", " lit")
    assert second.row.transcripts == (Completion("", "The lamp was lit."),)
    assert [(x.metric, x.value, x.score) for x in second.row.evaluations] == [
        ("logprob", -12.5, "-12.5"),
        ("word_perplexity", None, "[-12.5, 4]"),
    ]


def test_a_bos_that_was_asked_for_is_said(tmp_path: Path) -> None:
    results = {"config": {"model_args": "pretrained=tiny,add_bos_token=True"}}
    source = open_logs("a", [write_samples(tmp_path, [document()], results=results)])
    assert str(source.description()).endswith("with add_bos_token=True: read it with --prepend-bos yes")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([document(), {"doc_id": 1}], r"jsonl, line 2 is no sample of lm-evaluation-harness: it has no `doc`\.$"),
        (
            [document(), document()],
            r"line 2: document 0 is there twice \(filter none\): two logs were written into one",
        ),
        ([document(arguments={"gen_args_0": {"arg_0": 3}})], r"line 1: its `arguments` are not texts"),
        ([document(resps=[["-1"], ["-2"]])], r"line 1: a request for a likelihood has no log-probability"),
    ],
)
def test_damaged_samples_are_refused(tmp_path: Path, lines: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_logs("a", [write_samples(tmp_path, lines)])


def test_logs_in_a_folder_are_joined_by_task(tmp_path: Path) -> None:
    """Two models that answered the same samples are sequences of the same examples; another task is data of its own."""
    spec = header()["eval"]
    (tmp_path / "deep").mkdir()
    write_eval(tmp_path / "a.eval", [sample("one"), sample("two")])
    write_eval(tmp_path / "deep" / "b.eval", [sample("one", value="I")], header(eval=spec | {"model": "other/model"}))
    write_eval(tmp_path / "c.eval", [sample("one")], header(eval=spec | {"task": "more"}))
    (tmp_path / "notes.jsonl").write_text('{"text": "Not a log."}\n')
    found = find_logs(tmp_path)
    assert [p.name for p in found] == ["a.eval", "c.eval", "b.eval"]
    source = open_logs(str(tmp_path), found)
    examples = {(e.source.dataset, e.row.source_id): e for e in source.read()}
    assert [(s.dataset, s.config) for s in source.members] == [("sums", "inspect"), ("more", "inspect")]
    assert [(x.seq, x.answered_by, x.value) for x in examples["sums", "one"].row.evaluations] == [
        (0, "some/model", 1.0),
        (1, "other/model", 0.0),
    ]
    assert {k: len(e.row.transcripts) for k, e in examples.items()} == {
        ("sums", "one"): 2,
        ("sums", "two"): 1,
        ("more", "one"): 1,
    }
    write_samples(tmp_path, [document()])
    with pytest.raises(UsageError, match="has logs of Inspect and of lm-evaluation-harness: capture them apart"):
        open_logs(str(tmp_path), find_logs(tmp_path))
