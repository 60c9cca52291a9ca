"""A text of one's own is told by the text alone, or by its id: whatever it was read from, and whatever that was called."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capture.cli.data_options import DataOptions
from capture.data.example import Source
from capture.data.memory import open_texts
from capture.data.named_columns import NamedColumns
from capture.data.prompt_sets import open_prompts
from capture.data.registry import open_data
from capture.data.text import one_text, open_text
from capture.jobs import job_batches, next_token
from warehouse import TraceStore
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.paths import run_dir

TEXTS = ["The lamp was lit.", "Nobody came.", "The lamp was lit."]


def ids(source: Source) -> list[str]:
    return [e.example_id for e in source.read()]


def labels(source: Source) -> list[list[tuple[int, str]]]:
    return [[(x.label_id, x.label) for x in e.row.labels] for e in source.read()]


def file_of(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_text_is_the_same_example_wherever_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ids(open_texts(TEXTS))
    assert expected == ["189aa0c3baf500d5", "c3f5582a7013bd5b", "1d83b337c8fabf22"]  # the same on every machine
    for name in ("a.txt", "renamed.txt"):
        (tmp_path / name).write_text("\n".join(TEXTS))
        assert ids(open_text(str(tmp_path / name), "text")) == expected
    pq.write_table(pa.table({"body": TEXTS, "n": [1, 2, 3]}), tmp_path / "b.parquet")
    assert ids(open_text(str(tmp_path / "b.parquet"), "body", "n")) == expected
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(TEXTS).encode())))
    assert ids(open_text("-", "text")) == expected
    assert ids(open_prompts(TEXTS)) == ids(open_texts(iter(TEXTS))) == ids(open_texts(pd.Series(TEXTS))) == expected
    assert [*ids(one_text(TEXTS[0])), *ids(one_text(TEXTS[1]))] == expected[:2]


def test_an_id_tells_an_example_whatever_its_text_and_its_file_are(tmp_path: Path) -> None:
    first = file_of(tmp_path / "a.jsonl", [{"text": "one", "key": 7}, {"text": "one", "key": "x"}])
    corrected = file_of(tmp_path / "b.jsonl", [{"text": "One.", "key": "x"}, {"text": " "}, {"text": "One!", "key": 7}])
    found = ids(open_text(first, "text", id_column="key"))
    with pytest.raises(NotFoundError, match=r"No column 'key'.*--id-column"):
        ids(open_text(corrected, "text", id_column="key"))
    corrected = file_of(
        tmp_path / "b.jsonl", [{"text": "One.", "key": "x"}, {"text": " ", "key": None}, {"text": "One!", "key": "7"}]
    )
    assert ids(open_text(corrected, "text", id_column="key")) == found[::-1]
    assert ids(open_texts(["a", "b"], ids=np.array([7, 8]))) == [found[0], *ids(open_texts(["c"], ids=["8"]))]
    assert not {*found} & {*ids(open_texts(["7", "x"]))}  # a text is no id
    (example, _) = open_text(first, "text", id_column="key").read()
    assert (example.row.source_id, example.row.metadata) == ("7", {})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["a", "b", "a"], r"a\.jsonl, line 1 and .*a\.jsonl, line 3 have the same id, a \(column 'key'\)"),
        ([1, "1", 2], r"line 1 and .*line 2 have the same id, 1"),
        ([1, None, 2], r"line 2: column 'key' is empty: every row needs an id of its own"),
        ([1, " ", 2], r"line 2: column 'key' is empty"),
        ([1, 2.0, 3], r"line 2: column 'key' holds float, not an id: a text or a whole number"),
        ([1, True, 3], r"line 2: column 'key' holds bool, not an id"),
        ([[1], 2, 3], r"line 1: column 'key' holds list, not an id"),
    ],
)
def test_ids_that_do_not_tell_texts_apart_are_refused_with_their_rows(
    tmp_path: Path, keys: list[Any], message: str
) -> None:
    rows = [{"text": text, "key": key} for text, key in zip(TEXTS, keys, strict=True)]
    source = open_text(file_of(tmp_path / "a.jsonl", rows), "text", id_column="key")
    with pytest.raises(UsageError, match=message) as e:
        ids(source)
    assert "\n" not in str(e.value)
    with pytest.raises(UsageError, match=message):  # before anything is captured
        open_data(text=source.origin, columns=NamedColumns(id="key"))
    with pytest.raises(UsageError, match=r"^texts\[\d\].*column 'ids'"):
        open_texts(TEXTS, ids=keys)


def test_an_id_column_goes_with_a_file_that_has_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    path = file_of(tmp_path / "a.jsonl", [{"text": "a", "k": 1}])
    with pytest.raises(UsageError, match="no columns: --id-column goes with"):
        open_text(str(tmp_path / "a.txt"), "text", id_column="k")
    for given, message in (
        ({"id": "text"}, "--id-column text is the text's column"),
        ({"id": "k", "label": "k"}, "--id-column k is the labels' column"),
        ({"id": " "}, "--id-column is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            open_data(text=path, columns=NamedColumns(**given))
    for given in ({"id": "k"}, {"text": "question"}):
        (column,) = given
        with pytest.raises(UsageError, match=f"--{column}-column goes with --text FILE, .*: csqa is none of them"):
            open_data("csqa", columns=NamedColumns(**given))


def test_a_split_of_a_file_of_texts_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(UsageError, match="--split goes with --data"):
        DataOptions(text=path, split="validation").open(tmp_path)
    assert ids(DataOptions(text=path).open(tmp_path)) == ids(open_texts(["a"]))


# -- lists -------------------------------------------------------------------------------------------------------------


def test_labels_beside_a_list_are_those_of_a_column(tmp_path: Path) -> None:
    values = ["good", None, ["bad", "good"]]
    path = file_of(tmp_path / "a.jsonl", [{"text": t, "y": v} for t, v in zip(TEXTS, values, strict=True)])
    in_memory = open_texts(TEXTS, labels=values)
    assert labels(in_memory) == labels(open_text(path, "text", "y")) == [[(0, "good")], [], [(1, "bad"), (0, "good")]]
    assert in_memory.dataset == "texts" and [e.row.source_id for e in in_memory.read()] == ["0", "1", "2"]
    for numbers in (np.array([3, 0, 3]), pd.Series([3, 0, 3]), (3, 0, 3), [np.int64(3), 0, 3]):
        assert labels(open_texts(TEXTS, labels=numbers)) == [[(3, "3")], [(0, "0")], [(3, "3")]]
    assert labels(open_texts(TEXTS, labels=np.array([True, False, True])))[:2] == [[(1, "true")], [(0, "false")]]
    assert labels(open_texts(TEXTS, labels=[float("nan"), "a", "a"])) == [[], [(0, "a")], [(0, "a")]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texts": "one"}, "texts is a str, not a list: give a list"),
        ({"texts": 5}, "texts is a int, not a list"),
        ({"texts": {"a": 1}}, "texts is a dict, not a list"),
        ({"texts": []}, "texts holds no text: there is nothing to capture"),
        ({"texts": [" ", "\n"]}, "texts holds no text"),
        ({"texts": ["a", None]}, r"texts\[1\]: column 'texts' is null"),
        ({"texts": ["a", 5]}, r"texts\[1\]: column 'texts' holds int, not text"),
        ({"texts": [b"a"]}, r"texts\[0\] holds bytes"),
        ({"texts": ["a", "b"], "labels": ["x"]}, "texts holds 2 and labels 1: give one for each text"),
        ({"texts": ["a", "b"], "ids": [1, 2, 3]}, "texts holds 2 and ids 3"),
        ({"texts": ["a"], "labels": "x"}, "labels is a str, not a list"),
        ({"texts": ["a"], "labels": [{"x": 1}]}, r"labels\[0\] holds dict"),
        ({"texts": ["a"], "labels": [pd.NA]}, r"labels\[0\] holds NAType \(<NA>\): give a text, a number or None"),
        ({"texts": ["a"], "labels": [[["x"]]]}, r"texts\[0\]: column 'labels' holds list, not a label"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as e:
        open_texts(**given)
    assert "\n" not in str(e.value)


# -- renaming ----------------------------------------------------------------------------------------------------------


def test_a_file_that_was_renamed_joins_with_what_was_captured_before(tmp_path: Path, capture_tiny: Callable) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("\n".join(TEXTS))
    before = capture_tiny(tmp_path / "runs", "before", text=old, capture="none")
    old.rename(new)
    after = capture_tiny(tmp_path / "runs", "after", kind="gpt2", text=new, capture="none")
    found = [store.query("SELECT example_id, text FROM examples ORDER BY idx").fetchall() for store in (before, after)]
    assert found[0] == found[1] and len({e for e, _ in found[0]}) == 3
    named = [store.query("SELECT DISTINCT dataset FROM examples").fetchall() for store in (before, after)]
    assert named == [[("old",)], [("new",)]]  # where it came from can still be read
    assert before.meta.data.hash == after.meta.data.hash


def test_a_capture_goes_on_with_its_file_elsewhere_and_refuses_one_of_another_name(
    tmp_path: Path, load_tiny: Callable, sample_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is part of every row that is written, so that it cannot change halfway."""
    old, new, moved = tmp_path / "old.txt", tmp_path / "new.txt", tmp_path / "folder" / "old.txt"
    old.write_text("\n".join(sample_lines))
    monkeypatch.setattr(job_batches, "_SHARD_TOKENS", 300)
    root, options = tmp_path / "runs", next_token.Options(capture="resid", batch_tokens=64, shard_mb=1)

    class Killed(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.tokens > 800:
            raise Killed

    with pytest.raises(Killed):
        next_token.run(load_tiny(), open_text(str(old), "text"), options, root=root, run_id="r", report=kill)
    old.rename(new)
    with pytest.raises(
        UsageError, match=r"unfinished capture named 'r' differs in data\.dataset \('old' then, 'new' now\)"
    ):
        next_token.run(load_tiny(), open_text(str(new), "text"), options, root=root, run_id="r")
    moved.parent.mkdir()
    new.rename(moved)
    next_token.run(load_tiny(), open_text(str(moved), "text"), options, root=root, run_id="r")
    assert TraceStore(run_dir(root, "r")).tokens["text"].tolist() == sample_lines
