"""The commands that have a model answer a trait's questions: what is told before hours of it, and what goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import completion, serve

from capture.respond_cli import numbers
from warehouse import TraceStore, Warehouse
from warehouse.errors import UsageError
from warehouse.layout import run_dir

DEFINITION = {
    "name": "windy",
    "instruction": [{"pos": "Speak of wind.", "neg": "Speak of stones."}] * 2,
    "questions": [
        "What is the sea?",
        "Who keeps the lamp?",
        "Why?",
        "When?",
        "Where?",
        "How far?",
        "What sings?",
        "Who comes?",
    ],
    "eval_prompt": "{question} {answer} 0 to 100, or REFUSAL",
}


@pytest.mark.parametrize("text", ["nan", "1,inf", "1e999", "", "a", "1;2"])
@pytest.mark.parametrize("option", ["--coefficients", "--layers"])
def test_what_is_no_number(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=option):
        numbers(option, text)


def test_a_number_named_twice_is_one() -> None:
    assert numbers("--coefficients", "2,2.0,-1,0,-1") == [2, -1, 0]
    with pytest.raises(UsageError, match="numbers from 0 up"):
        numbers("--layers", "1,-1")


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traits") / "windy.json"
    path.write_text(json.dumps(DEFINITION))
    return path


def test_a_judge_that_cannot_be_asked_is_told_of_before_there_are_responses(
    tmp_path: Path, definition: Path, traces: Callable[..., Any]
) -> None:
    call = ("--trait", definition, "--model", "/nowhere", "--warehouse", tmp_path)
    for judge, message in (
        ("nobody:x", "No judge 'nobody:x'"),
        ("http://example.invalid/v1:x", "nobody is there to be asked: add --yes"),
    ):
        done = traces("trait", "respond", *call, "--judge", judge)
        assert (done.code, message in done.err) == (2, True), done.err
        all_of_it = traces("trait", "run", "--traits", definition, *call[2:], "--judge", judge)
        assert (all_of_it.code, message in all_of_it.err) == (2, True), all_of_it.err
    for more, message in (
        (("--traits", " , "), "name at least one"),
        (("--traits", definition, "--threshold", "high"), "--threshold high"),
        (("--traits", definition, "--coefficients", "nan"), "--coefficients nan"),
        (("--traits", definition, "--project", "gone"), "'gone'"),
    ):
        done = traces("trait", "run", *more, *call[2:])
        assert (done.code, message in done.err) == (2, True), done.err


def test_from_responses_to_steering(
    tmp_path: Path, definition: Path, traces: Callable[..., Any], tiny_folder: Callable[[str], Path]
) -> None:
    """Judging that was interrupted goes on with the same command; what is asked for beside the best vector is not passed over."""
    place = ("--warehouse", tmp_path, "--device", "cpu", "--max-new-tokens", 4)
    with serve(lambda _: completion("80")) as front:
        call = ("trait", "respond", "--trait", definition, "--model", tiny_folder("llama"), "--n", 8, *place)
        judge = ("--judge", f"{front.url}/v1:tiny")
        name = f"windy-{tiny_folder('llama').name}-responses"
        assert traces(*call).code == 0
        done = traces(*call, *judge)
        assert done.code == 0, done.err
        assert f"{name} is there already: going on with its judge" in done.err
        assert TraceStore(run_dir(tmp_path, f"{name}-judged")).meta.counts.rows["judgements"] == 16
        other = traces(*call, *judge)
        assert other.code == 2 and "already there" in other.err
    all_of_it = ("trait", "run", "--traits", f" {definition} ", "--model", tiny_folder("llama"), "--n", 8, *place)
    done = traces(*all_of_it, "--coefficients", "0,2,2.0")
    assert done.code == 0, done.err
    vectors = f"windy-{tiny_folder('llama').name}-vectors"
    steered = TraceStore(run_dir(tmp_path, f"{vectors}-steered"))
    questions = len(TraceStore(run_dir(tmp_path, vectors)).meta.options["held_out_questions"]["windy"])
    assert steered.meta.counts.sequences == 2 * questions
    assert steered.meta.parents == [vectors]
    assert len(steered.meta.options["vectors_hash"]) == 32
    with Warehouse(tmp_path) as wh:
        ((best,),) = wh.sql("SELECT method FROM trait_best").fetchall()
    steer = ("trait", "steer", "--trait", "windy", "--run", "again", *place)
    other = next(m for m in ("probe", "ica", "gradient") if m != best)
    refused = traces(*steer, "--layers", "best", "--method", other)
    assert refused.code == 2 and f"--method {other}: the best vector of windy is of {best}" in refused.err
    for more, message in (
        (("--vectors", name), f"No trait 'windy'. There is none yet. (vectors in run '{name}')"),
        (("--vectors", vectors, "--layers", "9"), "No layer '9'. There is: 0, 1, 2."),
    ):
        refused = traces(*steer, *more)
        assert (refused.code, message in refused.err) == (2, True), refused.err
    shard = traces(*steer, "--layers", "1", "--shard", "1/2", "--coefficients", "0,1")
    assert shard.code == 0 and "traces runs merge again" in shard.out, shard.err
