"""`--label-column`: a column's values are labels of the texts, numbered the same however often and far the data is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capture.data.named_columns import NamedColumns
from capture.data.registry import open_data
from capture.data.text import open_text
from capture.jobs import job, job_batches, next_token
from warehouse import TraceStore
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.paths import run_dir


def labels(path: Path, *values: Any) -> list[list[tuple[int, str]]]:
    path.write_text("".join(json.dumps({"text": f"text {i}", "feels": v}) + "\n" for i, v in enumerate(values)))
    found = list(open_text(str(path), "text", "feels").read())
    assert all("feels" not in e.row.metadata for e in found)
    return [[(x.label_id, x.label) for x in e.row.labels] for e in found]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["joy", "anger", "joy"], [[(0, "joy")], [(1, "anger")], [(0, "joy")]]),
        ([["b", "a", "b"], ["a"], []], [[(0, "b"), (1, "a")], [(1, "a")], []]),
        ([7, [0, -1, 7]], [[(7, "7")], [(0, "0"), (-1, "-1"), (7, "7")]]),
        (["7", "07", "-0"], [[(7, "7")], [(0, "07")], [(1, "-0")]]),
        ([7, "7"], [[(7, "7")], [(7, "7")]]),
        ([True, False], [[(1, "true")], [(0, "false")]]),
        ([1.5, 2.0, float("nan")], [[(0, "1.5")], [(1, "2.0")], []]),
        ([None, "", "  ", [None, ""], "a"], [[], [], [], [], [(0, "a")]]),
        ([2**40, 2**31 - 1, -(2**31)], [[(0, str(2**40))], [(2**31 - 1, str(2**31 - 1))], [(-(2**31), str(-(2**31)))]]),
        (["x", 1, "y"], [[(0, "x")], [(1, "1")], [(2, "y")]]),
    ],
)
def test_a_value_is_a_label_and_a_list_is_several(tmp_path: Path, values: list, expected: list) -> None:
    assert labels(tmp_path / "a.jsonl", *values) == expected
    assert labels(tmp_path / "a.jsonl", *values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", {"b": 1}], "line 2: column 'feels' holds dict, not a label"),
        ([[["a"]]], "line 1: column 'feels' holds list, not a label"),
        (["joy", 0], "line 2: column 'feels' has the label 0, and 0 is already the number of the label joy"),
        ([True, 1], "line 2: column 'feels' has the label 1, and 1 is already the number of the label true"),
    ],
)
def test_what_is_no_label_is_named_with_its_line(tmp_path: Path, values: list, message: str) -> None:
    with pytest.raises(UsageError, match=rf"a\.jsonl, {message}"):
        labels(tmp_path / "a.jsonl", *values)


def test_a_column_that_is_not_there_or_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,feels\na,b\n")
    with pytest.raises(NotFoundError, match=r"No column 'fels'\. Did you mean feels\? \(.*line 2\).*--label-column"):
        list(open_text(str(path), "text", "fels").read())
    with pytest.raises(UsageError, match="--label-column text is the text.s column"):
        open_data(text=str(path), columns=NamedColumns(label="text"))
    with pytest.raises(
        UsageError, match="--label-column goes with --text FILE, or with --data and a file, a folder, or a data set of"
    ):
        open_data("csqa", columns=NamedColumns(label="feels"))
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(UsageError, match=r"a\.txt has a text a line and no columns"):
        open_text(str(tmp_path / "a.txt"), "text", "feels")
    path = tmp_path / "b.jsonl"
    path.write_text('{"text": "a", "feels": "b"}\n{"text": "c"}\n')
    with pytest.raises(NotFoundError, match=r"No column 'feels'\. There is: text\. \(.*line 2\)"):
        list(open_text(str(path), "text", "feels").read())


def test_csv_and_parquet_give_the_same_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\na,3\nb,\nc,1\n")
    pq.write_table(pa.table({"text": ["a", "b", "c"], "n": pa.array([3, None, 1], pa.int8())}), tmp_path / "a.parquet")
    found = [
        [(e.example_id, e.row.labels) for e in open_text(str(tmp_path / f"a.{kind}"), "text", "n").read()]
        for kind in ("csv", "parquet")
    ]
    assert found[0] == found[1] and [len(x) for _, x in found[0]] == [1, 0, 1]


def test_the_hubs_class_labels_have_their_names(publish: Callable[..., None]) -> None:
    from datasets import ClassLabel, Features, List, Value

    names = ["calm", "cross", "glad"]
    features = {"text": Value("string"), "one": ClassLabel(names=names), "many": List(ClassLabel(names=names))}
    rows = [
        {"text": "a", "one": 2, "many": [2, 0]},
        {"text": "b", "one": -1, "many": []},
        {"text": "c", "one": None, "many": None},
    ]
    publish("harbour/moods", "default", {"validation": rows}, Features(features))

    def read(column: str) -> list[list[tuple[int, str]]]:
        source = open_data("harbour/moods", columns=NamedColumns(label=column))
        return [[(x.label_id, x.label) for x in e.row.labels] for e in source.read()]

    assert read("one") == [[(2, "glad")], [], []]
    assert read("many") == [[(2, "glad"), (0, "calm")], [], []]
    with pytest.raises(NotFoundError, match=r"No column 'ones'\. Did you mean one.*--label-column"):
        read("ones")


def test_labels_are_rows_of_the_run_and_part_of_what_it_is(
    load_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = tmp_path / "moods.csv", tmp_path / "runs"
    path.write_text("text,mood,weather\n" + "".join(f"The lamp {i}.,{m},fog\n" for i, m in enumerate("abcaba" * 5)))
    loaded, options = load_tiny(), next_token.Options(capture="hidden", batch_tokens=16)
    monkeypatch.setattr(job_batches, "_SHARD_TOKENS", 50)

    def stop(progress: job.Progress) -> None:
        if progress.tokens > 100:
            raise KeyboardInterrupt

    def run(column: str | None, run_id: str, report: Any = lambda p: None) -> TraceStore:
        source = open_text(str(path), "text", column)
        next_token.run(loaded, source, options, root=root, run_id=run_id, report=report)
        return TraceStore(run_dir(root, run_id))

    labels = "SELECT label_id, label FROM labels JOIN examples USING (example_id) ORDER BY idx"
    store = run("mood", "moods")
    assert store.query(labels).fetchall() == 5 * [(0, "a"), (1, "b"), (2, "c"), (0, "a"), (1, "b"), (0, "a")]
    assert {m for (m,) in store.query("SELECT metadata FROM examples").fetchall()} == {'{"weather": "fog"}'}
    with pytest.raises(KeyboardInterrupt):
        run("mood", "stopped", stop)
    for other in ("weather", None):
        with pytest.raises(UsageError, match=r"differs in data\.reads"):
            run(other, "stopped")
    resumed: list[int] = []
    again = run("mood", "stopped", lambda p: resumed.append(p.resumed_tokens))
    assert max(resumed) > 0
    assert again.query(labels).fetchall() == store.query(labels).fetchall()


@pytest.mark.parametrize("command", ["next-token", "encode"])
def test_the_option_is_there_where_texts_are_read(
    command: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from capture.cli.main import app

    (tmp_path / "moods.tsv").write_text("said\tmood\nThe lamp.\tcalm\nThe storm!\tcross\n")
    words = ["--text", tmp_path / "moods.tsv", "--text-column", "said", "--label-column", "mood"]
    app(
        ["capture", command, "--model", str(tiny_folder("llama")), *map(str, words), "-w", str(tmp_path), "--run", "r"],
        standalone_mode=False,
    )
    store = TraceStore(run_dir(tmp_path, "r"))
    found = store.query("SELECT text, label_id, label FROM labels JOIN examples USING (example_id) ORDER BY idx")
    assert found.fetchall() == [("The lamp.", 0, "calm"), ("The storm!", 1, "cross")]
