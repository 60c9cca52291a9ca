"""Groups of runs whose tables are compacted: what the catalog keeps of them, and which of them hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from warehouse.catalog.survey import Survey, Surveyed
from warehouse.storage import strict_json


@dataclass(frozen=True)
class Group:
    """Runs whose tables are in one file each."""

    runs: dict[str, str]
    """Run → a signature of its files."""
    checksums: dict[str, str]
    """Table → the checksum of its file."""


Groups = dict[str, Group]
"""The groups of a warehouse, by the names of their folders."""


def groups_to_json(groups: Groups) -> str:
    """Write groups as JSON."""
    return json.dumps({name: vars(group) for name, group in groups.items()})


def groups_from_json(text: str) -> Groups:
    """Read what `groups_to_json` has written; raises ValueError, TypeError or AttributeError for anything else."""
    return groups_from_values(strict_json.parse(text))


def groups_from_values(values: dict[str, Any]) -> Groups:
    """Read groups from JSON values."""
    return {name: Group(**group) for name, group in values.items()}


def valid_groups(groups: Groups, known: Survey) -> Groups:
    """Return the groups whose runs are all as they were when they were copied, and of two with a run in common the first."""
    now = {run_id: signature(run) for run_id, run in known.items() if run.fault is None}
    valid, taken = {}, set[str]()
    for name, group in groups.items():
        if group.runs.items() <= now.items() and taken.isdisjoint(group.runs):
            valid[name] = group
            taken |= group.runs.keys()
    return valid


def runs_in(groups: Groups) -> set[str]:
    """Return the runs that groups are of."""
    return {run_id for group in groups.values() for run_id in group.runs}


def signature(run: Surveyed) -> str:
    """Return a signature of a run's files, as far as they are known."""
    return f"{run.manifest} {run.files}"
