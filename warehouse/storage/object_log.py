"""The list of what a warehouse in an object store holds: numbered changes, each an object that exactly one writer could put.

In: a change, such as "this run has come". Out: the list after all changes (`read`), without asking the store to list its objects. A
change is a patch of named values in sections: `runs`, `groups` of compacted tables, `vectors`, and `coming`. A writer puts the next number
where nothing is yet; who comes second reads what the first has written, and puts the one after. Readers look whether there is a next one.
Now and then a writer puts down the whole list, where those begin who know nothing yet.

A run is announced as coming before its manifest is put, which makes it one, and is on the list after that. So a writer that is killed
between the two leaves a name that readers look for.

The list is an index over the manifests, from which `traces refresh` makes it again.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from dataclasses import dataclass
from typing import Any

from warehouse.errors import CorruptRunError, TracesError
from warehouse.storage import paths, strict_json
from warehouse.storage.files import write_atomically
from warehouse.storage.objects import ObjectPath
from warehouse.storage.sealed import is_sealed, seal

RUNS, GROUPS, VECTORS, COMING = SECTIONS = ("runs", "groups", "vectors", "coming")

Change = dict[str, dict[str, Any]]
"""Section → name → what is said of it from now on; None: it is gone."""

_CHECKPOINT = 50
"""Changes from one whole list to the next."""
_TRIES = 1000
"""How often a writer whose number was taken tries the next."""


@dataclass(frozen=True)
class Listing:
    """The list after a change."""

    number: int
    """Which change was the last; 0: there was none."""
    sections: Change
    id: str = ""
    """The id of that change."""

    def after(self, change: Change, change_id: str) -> Listing:
        """Return the list after one more change."""
        sections = {}
        for name in SECTIONS:
            values = self.sections.get(name, {}) | change.get(name, {})
            sections[name] = {k: v for k, v in values.items() if v is not None} if change.get(name) else values
        return Listing(self.number + 1, sections, change_id)


_EMPTY = Listing(0, {name: {} for name in SECTIONS})
_read: dict[ObjectPath, Listing] = {}
"""The list of each root as this process last read it."""


def read(root: ObjectPath) -> Listing:
    """Return the list as it is now.

    Raises:
        CorruptRunError: An object of the list is damaged.
    """
    known = _read.get(root) or _from_disk(root)
    listing = known
    while (entry := _get(paths.list_entry(root, listing.number + 1))) is not None:
        listing = listing.after(entry, entry.pop("id"))
    if listing is not known:
        with contextlib.suppress(OSError):  # it is read again
            copy = paths.list_copy(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(copy, _to_bytes(vars(listing)))
    _read[root] = listing
    return listing


def append(root: ObjectPath, change: Change) -> Listing:
    """Put down a change.

    Args:
        root: The warehouse.
        change: The change.

    Returns:
        The list after it.

    Raises:
        TracesError: So many others write at once that there was no number left.
    """
    change_id = uuid.uuid4().hex  # by it no other's change has the same bytes
    content = _to_bytes({"id": change_id, **change})
    for tried in range(_TRIES):
        listing = read(root)
        number = listing.number + 1
        if _at(root, number).put_new(content):
            listing = _read[root] = listing.after(change, change_id)
            if number % _CHECKPOINT == 0:
                checkpoint = paths.list_checkpoint(root, number)
                write_atomically(checkpoint, _to_bytes(vars(listing)))
                write_atomically(paths.list_latest(root), _to_bytes({"number": number}))
            return listing
        time.sleep(random.uniform(0, min(1.0, 0.01 * 2 ** min(tried, 7))))
    raise TracesError(f"{root}: the list of runs could not be written, since others write it all the time. Try again.")


def announce(root: ObjectPath, run_id: str) -> None:
    """Put down that a run is about to be published, unless that is on the list."""
    if run_id not in read(root).sections[COMING]:
        append(root, {COMING: {run_id: True}})


def _at(root: ObjectPath, number: int) -> ObjectPath:
    entry = paths.list_entry(root, number)
    assert isinstance(entry, ObjectPath)
    return entry


def _from_disk(root: ObjectPath) -> Listing:
    """Return the list as this machine last read it, or as the newest checkpoint has it; an empty one where there is neither."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fields = strict_json.parse(paths.list_copy(root).read_bytes())
        known = Listing(fields["number"], fields["sections"], fields["id"])
        entry = _get(paths.list_entry(root, known.number))
        if entry is not None and entry["id"] == known.id:  # else the bucket is another of the same name
            return known
    latest = _get(paths.list_latest(root))
    if latest is None:
        return _EMPTY
    fields = _get(paths.list_checkpoint(root, latest["number"])) or {}
    return Listing(latest["number"], fields["sections"], fields["id"]) if fields else _EMPTY


def _get(place: Any) -> dict[str, Any] | None:
    """Return an object of the list; None where there is none.

    Raises:
        CorruptRunError: It is damaged.
    """
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        return None
    if not is_sealed(content):
        raise CorruptRunError(f"{place} of the list of runs is damaged: its seal does not fit what it says.")
    fields: dict[str, Any] = strict_json.parse(content)
    del fields["seal"]
    return fields


def _to_bytes(fields: dict[str, Any]) -> bytes:
    return seal(json.dumps(fields).encode())
