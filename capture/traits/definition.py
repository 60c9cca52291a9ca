"""A trait's definition: what it is to show it, and how it is judged.

A JSON file in the field's common form: `instruction`, pairs of system messages that ask for the trait (`pos`) and for its
opposite (`neg`); `questions`, which both are asked; `eval_prompt`, which a judge is asked with `{question}` and `{answer}` filled
in. A `name` may be given; else it is the file's stem. Other keys are left alone. Messages count instructions and questions from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from capture.data.files import quoted
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage import strict_json

PAIRS, QUESTIONS = 5, 20
"""How many a definition has where it has enough."""

_SHIPPED = Path(__file__).parent / "definitions"
_PLACEHOLDER = "TODO:"
_SLOTS = ("question", "answer")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_ENDING = re.compile(
    "(s|es|ed|er|est|ing|ly|al|ally|ness|ity|ities|y|cy|t|ts|tics?|tically|ic|ical|ically|m|sts?|ism|ist|istic|ous|ously|e|ive|ively"
    "|ion|ize|ise)?"
)
"""What two words of one stem may end in after what they share: optimis-m, optimis-tic; sarcas-m, sarcas-tic; humor, humor-ous."""


class Problem(NamedTuple):
    """What is wrong with a definition, or weak."""

    level: str
    """`error`: it cannot be used; `warning`: it can."""
    place: str
    """`instruction 3`, `question 7`, `eval_prompt`, …; empty: the whole file."""
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


class DefinitionError(TracesError):
    """A definition that cannot be used: all that is wrong with it."""

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
    """System messages: one asks for the trait, one for its opposite."""

    model_config = ConfigDict(strict=True)

    pos: _Text
    neg: _Text


class Definition(BaseModel):
    """`model_dump()` of it is what runs keep in `options["trait"]`."""

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
                f"'{quoted(name)}' cannot be part of a run's name: give it a name of at most 60 letters, digits, '.', '_' and '-'"
            )
        return name

    @field_validator("instruction", "questions")
    @classmethod
    def _check_not_empty(cls, found: list[Any]) -> list[Any]:
        if not found:
            raise ValueError("has none")
        return found

    @field_validator("eval_prompt")
    @classmethod
    def _check_slots(cls, text: str) -> str:
        missing = [f"{{{slot}}}" for slot in _SLOTS if f"{{{slot}}}" not in text]
        if missing:
            raise ValueError(f"has no {' and no '.join(missing)}")
        return text

    def judging_prompt(self, question: str, answer: str) -> str:
        """What a judge is asked of an answer."""
        return fill_template(self.eval_prompt, question, answer)


def fill_template(template: str, question: str, answer: str) -> str:
    """A judging prompt with its slots filled in, both at once: an answer may itself hold `{question}`."""
    values = {"question": question, "answer": answer}
    return re.sub(r"\{(question|answer)\}", lambda m: values[m[1]], template)


def shipped_definitions() -> dict[str, Path]:
    """The definitions that come with the project, by name."""
    return {p.stem: p for p in sorted(_SHIPPED.glob("*.json"))}


def load(path_or_name: str | Path) -> Definition:
    """A definition from its file, or one that comes with the project by its name.

    Raises NotFoundError where there is neither, and DefinitionError with everything that is wrong with it.
    """
    named = str(path_or_name)
    try:
        path = Path(named).expanduser()
        if not path.is_file() and named in shipped_definitions():
            path = shipped_definitions()[named]
        raw = path.read_bytes() if named.strip() else None
    except OSError as e:
        if not isinstance(e, FileNotFoundError):
            raise DefinitionError(quoted(named), [Problem("error", "", f"cannot be read: {e.strerror}")]) from None
        raw = None
    except (RuntimeError, ValueError):  # the home folder of nobody, a NUL character
        raw = None
    if raw is None:
        raise NotFoundError(
            "trait definition",
            quoted(named),
            shipped_definitions(),
            "A file is named by its path; a new one: traces trait init NAME.",
        )
    return parse(raw, quoted(path.name), path.stem)


def parse(raw: bytes | str, where: str, name: str) -> Definition:
    """A definition from JSON; `where` is told in errors, `name` is its name where it gives none. Raises DefinitionError."""
    try:
        found = strict_json.parse(raw)
    except ValueError as e:
        raise DefinitionError(where, [Problem("error", "", f"is not JSON: {e}")]) from None
    if not isinstance(found, dict):
        raise DefinitionError(where, [Problem("error", "", "is not a JSON object")])
    try:
        return Definition.model_validate({"name": name, **found})
    except ValidationError as e:
        raise DefinitionError(where, [_describe_problem(dict(error)) for error in e.errors()]) from None


_KINDS = {
    "missing": "is missing",
    "string_type": "is not a text",
    "list_type": "is not a list",
    "model_type": "is not an object with pos and neg",
}


def _describe_problem(error: dict[str, Any]) -> Problem:
    """Pydantic's finding in words: its place as a reader counts, and what is wrong there."""
    loc = list(error["loc"])
    text = _KINDS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    if len(loc) > 1 and isinstance(loc[1], int):
        part = {"instruction": "instruction", "questions": "question"}[str(loc[0])]
        place, rest = f"{part} {loc[1] + 1}", loc[2:]
    else:
        place, rest = str(loc[0]), loc[1:]
    return Problem("error", place, f"{' '.join(map(str, rest))} {text}" if rest else text)


# -- weak ones ---------------------------------------------------------------------------------------------------------


def find_weaknesses(definition: Definition) -> list[Problem]:
    """What makes a definition weak: too little of it, the same thing twice, questions that give the trait away, and a judging
    prompt that doesn't ask for what is read from its answer.
    """
    return [Problem("warning", place, text) for place, text in _find_weak_parts(definition)]


def _find_weak_parts(d: Definition) -> Iterator[tuple[str, str]]:
    for place, found, enough, what in (
        ("instruction", d.instruction, PAIRS, "pairs"),
        ("questions", d.questions, QUESTIONS, "questions"),
    ):
        if len(found) < enough:
            yield place, f"has {len(found)} {what}, fewer than {enough}"
    for i, pair in enumerate(d.instruction, 1):
        if _normalize(pair.pos) == _normalize(pair.neg):
            yield f"instruction {i}", "pos and neg are the same"
    for polarity in ("pos", "neg"):
        yield from _find_repeats("instruction", [getattr(pair, polarity) for pair in d.instruction], f"{polarity} is that")
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


def _find_repeats(what: str, texts: Sequence[str], told: str) -> Iterator[tuple[str, str]]:
    first: dict[str, int] = {}
    for i, text in enumerate(texts, 1):
        before = first.setdefault(_normalize(text), i)
        if before != i:
            yield f"{what} {i}", f"{told} of {what} {before}"


def _normalize(text: str) -> str:
    """Without what makes no other text of it: case, and how it is spaced."""
    return " ".join(text.casefold().split())


def _long_words(name: str) -> list[str]:
    return [w for w in re.split(r"[^A-Za-z]+", name) if len(w) > 3]


def _same_stem(a: str, b: str) -> bool:
    """Whether two words are one but for their endings. Plain and cautious: four letters in common at least."""
    a, b = a.casefold(), b.casefold()
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return n > 3 and bool(_ENDING.fullmatch(a[n:]) and _ENDING.fullmatch(b[n:]))


# -- a new one ---------------------------------------------------------------------------------------------------------

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
    """The JSON of a new definition: what is to be written is marked TODO, and is an error until it is. Raises UsageError for a
    name that no definition can have.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{quoted(name)}' cannot name a trait: use at most 60 letters, digits, '.', '_' and '-'.")
    pairs = [
        {"pos": f"{_PLACEHOLDER} instruction {i}, to be {name}", "neg": f"{_PLACEHOLDER} instruction {i}, its opposite"}
        for i in range(1, PAIRS + 1)
    ]
    questions = [
        f"{_PLACEHOLDER} question {i}, which can be answered with the trait and without, and does not name it"
        for i in range(1, QUESTIONS + 1)
    ]
    made = {
        "name": name,
        "instruction": pairs,
        "questions": questions,
        "eval_prompt": _EVAL_PROMPT.replace("{trait}", name),
    }
    return json.dumps(made, indent=2, ensure_ascii=False)
