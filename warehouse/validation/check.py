"""What all checks share: how a check reports, and short ways to query a run.

A check is a function that takes a run and returns in a few words what it looked at, or None where the run has nothing to check. It
raises `ValidationFailure` (through `expect`) with what is wrong and where. `validate` lists all checks of a run's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from warehouse.storage.chosen_examples import keeps_tensors_sql
from warehouse.storage.trace_store import TraceStore

_SAMPLE = 4


CheckFunction = Callable[[TraceStore], str | None]


@dataclass(frozen=True)
class Check:
    """The result of a check."""

    name: str
    passed: bool | None
    """None where there was nothing to check."""
    detail: str
    """What was looked at, or what is wrong and where."""


class ValidationFailure(Exception):
    """A run is not what it must be; the message says what is wrong and where."""


def expect(holds: bool, finding: str) -> None:
    """Raise ValidationFailure with a finding unless a condition holds."""
    if not holds:
        raise ValidationFailure(finding)


def expect_no_row(store: TraceStore, tests: Mapping[str, str], rows: str = "") -> None:
    """Check that queries find no row.

    Args:
        store: The run.
        tests: By finding, the end of the query whose rows are wrong.
        rows: The beginning that all queries share (SELECT … WHERE).

    Raises:
        ValidationFailure: With the first finding whose query has a row, and that row.
    """
    for finding, test in tests.items():
        bad = select(store, f"{rows} {test} LIMIT 1")
        expect(not bad, f"{finding}: {bad}")


def sample_sequences(store: TraceStore) -> list[tuple[str, int]]:
    """Return a few sequences, (example_id, seq), spread over those of the run that have tensors, if it stores any."""
    kept = keeps_tensors_sql(store.keep_every)
    sequences = select(store, f"SELECT DISTINCT example_id, seq FROM tokens WHERE {kept} ORDER BY ALL")
    step = max(1, len(sequences) // _SAMPLE)
    return [(e, s) for e, s in sequences[::step][:_SAMPLE]]


def select(store: TraceStore, query: str) -> list[tuple[Any, ...]]:
    """Return all rows of a query over the run's tables."""
    return store.query(query).fetchall()


def select_number(store: TraceStore, query: str) -> float:
    """Return the only number of a query over the run's tables."""
    return float(select(store, query)[0][0])
