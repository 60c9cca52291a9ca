"""The commands that have a model answer a trait's questions: what is told before hours of it, and what goes on where it stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_server import completion, serve

from capture.cli.trait_pipeline import run
from capture.cli.trait_respond import respond, steer
from capture.cli.values import parse_numbers
from warehouse import TraceStore, Warehouse
from warehouse.errors import RunExistsError, UsageError
from warehouse.storage.paths import run_dir

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
        parse_numbers(option, text)


def test_a_number_named_twice_is_one() -> None:
    assert parse_numbers("--coefficients", "2,2.0,-1,0,-1") == [2, -1, 0]
    with pytest.raises(UsageError, match="numbers from 0 up"):
        parse_numbers("--layers", "1,-1")


@pytest.fixture
def definition(tmp_path: Path) -> str:
    path = tmp_path / "windy.json"
    path.write_text(json.dumps(DEFINITION))
    return str(path)


@pytest.mark.parametrize(
    ("judge", "message"),
    [("nobody:x", "No judge 'nobody:x'"), ("http://example.invalid/v1:x", "no terminal to confirm that on: add --yes")],
)
def test_a_judge_that_cannot_be_asked_is_told_of_before_there_are_responses(
    tmp_path: Path, definition: str, judge: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        respond(trait=definition, model="/nowhere", judge=judge, warehouse=tmp_path)
    with pytest.raises(UsageError, match=message):
        run(traits=definition, model="/nowhere", judge=judge, warehouse=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"traits": " , "}, "name at least one"),
        ({"threshold": "high"}, "--threshold high"),
        ({"threshold": "101"}, "threshold 101: scores are from 0 to 100"),
        ({"filter": "rows"}, "No filter 'rows'"),
        ({"coefficients": "nan"}, "--coefficients nan"),
        ({"projected": "gone"}, "'gone'"),
    ],
)
def test_all_that_is_asked_is_looked_at_first(
    tmp_path: Path, definition: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(**{"traits": definition, "model": "/nowhere", "warehouse": tmp_path} | options)


@pytest.mark.slow
def test_from_responses_to_projections(
    tmp_path: Path,
    definition: str,
    tiny_folder: Callable[[str], Path],
    capture_tiny: Callable[..., TraceStore],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Judging that was interrupted goes on with the same command; what is asked for beside the best vector is not passed over;
    projections of other traits do not stand for those that are asked for."""
    place = {"device": "cpu", "max_new_tokens": 4, "warehouse": tmp_path}
    model = str(tiny_folder("llama"))
    responses, vectors = "windy-llama-responses", "windy-llama-vectors"
    respond(trait=definition, model=model, n=8, **place)
    with serve(lambda _: completion("80")) as front:
        judge = f"{front.url}/v1:tiny"
        respond(trait=definition, model=model, n=8, judge=judge, **place)
        assert f"{responses} exists already: going on with its judge" in capsys.readouterr().err
        assert TraceStore(run_dir(tmp_path, f"{responses}-judged")).meta.counts.rows["judgements"] == 16
        with pytest.raises(RunExistsError):
            respond(trait=definition, model=model, n=8, judge=judge, **place)
    with pytest.raises(RunExistsError):
        respond(trait=definition, model=model, n=9, judge=judge, **place)
    capture_tiny(tmp_path, "text", capture="resid,attn_out", max_len=16)
    run(traits=f" {definition} ", model=model, n=8, coefficients="0,2,2.0", projected="text", **place)
    steered = TraceStore(run_dir(tmp_path, f"{vectors}-steered"))
    questions = len(TraceStore(run_dir(tmp_path, vectors)).meta.options["held_out_questions"]["windy"])
    assert steered.meta.counts.sequences == 2 * questions
    assert steered.meta.parents == [vectors]
    assert len(steered.meta.options["vectors_hash"]) == 32
    with Warehouse(tmp_path) as wh:
        ((best,),) = wh.sql("SELECT method FROM trait_best").fetchall()
    other = next(m for m in ("probe", "ica", "gradient") if m != best)
    for options, message in (
        ({"layers": "best", "method": other}, f"--method {other}: the best vector of windy is of {best}"),
        ({"vectors": responses}, f"No trait 'windy'. There is none yet. (vectors in run '{responses}')"),
        ({"vectors": vectors, "layers": "9"}, "No layer '9'. There is: 0, 1, 2."),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            steer(trait="windy", run="again", **options, **place)
    steer(trait="windy", layers="1", part="1/2", coefficients="0,1", run="again", **place)
    assert "traces runs merge again" in capsys.readouterr().out
    stony = tmp_path / "stony.json"
    stony.write_text(json.dumps(DEFINITION | {"name": "stony"}))
    run(traits=str(stony), model=model, n=8, coefficients="0,2", projected="text", **place)
    with Warehouse(tmp_path) as wh:
        found = wh.sql("SELECT DISTINCT trait FROM newest_trait_projections WHERE source_run_id = 'text' ORDER BY ALL")
        assert found.fetchall() == [("stony",), ("windy",)]
