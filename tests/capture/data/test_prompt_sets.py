"""Prompt sets: those that ship, those of others, their ids, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SHARED

from capture.data.example import Source
from capture.data.prompt_sets import open_prompt_sets, open_prompts, shipped_counts, shipped_sets
from capture.traits import definition
from warehouse.errors import NotFoundError, UsageError

OTHERS = SHARED / "prompt_sets"
needs_others = pytest.mark.skipif(not OTHERS.is_dir(), reason="no ../shared/data/prompt_sets")


def written(path: Path, *prompts: object) -> str:
    path.write_text(json.dumps({"name": "Mine", "prompts": prompts}))
    return str(path)


def ids(source: Source) -> list[str]:
    return [e.example_id for e in source.read()]


def test_the_shipped_sets_are_eight_to_twelve_short_prompts_each_no_two_the_same() -> None:
    assert shipped_sets() == ["adversarial", "baseline", "changing", "real_world", "several_traits", "single_trait"]
    found = list(open_prompt_sets(shipped_sets()).read())
    assert len({e.text.casefold() for e in found}) == len({e.example_id for e in found}) == len(found)
    assert shipped_counts() == {s: sum(e.row.prompt_set == s for e in found) for s in shipped_sets()}
    assert all(8 <= n <= 12 for n in shipped_counts().values())
    assert all(e.row.metadata.keys() == {"note"} and e.row.metadata["note"] for e in found)
    assert max(len(e.text) for e in found) < 150


def test_a_set_has_the_same_ids_by_every_name_it_is_known_by() -> None:
    for other, name in {"dynamic": "changing", "multi_trait": "several_traits"}.items():
        one, two = open_prompt_sets([other]), open_prompt_sets([name])
        assert ids(one) == ids(two) and (one.config, one.origin) == (two.config, two.origin)
        with pytest.raises(UsageError, match=f"{name} is named twice"):
            open_prompt_sets([name, other])


@needs_others
def test_no_shipped_prompt_or_question_is_anybody_elses() -> None:
    prompts = {e.text.casefold() for e in open_prompt_sets([str(OTHERS)]).read()}
    assert not prompts & {e.text.casefold() for e in open_prompt_sets(shipped_sets()).read()}
    theirs = [json.loads(path.read_text()) for path in (SHARED / "traits").glob("*.json")]
    questions = {q.casefold() for d in theirs for q in d["questions"]}
    ours = [definition.load(path) for path in definition.shipped_definitions().values()]
    assert not questions & {q.casefold() for d in ours for q in d.questions}


@needs_others
def test_a_folder_of_other_peoples_sets_is_read_as_it_is_with_numbers_for_ids() -> None:
    found = list(open_prompt_sets([str(OTHERS)]).read())
    files = {p.stem: json.loads(p.read_text())["prompts"] for p in sorted(OTHERS.glob("*.json"))}
    assert [(e.row.prompt_set, e.row.source_id, e.text, e.row.metadata) for e in found] == [
        (name, str(p["id"]), p["text"], {"note": p["note"]}) for name, prompts in files.items() for p in prompts
    ]


def test_an_id_of_a_shipped_prompt_says_its_set_and_nothing_of_what_is_read_beside_it() -> None:
    alone, beside = ids(open_prompt_sets(["baseline"])), ids(open_prompt_sets(["changing", "baseline"]))
    assert beside[-len(alone) :] == alone == ids(open_prompt_sets(["baseline"]))
    assert alone[0] == "37481dd30c5639b5"  # the same on every machine


def test_a_prompt_of_ones_own_is_known_by_its_text_in_a_set_of_any_name_and_without_one(tmp_path: Path) -> None:
    tea, coffee = {"id": 1, "text": "What is tea?"}, {"id": 1, "text": "What is coffee?"}
    first, second = written(tmp_path / "a.json", tea), written(tmp_path / "b.json", tea | {"id": 7})
    assert ids(open_prompt_sets([first])) == ids(open_prompt_sets([second])) == ids(open_prompts(["What is tea?"]))
    assert ids(open_prompt_sets([written(tmp_path / "c.json", coffee)])) == ids(open_prompts(["What is coffee?"]))
    # in one run the second occurrence of a text is an example of its own, as in a file
    both = ids(open_prompt_sets(["baseline", str(tmp_path)]))
    assert both[-3:] == ids(open_prompts(["What is tea?", "What is tea?", "What is coffee?"]))
    assert len(set(both)) == len(both)


def test_several_sets_are_one_source_and_each_example_is_its_sets(tmp_path: Path) -> None:
    source = open_prompt_sets(["baseline", "changing"])
    assert (source.dataset, source.config, source.split) == ("prompts", "baseline,changing", None)
    found = list(source.read())
    assert [row.text for row in source.rows()] == [e.text for e in found]
    assert list(dict.fromkeys((e.source.dataset, e.source.config, e.row.prompt_set) for e in found)) == [
        ("prompts", "baseline", "baseline"),
        ("prompts", "changing", "changing"),
    ]


def test_prompts_given_one_by_one_are_known_by_their_text() -> None:
    both = list(open_prompts(["How is tea made?", "Why?", "Why?"]).read())
    assert [e.row.source_id for e in both] == ["1", "2", "3"]
    assert len({e.example_id for e in both}) == 3
    assert ids(open_prompts(["Why?"])) == [both[1].example_id]
    with pytest.raises(UsageError, match="prompt 2 has no text"):
        open_prompts(["Why?", " \n"])


A = {"id": 1, "text": "a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"mine\.json is not JSON: "),
        ("[]", r"mine\.json has no prompts: a set is"),
        ('{"name": "Mine"}', "has no prompts"),
        ('{"prompts": []}', "has no prompts"),
        (json.dumps({"prompts": [A, "b"]}), r"mine\.json, prompt 2 is not a JSON object"),
        (json.dumps({"prompts": [A, {"id": 2, "note": "b"}]}), r"prompt 2 \(id 2\) has no text"),
        (json.dumps({"prompts": [A | {"system": 5}]}), r"prompt 1 \(id \w+\) has a system message that is not text"),
        (json.dumps({"prompts": [A, {"id": 2, "text": " "}]}), r"prompt 2 \(id 2\) has no text"),
        (json.dumps({"prompts": [A, {"text": "b"}]}), "prompt 2 has no id"),
        (json.dumps({"prompts": [A, {"id": True, "text": "b"}]}), "prompt 2 has no id"),
        (json.dumps({"prompts": [A, {"id": "x", "text": "b"}, {"id": "1", "text": "c"}]}), "prompts 1 and 3 .* id, 1"),
        (
            '{"prompts": [{"id": 1, "text": "\\ud800"}]}',
            r"mine\.json .*\\ud800, half of a .* \(at 'prompts\.0\.text'\)",
        ),
        ('{"prompts": [{"id": 1, "text": "a", "system": "\\udfff"}]}', r"\\udfff, half of a .*'prompts\.0\.system'"),
        ('{"prompts": [{"id": "\\ud800", "text": "a"}]}', r"\\ud800, half of a .*'prompts\.0\.id'"),
        ('{"prompts": [{"id": 1, "text": "a", "\\ud800": {"b": 1}}]}', r"half of a .*'prompts\.0\.\\\\ud800'"),
        ("[" * 100_000, r"mine\.json is not JSON: it is nested more than 100 deep"),
        ('{"prompts": {"1": {"id": 1, "text": "a"}}}', "has no prompts"),
        ('{"prompts": [[1]]}', r"prompt 1 is not a JSON object"),
        ('{"prompts": [{"id": 1.5, "text": "a"}]}', "prompt 1 has no id"),
        ('{"prompts": [{"id": 1, "text": ["a"]}]}', r"prompt 1 \(id 1\) has no text"),
        ('{"prompts": [{"id": "a\\nb", "text": " "}]}', r"prompt 1 \(id a\\nb\) has no text"),
        ('{"prompts": [{"id": ' + "9" * 5000 + ', "text": "a"}]}', "a number of more than 4,300 digits"),
    ],
)
def test_a_set_that_is_not_sound_is_one_line_that_says_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(UsageError, match=message) as e:
        open_prompt_sets([str(tmp_path / "mine.json")])
    assert "\n" not in str(e.value)


def test_a_set_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    written(tmp_path / "mine.json", A)
    with pytest.raises(NotFoundError, match=r"No prompt set 'baselin'\. Did you mean baseline\?"):
        open_prompt_sets(["baselin"])
    with pytest.raises(NotFoundError, match=r"No file .*Did you mean .*mine\.json"):
        open_prompt_sets([str(tmp_path / "mime.json")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty has no prompt sets: it holds no \.json file"):
        open_prompt_sets([str(tmp_path / "empty")])


def test_a_set_is_a_json_file_in_any_case_of_its_ending(tmp_path: Path) -> None:
    written(tmp_path / "MINE.JSON", A)
    assert len(ids(open_prompt_sets([str(tmp_path)]))) == 1
    (tmp_path / "latin.json").write_bytes(b'{"prompts": [{"id": 1, "text": "caf\xe9"}]}')
    with pytest.raises(UsageError, match=r"latin\.json is not JSON: it is not UTF-8"):
        open_prompt_sets([str(tmp_path)])
    with pytest.raises(UsageError, match="--prompt-set is empty"):
        open_prompt_sets([""])


def test_numbers_that_json_has_not_are_null(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"prompts": [{"id": 1, "text": "a", "weight": NaN, "of": [Infinity]}]}')
    (example,) = open_prompt_sets([str(path)]).read()
    assert example.row.metadata == {"weight": None, "of": [None]}


def test_the_same_set_twice_is_refused_also_where_two_files_have_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="baseline is named twice"):
        open_prompt_sets(["baseline", "changing", "baseline"])
    mine = written(tmp_path / "baseline.json", A)
    with pytest.raises(UsageError, match="There are two prompt sets baseline, in .* and .*baseline.json"):
        open_prompt_sets(["baseline", mine])


@pytest.mark.parametrize("name", ["capitals", "formality", "sarcasm"])
def test_the_shipped_definitions_are_whole_and_have_no_weak_spot(name: str) -> None:
    found = definition.load(name)
    assert found.name == name
    assert (len(found.instruction), len(found.questions)) == (5, 20)
    assert len({text for pair in found.instruction for text in (pair.pos, pair.neg)}) == 10
    assert len({q.casefold() for q in found.questions}) == 20
    assert definition.find_weaknesses(found) == []
