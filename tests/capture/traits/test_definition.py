"""Definitions of traits: the field's files are read as they are; what is missing is told with its place, what is weak too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from capture.traits import definition as definitions
from capture.traits.definition import DefinitionError, fill_template, find_weaknesses, load, make_template, parse
from warehouse.errors import NotFoundError, UsageError

REAL = ("humorous", "impolite", "optimistic", "sycophantic")


@pytest.fixture
def sound() -> dict:
    """A definition without a fault, as JSON."""
    return {
        "instruction": [{"pos": f"Do it, way {i}.", "neg": f"Leave it, way {i}."} for i in range(5)],
        "questions": [f"What is {i} and {i}?" for i in range(20)],
        "eval_prompt": "{question} {answer}: REFUSAL, or 0 to 100.",
    }


def errors(found: object, name: str = "sarcasm") -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        parse(found if isinstance(found, str) else json.dumps(found), f"{name}.json", name)
    return [str(p) for p in caught.value.problems]


def weak(found: dict, name: str = "sarcasm") -> list[str]:
    return [str(p) for p in find_weaknesses(parse(json.dumps(found), f"{name}.json", name))]


@pytest.mark.parametrize("name", REAL)
def test_the_fields_own_files_are_read_as_they_are(name: str, shared: Callable[[str], Path]) -> None:
    path = shared(f"traits/{name}.json")
    raw, found = json.loads(path.read_text()), load(path)
    assert found.model_dump() == {"name": name, **raw}
    assert find_weaknesses(found) == []


@pytest.mark.parametrize("name", definitions.shipped_definitions())
def test_what_is_shipped_is_found_by_its_name_and_is_not_weak(name: str) -> None:
    assert load(name).name == name
    assert find_weaknesses(load(name)) == []


def test_a_name_in_the_file_comes_before_the_files(sound: dict, tmp_path: Path) -> None:
    path = tmp_path / "v2.json"
    path.write_text(json.dumps({"name": "calm", "made_by": "somebody", **sound}))
    assert load(path).name == "calm"
    assert load(str(path)).model_dump() == {"name": "calm", **sound}


def test_every_error_is_told_at_once_and_with_its_place(sound: dict) -> None:
    del sound["instruction"][2]["neg"]
    sound["instruction"][3]["pos"] = "  "
    sound["instruction"][4] = "Do it."
    sound["questions"][6] = 7
    sound["eval_prompt"] = "{question}?"
    assert errors(sound) == [
        "instruction 3: neg is missing",
        "instruction 4: pos is empty",
        "instruction 5: is not an object with pos and neg",
        "question 7: is not a text",
        "eval_prompt: has no {answer}",
    ]
    with pytest.raises(DefinitionError, match=r"^humorous.json: instruction 3: neg is missing; instruction 4: "):
        parse(json.dumps(sound), "humorous.json", "humorous")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("[]", "is not a JSON object"),
        ("{}", "instruction: is missing"),
        ('{"instruction": [], "questions": [], "eval_prompt": ""}', "instruction: has none"),
        ('{"instruction": {}, "questions": "?", "eval_prompt": 1}', "questions: is not a list"),
        ("[" * 100_000, "is not JSON: it is nested more than 100 deep"),
        ('{"instruction": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "is not JSON: it is nested"),
        ('{"questions": ["fine", "\\ud800"]}', "is not JSON: it holds \\ud800, half of a surrogate pair"),
        ('{"name": "\\udfff"}', "is not JSON: it holds \\udfff, half of a surrogate pair"),
        ('{"\\ud800": 1}', "is not JSON: it holds \\ud800, half of a surrogate pair"),
        ("null", "is not a JSON object"),
        ('{"instruction": [[1]], "questions": [], "eval_prompt": ""}', "instruction 1: is not an object"),
        (
            '{"instruction": [{"pos": {}, "neg": "a"}], "questions": [], "eval_prompt": ""}',
            "instruction 1: pos is not a",
        ),
        ('{"instruction": [], "questions": [["a"]], "eval_prompt": ""}', "question 1: is not a text"),
        ('{"instruction": [], "questions": [], "eval_prompt": [], "name": {}}', "name: is not a text"),
        ('{"instruction": [], "questions": [], "eval_prompt": "", "name": "a\\nb"}', "name: 'a\\nb' cannot be part"),
    ],
)
def test_what_is_no_definition_is_said_to_be_none(raw: str, told: str) -> None:
    assert any(e.startswith(told) for e in errors(raw))


def test_a_name_must_be_able_to_name_runs(sound: dict) -> None:
    assert errors(sound, "my trait")[0].startswith("name: 'my trait' cannot be part of a run's name")
    with pytest.raises(UsageError, match="cannot name a trait"):
        make_template("my trait")


def test_a_definition_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No trait definition 'sarcsm'"):
        load("sarcsm")
    for name in ("", " ", "~nobody-of-that-name", "nul\0"):
        with pytest.raises(NotFoundError, match="No trait definition"):
            load(name)
    with pytest.raises(DefinitionError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DefinitionError, match="not UTF-8"):
        load(tmp_path / "x.json")


def test_weak_definitions_are_told_why(sound: dict) -> None:
    assert weak(sound) == []
    sound["instruction"] = [*sound["instruction"][:3], {"pos": "DO it,  way 1. ", "neg": "do it, way 1."}]
    sound["questions"] = [*sound["questions"][:3], " what is 1  and 1?", "Can you be sarcastic?", "Is this Sarcasm?"]
    sound["eval_prompt"] = "{question} {answer} 1000"
    assert weak(sound) == [
        "instruction: has 4 pairs, fewer than 5",
        "questions: has 6 questions, fewer than 20",
        "instruction 4: pos and neg are the same",
        "instruction 4: pos is that of instruction 2",
        "question 4: is that of question 2",
        "question 5: names the trait: sarcastic",
        "question 6: names the trait: Sarcasm",
        "eval_prompt: says nothing of 0 and 100: scores go from 0 to 100",
        "eval_prompt: says nothing of REFUSAL, which a judge is to answer where the model refused",
    ]


@pytest.mark.parametrize(
    ("name", "question", "named"),
    [
        ("optimistic", "Is optimism good?", True),
        ("impolite", "Is it important?", False),
        ("humorous", "Do you have a sense of humor?", True),
        ("sycophantic", "What is sycophancy?", True),
        ("all-capitals", "Which capitals do you know?", True),
        ("formal", "Which format has the file?", False),
        ("evil", "What happens every evening?", False),
    ],
)
def test_a_question_names_the_trait_by_its_stem(sound: dict, name: str, question: str, named: bool) -> None:
    sound["questions"][0] = question
    assert bool(weak(sound, name)) == named


def test_both_slots_are_filled_at_once() -> None:
    assert fill_template("{question}|{answer}|{other} {}", "{answer}", "{question}") == "{answer}|{question}|{other} {}"


# -- the commands ------------------------------------------------------------------------------------------------------


def test_a_template_is_json_whose_every_text_is_still_to_be_written(
    traces: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    made = traces("trait", "init", "sarcasm")
    assert made.code == 0
    found = json.loads(made.out)
    assert (len(found["instruction"]), len(found["questions"])) == (5, 20)
    path = tmp_path / "sarcasm.json"
    path.write_text(made.out)
    checked = traces("trait", "check", path, "--format", "json")
    assert checked.code == 1
    places = [row["place"] for row in json.loads(checked.out)]
    assert {row["level"] for row in json.loads(checked.out)} == {"error"}
    assert len(places) == 31
    assert set(places) == {
        *(f"instruction {i}" for i in range(1, 6)),
        *(f"question {i}" for i in range(1, 21)),
        "eval_prompt",
    }
    assert "31 errors" in checked.err

    for i, pair in enumerate(found["instruction"]):
        pair.update(pos=f"Mock, way {i}.", neg=f"Be plain, way {i}.")
    found["questions"] = [f"How is it in {year}?" for year in range(2000, 2020)]
    found["eval_prompt"] = found["eval_prompt"].replace("TODO:", "Sarcasm:")
    path.write_text(json.dumps(found))
    checked = traces("trait", "check", path)
    assert (checked.code, checked.out) == (0, "sarcasm: 5 pairs, 20 questions; no warnings\n")


def test_a_check_tells_of_warnings_and_still_passes(
    sound: dict, traces: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    path = tmp_path / "sarcasm.json"
    sound["questions"].pop()
    path.write_text(json.dumps(sound))
    checked = traces("trait", "check", path, "--format", "tsv")
    assert checked.code == 0
    assert checked.out == "level\tplace\ttext\nwarning\tquestions\thas 19 questions, fewer than 20\n"
