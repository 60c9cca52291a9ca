"""A check of a run: what it found. Shared by those of files and those of contents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warehouse.storage.trace_store import TraceStore

_SAMPLE = 4


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool | None
    """None: there was nothing to check."""
    detail: str


class ValidationFailure(Exception):
    """What was found, and where."""


def expect(holds: bool, finding: str) -> None:
    if not holds:
        raise ValidationFailure(finding)


def expect_no_row(store: TraceStore, tests: Mapping[str, str], rows: str = "") -> None:
    """Raises ValidationFailure with the first finding whose query has a row: what it is mapped to, after `rows` (SELECT … WHERE)."""
    for finding, test in tests.items():
        bad = select(store, f"{rows} {test} LIMIT 1")
        expect(not bad, f"{finding}: {bad}")


def sample_sequences(store: TraceStore) -> list[tuple[str, int]]:
    """A few sequences, (example_id, seq), spread over the run."""
    found = select(store, "SELECT DISTINCT example_id, seq FROM tokens ORDER BY ALL")
    step = max(1, len(found) // _SAMPLE)
    return [(e, s) for e, s in found[::step][:_SAMPLE]]


def select(store: TraceStore, query: str) -> list[tuple[Any, ...]]:
    return store.query(query).fetchall()


def select_number(store: TraceStore, query: str) -> float:
    return float(select(store, query)[0][0])
