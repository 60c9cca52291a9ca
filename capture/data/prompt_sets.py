"""Prompt sets: JSON files of prompts for a model to answer, those that ship with the project and a user's own.

A file is an object with a name, a description, and prompts. Each prompt has an id (a text or a whole number), a text, usually a
note that says what it is for, and may have a system message, `system`. Several sets make one source. A prompt of a shipped set is
known by its set and its id there; one of a user's own, in whatever file or on the command line, by its text alone. The shipped
sets were written for this project and share its licence.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from capture.data.example import Row, Source, check_storable
from capture.data.files import (
    UnreadableFileError,
    check_not_empty,
    check_readable,
    printable_value,
    read_json,
    user_path,
)
from capture.data.text import own_texts
from warehouse.errors import NotFoundError, UsageError

_SHIPPED = Path(__file__).parent / "shipped_prompts"
_OTHER_NAMES = {"dynamic": "changing", "multi_trait": "several_traits"}
"""What people also call shipped sets: name → the set's own name, which its examples' ids are made from."""


def shipped_sets() -> list[str]:
    """Return the names of the sets that ship with the project."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def shipped_counts() -> dict[str, int]:
    """Return the number of prompts in each shipped set."""
    return {name: len(_rows(_SHIPPED / f"{name}.json")) for name in shipped_sets()}


def open_prompt_sets(names: list[str]) -> Source:
    """Open several prompt sets as one source.

    Args:
        names: Shipped sets, JSON files, or folders of JSON files.

    Returns:
        The source, in the order of the names. Each set is one of its members: data set `prompts`, config the set's name (its
        file's, without `.json`).

    Raises:
        UsageError: Two sets have the same name, or a set is malformed.
    """
    names = [_OTHER_NAMES.get(name, name) for name in names]
    files: dict[str, Path] = {}
    for path in chain.from_iterable(map(_files, names)):
        if path.stem in files:
            if files[path.stem].resolve() == path.resolve():
                raise UsageError(f"The prompt set {path.stem} is named twice: name it once.")
            raise UsageError(f"There are two prompt sets {path.stem}, in {files[path.stem]} and {path}: rename one.")
        files[path.stem] = path
    sets = []
    for name, path in files.items():
        rows = _rows(path)
        own = path.parent != _SHIPPED
        sets.append(Source("prompts", name, None, str(path), partial(iter, rows), has_ids=not own, own=own))
    return Source(
        "prompts",
        ",".join(files),
        None,
        ", ".join(names),
        lambda: chain.from_iterable(prompt_set.rows() for prompt_set in sets),
        members=tuple(sets),
    )


def open_prompts(texts: list[str]) -> Source:
    """Open prompts that are given one by one; raise UsageError for one without text."""
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UsageError(f"--prompt: prompt {number} has no text.")
    rows = [check_storable(Row(str(n), text), "--prompt, prompt") for n, text in enumerate(texts, 1)]
    return own_texts("prompt", "--prompt", partial(iter, rows))


def _files(name: str) -> Iterator[Path]:
    """Yield the files that a name stands for."""
    if name in shipped_sets():
        yield _SHIPPED / f"{name}.json"
        return
    check_not_empty(prompt_set=name)
    path = user_path(name)
    if path.is_dir():
        try:
            files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".json")
        except OSError as e:
            raise UnreadableFileError(path, e) from None
        if not files:
            raise UsageError(f"{printable_value(path)} has no prompt sets: it holds no .json file.")
        yield from map(check_readable, files)
    elif path.suffix or len(path.parts) > 1:
        yield check_readable(path)
    else:
        raise NotFoundError(
            "prompt set",
            printable_value(name),
            [*shipped_sets(), *_OTHER_NAMES],
            "One of your own is named by its file: ./prompts.json",
        )


def _rows(path: Path) -> list[Row]:
    """Return the prompts in a file. They are read at once: sets are small, and a fault shows before a model is loaded."""
    contents = read_json(path)
    prompts = contents.get("prompts") if isinstance(contents, dict) else None
    if not isinstance(prompts, list) or not prompts:
        raise UsageError(
            f'{printable_value(path)} has no prompts: a set is {{"name": …, "prompts": [{{"id": 1, "text": …}}, …]}}.'
        )
    rows, seen = [], dict[str, int]()
    for number, prompt in enumerate(prompts, 1):
        row = _row(path, number, prompt)
        if (first := seen.setdefault(row.source_id, number)) != number:
            raise UsageError(
                f"{printable_value(path)}: prompts {first} and {number} have the same id, {printable_value(row.source_id)}."
            )
        rows.append(row)
    return rows


def _row(path: Path, number: int, prompt: Any) -> Row:
    where = f"{printable_value(path)}, prompt {number}"
    if not isinstance(prompt, dict):
        raise UsageError(f"{where} is not a JSON object with an id and a text.")
    fields = dict(prompt)
    key, text = fields.pop("id", None), fields.pop("text", None)
    if isinstance(key, bool) or not isinstance(key, str | int) or not str(key).strip():
        raise UsageError(f"{where} has no id, which is a text or a whole number.")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where} (id {printable_value(key)}) has no text.")
    if not isinstance(fields.get("system"), str | None):
        raise UsageError(f"{where} (id {printable_value(key)}) has a system message that is not text.")
    return Row(str(key), text, fields, prompt_set=path.stem)
