"""A trait's definition: what a model is asked so that it shows the trait, and how a judge scores it.

A JSON file in the field's common form: `instruction`, pairs of system messages that ask for the trait (`pos`) and for its
opposite (`neg`); `questions`, which are asked under both; `eval_prompt`, which a judge gets with `{question}` and `{answer}` filled
in. `name` is optional and defaults to the file's stem. Other keys are ignored. Messages count instructions and questions from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from capture.data.files import printable_value
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage import strict_json

ENOUGH_PAIRS, ENOUGH_QUESTIONS = 5, 20
"""A definition with fewer is weak."""

_SHIPPED = Path(__file__).parent / "definitions"
_PLACEHOLDER = "TODO:"
_SLOTS = ("question", "answer")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_ENDING = re.compile(
    "(s|es|ed|er|est|ing|ly|al|ally|ness|ity|ities|y|cy|t|ts|tics?|tically|ic|ical|ically|m|sts?|ism|ist|istic|ous|ously|e|ive|ively"
    "|ion|ize|ise)?"
)
"""Endings that two words of one stem may have: optimis-m, optimis-tic; sarcas-m, sarcas-tic; humor, humor-ous."""


class Problem(NamedTuple):
    """Something wrong or weak in a definition."""

    level: str
    """`error`: the definition cannot be used; `warning`: it can."""
    place: str
    """`instruction 3`, `question 7`, `eval_prompt`, …; empty: the whole file."""
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


class DefinitionError(TracesError):
    """A definition cannot be used; the message lists everything that is wrong with it."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(f"{where}: {'; '.join(map(str, problems))}")


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if _PLACEHOLDER in text:
        raise ValueError(f"still has the template's {_PLACEHOLDER}")
    return text


_Text = Annotated[str, AfterValidator(_check_text)]


class Pair(BaseModel):
    """Two system messages: one asks for the trait, the other for its opposite."""

    model_config = ConfigDict(strict=True)

    pos: _Text
    neg: _Text


class Definition(BaseModel):
    """A trait's definition; runs keep its `model_dump()` in `options["trait"]`."""

    model_config = ConfigDict(strict=True)

    name: str
    instruction: list[Pair]
    questions: list[_Text]
    eval_prompt: _Text

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"'{printable_value(name)}' cannot be part of a run's name: give it a name of at most 60 letters, digits, '.', '_' and '-'"
            )
        return name

    @field_validator("instruction", "questions")
    @classmethod
    def _check_not_empty(cls, entries: list[Any]) -> list[Any]:
        if not entries:
            raise ValueError("has none")
        return entries

    @field_validator("eval_prompt")
    @classmethod
    def _check_slots(cls, text: str) -> str:
        missing = [f"{{{slot}}}" for slot in _SLOTS if f"{{{slot}}}" not in text]
        if missing:
            raise ValueError(f"has no {' and no '.join(missing)}")
        return text

    def judging_prompt(self, question: str, answer: str) -> str:
        """Return the prompt that asks a judge how strongly an answer shows the trait."""
        return fill_template(self.eval_prompt, question, answer)


def fill_template(template: str, question: str, answer: str) -> str:
    """Fill both slots of a judging prompt in one pass, since an answer may itself contain `{question}`."""
    values = {"question": question, "answer": answer}
    return re.sub(r"\{(question|answer)\}", lambda m: values[m[1]], template)


def shipped_definitions() -> dict[str, Path]:
    """Return the paths of the definitions that come with the project, by name."""
    return {p.stem: p for p in sorted(_SHIPPED.glob("*.json"))}


def load(path_or_name: str | Path) -> Definition:
    """Load a definition from a file, or by name if it comes with the project.

    Args:
        path_or_name: A JSON file; if there is no such file, the name of a shipped definition.

    Returns:
        The definition.

    Raises:
        NotFoundError: There is neither such a file nor such a shipped definition.
        DefinitionError: The file cannot be read or used; lists everything that is wrong with it.
    """
    named = str(path_or_name)
    try:
        path = Path(named).expanduser()
        if not path.is_file() and named in shipped_definitions():
            path = shipped_definitions()[named]
        raw = path.read_bytes() if named.strip() else None
    except OSError as e:
        if not isinstance(e, FileNotFoundError):
            raise DefinitionError(
                printable_value(named), [Problem("error", "", f"cannot be read: {e.strerror}")]
            ) from None
        raw = None
    except (RuntimeError, ValueError):  # an unknown user's home folder, a NUL character
        raw = None
    if raw is None:
        raise NotFoundError(
            "trait definition",
            printable_value(named),
            shipped_definitions(),
            "Name a file by its path, or make one: traces trait init NAME.",
        )
    return parse(raw, printable_value(path.name), path.stem)


def parse(raw: bytes | str, where: str, name: str) -> Definition:
    """Parse a definition from JSON.

    Args:
        raw: The JSON text.
        where: What error messages call the source.
        name: The definition's name where the JSON gives none.

    Returns:
        The definition.

    Raises:
        DefinitionError: It is not JSON, not an object, or breaks the rules of `Definition`.
    """
    try:
        fields = strict_json.parse(raw)
    except ValueError as e:
        raise DefinitionError(where, [Problem("error", "", f"is not JSON: {e}")]) from None
    if not isinstance(fields, dict):
        raise DefinitionError(where, [Problem("error", "", "is not a JSON object")])
    try:
        return Definition.model_validate({"name": name, **fields})
    except ValidationError as e:
        raise DefinitionError(where, [_describe_problem(dict(error)) for error in e.errors()]) from None


_KINDS = {
    "missing": "is missing",
    "string_type": "is not a text",
    "list_type": "is not a list",
    "model_type": "is not an object with pos and neg",
}


def _describe_problem(error: dict[str, Any]) -> Problem:
    """Put one of pydantic's errors into words, with its place counted from 1."""
    loc = list(error["loc"])
    text = _KINDS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    if len(loc) > 1 and isinstance(loc[1], int):
        part = {"instruction": "instruction", "questions": "question"}[str(loc[0])]
        place, rest = f"{part} {loc[1] + 1}", loc[2:]
    else:
        place, rest = str(loc[0]), loc[1:]
    return Problem("error", place, f"{' '.join(map(str, rest))} {text}" if rest else text)


# -- weaknesses --------------------------------------------------------------------------------------------------------


def find_weaknesses(definition: Definition) -> list[Problem]:
    """Find what makes a definition weak, though usable.

    Args:
        definition: A valid definition.

    Returns:
        A warning for each weakness: too few pairs or questions, repeated texts, questions that name the trait, and a judging
        prompt that does not mention the scale from 0 to 100 or REFUSAL.
    """
    return [Problem("warning", place, text) for place, text in _find_weak_parts(definition)]


def _find_weak_parts(d: Definition) -> Iterator[tuple[str, str]]:
    for place, entries, enough, what in (
        ("instruction", d.instruction, ENOUGH_PAIRS, "pairs"),
        ("questions", d.questions, ENOUGH_QUESTIONS, "questions"),
    ):
        if len(entries) < enough:
            yield place, f"has {len(entries)} {what}, fewer than {enough}"
    for i, pair in enumerate(d.instruction, 1):
        if _normalize(pair.pos) == _normalize(pair.neg):
            yield f"instruction {i}", "pos and neg are the same"
    for polarity in ("pos", "neg"):
        yield from _find_repeats(
            "instruction", [getattr(pair, polarity) for pair in d.instruction], f"{polarity} is that"
        )
    yield from _find_repeats("question", d.questions, "is that")
    for i, question in enumerate(d.questions, 1):
        named = [w for w in re.findall(r"[^\W\d_]+", question) if any(_same_stem(w, n) for n in _long_words(d.name))]
        if named:
            yield f"question {i}", f"names the trait: {named[0]}"
    scale = [n for n in ("0", "100") if not re.search(rf"(?<!\d){n}(?!\d)", d.eval_prompt)]
    if scale:
        yield "eval_prompt", f"says nothing of {' and '.join(scale)}: scores go from 0 to 100"
    if "REFUSAL" not in d.eval_prompt:
        yield "eval_prompt", "says nothing of REFUSAL, which a judge is to answer where the model refused"


def _find_repeats(what: str, texts: Sequence[str], subject: str) -> Iterator[tuple[str, str]]:
    first: dict[str, int] = {}
    for i, text in enumerate(texts, 1):
        before = first.setdefault(_normalize(text), i)
        if before != i:
            yield f"{what} {i}", f"{subject} of {what} {before}"


def _normalize(text: str) -> str:
    """Drop what does not make a text a different one: case and spacing."""
    return " ".join(text.casefold().split())


def _long_words(name: str) -> list[str]:
    return [w for w in re.split(r"[^A-Za-z]+", name) if len(w) > 3]


def _same_stem(a: str, b: str) -> bool:
    """Tell whether two words differ only in their endings, with at least four letters in common."""
    a, b = a.casefold(), b.casefold()
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return n > 3 and bool(_ENDING.fullmatch(a[n:]) and _ENDING.fullmatch(b[n:]))


# -- a new definition----------------------------------------------------------------------------------------------------

_EVAL_PROMPT = """\
Judge how strongly an answer shows one trait: {trait}. TODO: say in two or three sentences what an answer with this trait does, \
and what an answer without it does.

The question was:
<question>
{question}
</question>

The answer to judge:
<answer>
{answer}
</answer>

Look at this trait alone, not at whether the answer is good or right. If the answer declines to deal with the question at all, \
reply REFUSAL. Else reply with one whole number from 0 (no sign of the trait) to 100 (nothing could show it more), and nothing else.
"""


def make_template(name: str) -> str:
    """Return the JSON of a new definition, with everything that is to be written marked TODO.

    Args:
        name: The trait's name.

    Returns:
        JSON that `parse` rejects until each placeholder is replaced.

    Raises:
        UsageError: The name cannot be part of a run's name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{printable_value(name)}' cannot name a trait: use at most 60 letters, digits, '.', '_' and '-'."
        )
    pairs = [
        {"pos": f"{_PLACEHOLDER} instruction {i}, to be {name}", "neg": f"{_PLACEHOLDER} instruction {i}, its opposite"}
        for i in range(1, ENOUGH_PAIRS + 1)
    ]
    questions = [
        f"{_PLACEHOLDER} question {i}, which can be answered with the trait and without, and does not name it"
        for i in range(1, ENOUGH_QUESTIONS + 1)
    ]
    fields = {
        "name": name,
        "instruction": pairs,
        "questions": questions,
        "eval_prompt": _EVAL_PROMPT.replace("{trait}", name),
    }
    return json.dumps(fields, indent=2, ensure_ascii=False)
