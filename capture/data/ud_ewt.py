"""Universal Dependencies English EWT (Silveira et al. 2014): annotated sentences of web text. Licence: CC BY-SA 4.0.

Source: the release's CoNLL-U files, or the hub's `universal-dependencies/universal_dependencies`. An example's text is a
sentence; it holds its words, each with lemma, parts of speech, features, syntax and place in the text, and the document's id as
metadata where the file has it. The hub's copy was made by an old script: it has no ids, and everything in it is text, so that
the sentence is put together again from the order of its lines. Both sources yield the same words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.data.dataset_spec import DatasetSpec
from capture.data.example import Row, Word
from capture.data.files import file_lines, line_location, printable_value
from capture.data.hub import ColumnType, hub_rows
from warehouse.errors import UsageError

if TYPE_CHECKING:
    import datasets

_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_HUB_COLUMNS = ("tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps")

_NUMBER = re.compile(r"[0-9]{1,6}")

Id = int | tuple[int, str, int]
"""As conllu has it: 3 is a word, (3, "-", 4) a multiword token, (8, ".", 1) an empty node."""


@dataclass(frozen=True)
class _Line:
    """A word, a multiword token or an empty node as the file has it, with `_` where nothing is given."""

    where: str
    id: Id
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: int | None
    deprel: str
    deps: str
    space_after: bool = True


@dataclass(frozen=True)
class _Span:
    """Where a word is in the text, and the multiword token that it is part of."""

    start: int
    end: int
    surface: str
    multiword: bool = False


def _row(sent_id: str, text: str, lines: list[_Line], metadata: dict[str, Any] | None = None) -> Row:
    """Return a sentence as a row; raise UsageError where the forms don't make up the text, or a head is no word."""
    spans = _spans(text, lines)
    nodes = [line for line in lines if not _is_multiword(line.id)]
    places = {line.id: i for i, line in enumerate(nodes)}
    return Row(sent_id, text, metadata or {}, words=tuple(_word(n, spans.get(n.id), places) for n in nodes))


def _word(line: _Line, span: _Span | None, places: Mapping[Id, int]) -> Word:
    if line.head and line.head not in places:
        raise UsageError(f"{line.where}: the head {line.head} is not a word of the sentence.")
    # `_` is "nothing given", but also how an underscore is written: it is one where the text has one.
    form = None if line.form == "_" and (span is None or "_" not in span.surface) else line.form
    return Word(
        word_id=_id_text(line.id),
        form=form,
        lemma=line.lemma if form == "_" else _or_none(line.lemma),
        upos=_or_none(line.upos),
        xpos=_or_none(line.xpos),
        feats=_or_none(line.feats),
        head=places[line.head] if line.head else None,
        deprel=_or_none(line.deprel),
        deps=_or_none(line.deps),
        multiword=span.surface if span and span.multiword else None,
        start=span.start if span else None,
        end=span.end if span else None,
    )


def _spans(text: str, lines: list[_Line]) -> dict[Id, _Span]:
    """Find every word's place in the text, in order, with nothing but white space between them.

    Returns:
        The place of each word, by its id.

    Raises:
        UsageError: The text has other words.
    """
    forms = {line.id: line.form for line in lines}
    spans: dict[Id, _Span] = {}
    at = 0
    for line in lines:
        if _is_empty(line.id) or line.id in spans:
            continue
        start = len(text) - len(text[at:].lstrip())
        at = start + len(line.form)
        if text[start:at] != line.form:
            raise UsageError(
                f"{line.where}: the text continues with '{printable_value(text[start : start + 20])}', not with '{printable_value(line.form, 40)}'."
            )
        if isinstance(line.id, int):
            spans[line.id] = _Span(start, at, line.form)
        else:
            numbers = range(line.id[0], line.id[2] + 1)
            spans.update(zip(numbers, _shared(line.form, [forms[n] for n in numbers], start), strict=True))
    if text[at:].strip():
        raise UsageError(
            f"{lines[-1].where}: the sentence ends here, but its text continues with '{printable_value(text[at:].strip()[:20])}'."
        )
    return spans


def _shared(surface: str, forms: list[str], start: int) -> Iterator[_Span]:
    """Yield the places of a multiword token's words: each has its part where they make it up (do + n't), else all (du: de + le)."""
    joined = "".join(forms)
    apart = joined.casefold() == surface.casefold() and len(joined) == len(surface)
    at = start
    for form in forms:
        yield _Span(at, at + len(form), surface, True) if apart else _Span(start, start + len(surface), surface, True)
        at += len(form)


def _is_multiword(node: Id) -> bool:
    return isinstance(node, tuple) and node[1] == "-"


def _is_empty(node: Id) -> bool:
    return isinstance(node, tuple) and node[1] == "."


def _id_text(node: Id) -> str:
    return str(node) if isinstance(node, int) else f"{node[0]}{node[1]}{node[2]}"


def _or_none(value: str) -> str | None:
    return None if value == "_" else value


# CoNLL-U


def _file(path: Path) -> Iterator[Row]:
    """Yield the sentences of a file; raise UsageError, with file and line, for what is not CoNLL-U."""
    seen: dict[str, int] = {}
    doc: str | None = None
    for first, comments, numbered in _blocks(path):
        where = line_location(path, first)
        if not numbered:
            raise UsageError(f"{where}: comments without a sentence.")
        lines = [_parsed(line, line_location(path, number)) for number, line in numbered]
        _check_ids(lines)
        sent_id = comments.get("sent_id")
        if sent_id is None:
            raise UsageError(f"{where}: the sentence has no '# sent_id = …', which identifies it.")
        if seen.setdefault(sent_id, first) != first:
            raise UsageError(
                f"{where}: the sentence {printable_value(sent_id, 60)} is already on line {seen[sent_id]}."
            )
        if "newdoc id" in comments or "newdoc" in comments:
            doc = comments.get("newdoc id")
        yield _row(sent_id, comments.get("text") or _rebuilt(lines), lines, {"doc": doc} if doc else {})


def _blocks(path: Path) -> Iterator[tuple[int, dict[str, str | None], list[tuple[int, str]]]]:
    """Yield each sentence's first line number, its comments, and its other lines with their numbers."""
    first = 0
    comments: dict[str, str | None] = {}
    lines: list[tuple[int, str]] = []
    for number, line in file_lines(path):
        if not line.strip():
            if first:
                yield first, comments, lines
            first, comments, lines = 0, {}, []
            continue
        first = first or number
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            comments[key.strip()] = value.strip() or None
        else:
            lines.append((number, line))
    if first:
        yield first, comments, lines


def _parsed(line: str, where: str) -> _Line:
    """Parse a line with conllu; raise UsageError also for what it lets pass: columns missing, empty or separated by spaces."""
    try:
        from conllu.exceptions import ParseException
        from conllu.parser import DEFAULT_FIELD_PARSERS, DEFAULT_FIELDS, parse_line
    except ModuleNotFoundError:
        raise UsageError("Reading CoNLL-U needs conllu: pip install 'trace-warehouse[capture]'") from None

    columns = line.split("\t")
    if len(columns) != len(_COLUMNS):
        raise UsageError(f"{where} has {len(columns)} columns, not {len(_COLUMNS)} separated by tabs.")
    for name, value in zip(_COLUMNS, columns, strict=True):
        if not value.strip() or "  " in value:
            problem = "has two spaces in a row" if value.strip() else "is empty: write _ where nothing is given"
            raise UsageError(f"{where}: the column {name} {problem}.")
    try:
        # The other columns stay as they are: the warehouse shows features and enhanced graph as the treebank writes them.
        token = parse_line(line, DEFAULT_FIELDS, {name: DEFAULT_FIELD_PARSERS[name] for name in ("id", "head", "misc")})
    except (ParseException, ValueError) as e:  # ValueError: more digits than Python makes a number of
        raise UsageError(f"{where} is not CoNLL-U: {printable_value(e, 200)}") from None
    if token["id"] is None:
        raise UsageError(f"{where} has no ID.")
    if token["head"] is not None and (token["head"] < 0 or token["head"] == token["id"]):
        raise UsageError(f"{where}: {token['head']} cannot be the head of word {printable_value(columns[0], 20)}.")
    misc = token["misc"] or {}
    texts = {name: token[name] for name in ("form", "lemma", "upos", "xpos", "feats", "deprel", "deps")}
    return _Line(where, token["id"], head=token["head"], space_after=misc.get("SpaceAfter") != "No", **texts)


def _check_ids(lines: list[_Line]) -> None:
    """Raise UsageError unless words count from 1, multiword tokens precede their words, and empty nodes count up."""
    word, empty, covered = 0, 0, 0
    for line in lines:
        if isinstance(line.id, int):
            right = line.id == word + 1
            word, empty = line.id, 0
        elif _is_multiword(line.id):
            right = line.id[0] == word + 1 and line.id[0] > covered
            covered = line.id[2]
        else:
            right = line.id[0] == word and line.id[2] == empty + 1
            empty = line.id[2]
        if not right:
            raise UsageError(f"{line.where}: the id {_id_text(line.id)} is not in order.")
    if covered > word:
        raise UsageError(
            f"{lines[-1].where}: the sentence ends before the multiword token that goes to word {covered}."
        )


def _rebuilt(lines: list[_Line]) -> str:
    """Rebuild the text from the forms and `SpaceAfter=No`."""
    text, covered = "", 0
    for line in lines:
        if _is_empty(line.id) or (isinstance(line.id, int) and line.id <= covered):
            continue
        if not isinstance(line.id, int):
            covered = line.id[2]
        text += line.form + " " * line.space_after
    return text.strip()


# The hub


def _hub(data: datasets.Dataset) -> Iterator[Row]:
    tags = getattr(getattr(data.features.get("upos"), "feature", None), "names", None)
    needed: dict[str, ColumnType] = {"idx": str, "text": str, **dict.fromkeys(_HUB_COLUMNS, list[str])}
    needed |= {"lemmas": list[str | None], "xpos": list[str | None]}
    needed["upos"] = list[str | None] if tags is None else list[int | None]
    for number, fields in enumerate(hub_rows(data, DATASET.hub_name, needed)):
        where = f"{DATASET.hub_name}, row {number} ({printable_value(fields['idx'])})"
        if tags is not None:
            if unknown := [n for n in fields["upos"] if n is not None and not 0 <= n < len(tags)]:
                raise UsageError(
                    f"{where}: there is no part of speech {unknown[0]}: they go from 0 to {len(tags) - 1}."
                )
            fields["upos"] = [None if n is None else tags[n] for n in fields["upos"]]
        yield _row(fields["idx"], fields["text"], _hub_lines(fields, where), None)


def _hub_lines(fields: dict[str, Any], where: str) -> list[_Line]:
    """Return a sentence's lines with their ids, which the hub has not kept.

    What has no head is an empty node where it has enhanced dependencies, and a multiword token where it has none.

    Returns:
        The lines, as a CoNLL-U file would have them.

    Raises:
        UsageError: The columns don't make a sentence.
    """
    lengths = {name: len(fields[name]) for name in _HUB_COLUMNS}
    if len(set(lengths.values())) > 1 or not lengths["tokens"]:
        counts = ", ".join(f"{n} {name}" for name, n in lengths.items())
        raise UsageError(f"{where} is not a sentence: it has {counts}.")
    columns = list(zip(*(fields[name] for name in _HUB_COLUMNS), strict=True))
    word, empty = 0, 0
    lines = []
    for i, (form, lemma, upos, xpos, feats, head, deprel, deps) in enumerate(columns):
        node: Id
        if head != "None" and not _NUMBER.fullmatch(head):
            raise UsageError(f"{where}: the head '{printable_value(head, 20)}' is not a number.")
        if head != "None":
            word, empty = word + 1, 0
            node = word
        elif deps != "None":
            empty += 1
            node = (word, ".", empty)
        else:
            following = (c[0] for c in columns[i + 1 :] if c[5] != "None")
            node = (word + 1, "-", word + _width(form, following, where))
        number = int(head) if head != "None" else None
        given = (form, lemma or "_", upos or "_", xpos or "_", _feats(feats))
        lines.append(_Line(where, node, *given, number, deprel or "_", _deps(deps)))
    return lines


def _width(surface: str, following: Iterable[str], where: str) -> int:
    """Return how many words a multiword token has.

    Returns:
        As many as make it up; else two, the commonest number, which the text must then confirm.

    Raises:
        UsageError: Fewer than two words follow.
    """
    joined, n = "", 0
    for n, form in enumerate(following, 1):
        joined += form
        if joined.casefold() == surface.casefold():
            return n
    if n < 2:
        raise UsageError(f"{where}: the multiword token '{printable_value(surface, 40)}' has no words.")
    return 2


@lru_cache(maxsize=1 << 14)
def _feats(text: str) -> str:
    """Turn `{'Number': 'Sing', 'Person': '3'}` into `Number=Sing|Person=3`."""
    feats = _literal(text)
    return (
        "|".join(f"{k}={v or '_'}" for k, v in feats.items()) if isinstance(feats, dict) else text.replace("None", "_")
    )


def _deps(text: str) -> str:
    """Turn `[('nsubj', 4), ('conj:and', (8, '.', 1))]` into `4:nsubj|8.1:conj:and`."""
    deps = _literal(text)
    pairs = isinstance(deps, list) and all(isinstance(x, tuple) and len(x) == 2 and _is_id(x[1]) for x in deps)
    return "|".join(f"{_id_text(head)}:{relation}" for relation, head in deps) if pairs else text.replace("None", "_")


def _is_id(node: Any) -> bool:
    return isinstance(node, int) or (isinstance(node, tuple) and len(node) == 3)


def _literal(text: str) -> Any:
    """Return the value whose `str` a text is; None for text that was none, such as what had no structure to begin with."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that it is documented to raise
        return None


DATASET = DatasetSpec(
    name="ud_ewt",
    dataset="ud_ewt",
    config=None,
    about="sentences of web text with words, parts of speech, features and syntax",
    licence="CC BY-SA 4.0",
    hub_name="universal-dependencies/universal_dependencies",
    hub_config="en_ewt",
    files={
        split: tuple(f"{name}.conllu" for name in (f"en_ewt-ud-{short}", *dict.fromkeys((short, split))))
        for split, short in {"train": "train", "validation": "dev", "test": "test"}.items()
    },
    read_file=_file,
    read_hub=_hub,
)
