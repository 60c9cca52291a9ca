"""Prompt sets: JSON files of prompts for a model to answer, the ones that ship with the project and people's own.

A file is an object with a name, a description, and prompts, each with an id (a text or a whole number), a text, and
usually a note that says what it is for; a system message, if there is one, is `system`. Several sets are one source, and every prompt keeps the id that it has in its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from capture.data.example import Row, Source, check_storable
from capture.data.files import check_not_empty, check_readable, printable_value, read_json, unreadable_error, user_path
from warehouse.errors import NotFoundError, UsageError

_SHIPPED = Path(__file__).parent / "shipped_prompts"
_OTHER_NAMES = {"dynamic": "changing", "multi_trait": "several_traits"}
"""What people also call shipped sets: name → the set's own name, which its examples' ids are made from."""


def shipped_sets() -> list[str]:
    """The names of the sets that ship with the project."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def shipped_counts() -> dict[str, int]:
    """How many prompts each of them has."""
    return {name: len(_rows(_SHIPPED / f"{name}.json")) for name in shipped_sets()}


def open_prompt_sets(names: list[str]) -> Source:
    """The prompts of all the sets named, in that order: each name is a shipped set's, a JSON file, or a folder of them.

    A part of the source is a set: data set `prompts`, config the set's name (its file's, without `.json`). Raises
    NotFoundError for one that is not there, UsageError for one that is not sound, or there twice.
    """
    names = [_OTHER_NAMES.get(name, name) for name in names]
    files: dict[str, Path] = {}
    for path in chain.from_iterable(map(_files, names)):
        if path.stem in files:
            if files[path.stem].resolve() == path.resolve():
                raise UsageError(f"The prompt set {path.stem} is asked for twice: name it once.")
            raise UsageError(
                f"The prompt set {path.stem} is there twice, in {files[path.stem]} and {path}: rename one."
            )
        files[path.stem] = path
    parts = []
    for name, path in files.items():
        rows = _rows(path)
        parts.append(Source("prompts", name, None, str(path), partial(iter, rows)))
    return Source(
        "prompts",
        ",".join(files),
        None,
        ", ".join(names),
        lambda: chain.from_iterable(part.rows() for part in parts),
        members=tuple(parts),
    )


def open_prompts(texts: list[str]) -> Source:
    """Prompts given one by one. Raises UsageError for one without text."""
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UsageError(f"--prompt: prompt {number} has no text.")
    rows = [check_storable(Row(str(n), text), f"--prompt, prompt {n}") for n, text in enumerate(texts, 1)]
    return Source("prompt", None, None, "--prompt", partial(iter, rows), has_ids=False)


def _files(name: str) -> Iterator[Path]:
    """The files that a name stands for."""
    if name in shipped_sets():
        yield _SHIPPED / f"{name}.json"
        return
    check_not_empty(prompt_set=name)
    path = user_path(name)
    if path.is_dir():
        try:
            found = sorted(p for p in path.iterdir() if p.suffix.lower() == ".json")
        except OSError as e:
            raise unreadable_error(path, e) from None
        if not found:
            raise UsageError(f"{printable_value(path)} has no prompt sets: it holds no .json file.")
        yield from map(check_readable, found)
    elif path.suffix or len(path.parts) > 1:
        yield check_readable(path)
    else:
        raise NotFoundError(
            "prompt set", printable_value(name), [*shipped_sets(), *_OTHER_NAMES], "One of your own is named by its file: ./prompts.json"
        )


def _rows(path: Path) -> list[Row]:
    """The prompts of a file. Read at once: sets are small, and a fault is told before a model is loaded."""
    found = read_json(path)
    prompts = found.get("prompts") if isinstance(found, dict) else None
    if not isinstance(prompts, list) or not prompts:
        raise UsageError(
            f'{printable_value(path)} has no prompts: a set is {{"name": …, "prompts": [{{"id": 1, "text": …}}, …]}}.'
        )
    rows, seen = [], dict[str, int]()
    for number, prompt in enumerate(prompts, 1):
        row = _row(path, number, prompt)
        if (first := seen.setdefault(row.source_id, number)) != number:
            raise UsageError(f"{printable_value(path)}: prompts {first} and {number} have the same id, {printable_value(row.source_id)}.")
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
        raise UsageError(f"{where} (id {printable_value(key)}) has a system message that is no text.")
    return Row(str(key), text, fields, prompt_set=path.stem)
