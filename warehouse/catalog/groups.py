"""Groups of runs whose tables are compacted: which runs they are of, and which of them hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xxhash

from warehouse.catalog.survey import Survey


@dataclass(frozen=True)
class Group:
    """Runs whose tables are in one file each."""

    runs: tuple[str, ...]
    """The names of the runs."""
    state: str
    """A hash of what was known of their files."""
    checksums: dict[str, str]
    """Table → the checksum of its file."""


Groups = dict[str, Group]
"""The groups of a warehouse, by the names of their folders."""


def groups_from_values(values: dict[str, Any]) -> Groups:
    """Read groups from JSON values."""
    return {name: Group(tuple(group["runs"]), group["state"], group["checksums"]) for name, group in values.items()}


def valid_groups(groups: Groups, known: Survey) -> Groups:
    """Return the groups whose runs are all as they were when they were copied, and of two with a run in common the first."""
    valid, taken = {}, set[str]()
    for name, group in groups.items():
        runs = {run_id: known[run_id] for run_id in group.runs if run_id in known}
        if len(runs) == len(group.runs) and group.state == state_of(runs) and taken.isdisjoint(runs):
            valid[name] = group
            taken.update(runs)
    return valid


def runs_in(groups: Groups) -> set[str]:
    """Return the runs that groups are of."""
    return {run_id for group in groups.values() for run_id in group.runs}


def state_of(runs: Survey) -> str:
    """Return a hash of what is known of the files of runs."""
    return xxhash.xxh3_64_hexdigest(
        "\n".join(f"{name} {x.manifest} {x.files} {x.fault}" for name, x in runs.items()).encode()
    )
