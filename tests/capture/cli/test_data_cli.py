from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import DATA

from capture.data.registry import DATASET_NAMES, DATASETS, open_data


def test_what_is_known_is_listed_with_licence_splits_and_what_is_prepared(tmp_path: Path, traces: Callable) -> None:
    assert (
        traces("data", "prepare", "csqa", "--from", DATA / "questions.jsonl", "--split", "dev", "-w", tmp_path).code
        == 0
    )
    found = json.loads(traces("data", "list", "-w", tmp_path, "--format", "json").out)
    assert [row["name"] for row in found] == list(DATASET_NAMES)
    assert all(row["licence"] and row["splits"] == ["train", "validation", "test"] for row in found[: len(DATASETS)])
    assert {row["name"]: row["prepared"] for row in found if row["prepared"]} == {"csqa": ["validation"]}
    rows = list(csv.DictReader(io.StringIO(traces("data", "list", "-w", tmp_path, "-f", "tsv").out), delimiter="\t"))
    assert [row["name"] for row in rows] == list(DATASET_NAMES) and rows[2]["prepared"] == "validation"
    table = traces("data", "list", "-w", tmp_path).out
    assert all(name in table for name in DATASET_NAMES) and "CC BY-SA 4.0" in table and "OWNER/NAME" in table


def test_a_copy_is_prepared_and_then_read_without_it(tmp_path: Path, traces: Callable) -> None:
    copy = tmp_path / "en_ewt-ud-dev.conllu"
    copy.write_bytes((DATA / "harbour.conllu").read_bytes())
    done = traces("data", "prepare", "ud_ewt", "--from", copy, "-w", tmp_path / "w")
    path = tmp_path / "w" / "data" / "ud_ewt" / "validation.parquet"
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("ud_ewt validation: 3 rows, 28 words; prepared in ")
    assert done.out.rstrip().endswith(str(path))
    again = traces("data", "prepare", "ud_ewt", "--from", copy, "-w", tmp_path / "w")
    assert again.code == 0 and "; replaced in " in again.out
    file = [(e.example_id, e.row) for e in open_data("ud_ewt", split="dev", origin=str(copy)).read()]
    copy.unlink()
    kept = open_data("ud_ewt", split="dev", root=tmp_path / "w")
    assert [(e.example_id, e.row) for e in kept.read()] == file


def test_a_folder_gives_the_splits_that_are_in_it(tmp_path: Path, traces: Callable) -> None:
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_bytes((DATA / "emotions.tsv").read_bytes())
    out = traces("data", "prepare", "go_emotions", "--from", tmp_path, "-w", tmp_path / "w").out
    assert [line.split(":")[0] for line in out.splitlines()] == ["go_emotions train", "go_emotions validation"]
    assert "4 rows, 7 labels" in out
    refused = traces("data", "prepare", "go_emotions", "--from", tmp_path, "--split", "test", "-w", tmp_path / "w")
    assert refused.code == 2 and "No split 'test'. There is: train, validation" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ud_ewtt"], "No data set 'ud_ewtt'. Did you mean ud_ewt"),
        (["ud_ewt", "csqa", "--from", "dev.conllu"], "--from is a copy of one data set"),
        (["ud_ewt", "--split", "tset"], "No split of ud_ewt 'tset'"),
        (["csqa", "--from", str(DATA / "questions.jsonl")], "Say which split"),
        (
            ["csqa", "--from", str(DATA / "questions.jsonl"), "--split", "dev", "--split", "test"],
            "name one with --split",
        ),
        (["csqa", "--from", str(DATA / "questoins.jsonl")], "No file '.*Did you mean .*questions.jsonl"),
        (["ud_ewt", "--split", "dev", "--from", str(DATA / "emotions.tsv")], "emotions.tsv, line 1 has 3 columns"),
    ],
)
def test_wrong_calls_are_one_line(tmp_path: Path, traces: Callable, arguments: list[str], message: str) -> None:
    done = traces("data", "prepare", *arguments, "-w", tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1 and not done.out
    assert re.search(message, done.err), done.err
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.fixture
def in_the_hub(tmp_path: Path, publish: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Publishes, in the folder where a command of its own process looks for data sets of the hub."""
    (tmp_path / "hub").mkdir()
    monkeypatch.chdir(tmp_path / "hub")
    return publish


def test_from_the_hub_all_splits_are_prepared(tmp_path: Path, in_the_hub: Callable, traces: Callable) -> None:
    plain = [json.loads(line) for line in (DATA / "questions.jsonl").read_text().splitlines()]
    blind = [p | {"answerKey": ""} for p in plain[:2]]
    in_the_hub("tau/commonsense_qa", "default", {"train": plain, "validation": plain, "test": blind})
    here = {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = traces("data", "prepare", "csqa", "-w", tmp_path / "w", env=here)
    assert (done.code, done.err) == (0, "")
    assert [line.split(";")[0] for line in done.out.splitlines()] == [
        "csqa train: 3 rows, 15 choices, 3 answers",
        "csqa validation: 3 rows, 15 choices, 3 answers",
        "csqa test: 2 rows, 10 choices",
    ]


def test_all_data_sets_are_prepared_as_far_as_they_can_be(
    traces: Callable, tmp_path: Path, in_the_hub: Callable
) -> None:
    """What cannot be had is named at the end, and stops none of the others."""
    row = {"id": "1", "question": "What?", "question_concept": "x", "answerKey": "A"}
    choices = {"label": list("ABCDE"), "text": ["one", "two", "three", "four", "five"]}
    in_the_hub(
        "tau/commonsense_qa", "default", {s: [row | {"choices": choices}] for s in ("train", "validation", "test")}
    )
    done = traces("data", "prepare", "all", "-w", tmp_path / "w", env={"HF_HOME": str(tmp_path / "hf")})
    assert done.code == 1 and done.out.count("csqa") == 3 * 2
    *notes, last = done.err.splitlines()
    others = [name for name in DATASETS if name != "csqa"]
    assert [note.split(":")[0] for note in notes] == others
    assert last.startswith(f"traces: {len(others)} of {len(others) + 1} data sets could not be prepared. {others[0]}: ")
    refused = traces("data", "prepare", "all", "--from", tmp_path, "-w", tmp_path / "w")
    assert refused.code == 2 and "--from is a copy of one data set" in refused.err


def test_no_data_command_imports_a_model_library(tmp_path: Path) -> None:
    code = """
import sys
import capture.cli.main
from capture.cli.main import app
for arguments in (["data", "list"], ["data", "prepare", "ud_ewt", "--split", "dev", "--from", sys.argv[1]]):
    app([*arguments, "-w", sys.argv[2]], standalone_mode=False)
print(sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(DATA / "harbour.conllu"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
