"""What all checks share: how a check reports, and short ways to query a run.

A check is a function that takes a run and returns in a few words what it looked at, or None where the run has nothing to check. It
raises `ValidationFailure` (through `expect`) with what is wrong and where. `validate` lists all checks of a run's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from warehouse.schema.tables import STORED
from warehouse.storage.chosen_examples import keeps_tensors_sql
from warehouse.storage.sorted_table import example_ranges
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    import duckdb

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


@dataclass(frozen=True)
class Portion:
    """Some of a run's examples, to be asked as the run is: tables with an example in every row have only theirs."""

    store: TraceStore
    condition: str
    """SQL on `example_id`."""

    def query(self, query: str) -> duckdb.DuckDBPyRelation:
        """Ask what `TraceStore.query` would, of these examples."""
        tables = [name for name, table in STORED.items() if "example_id" in table.key and name in query]
        own = (f"{name} AS NOT MATERIALIZED (SELECT * FROM main.{name} WHERE {self.condition})" for name in tables)
        return self.store.query(f"WITH {', '.join(own)} SELECT * FROM ({query})" if tables else query)


def portions(store: TraceStore) -> Iterator[Portion]:
    """Divide a run's examples, so that what holds example by example is checked in memory that does not grow with the run.

    Args:
        store: The run.

    Yields:
        Portions that have every example id once, also those that the run should not have.
    """
    files = [store.path / path for path in store.meta.file_infos if path.startswith("tokens/")]
    for condition in example_ranges(files):
        yield Portion(store, condition)


def expect_no_row(store: TraceStore | Portion, tests: Mapping[str, str], rows: str = "") -> None:
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
    first = (
        f"FROM tokens WHERE pos = 0 AND {keeps_tensors_sql(store.keep_every)}"  # in both stacks, where there are two
    )
    step = max(1, int(select_number(store, f"SELECT count(*) {first}")) // _SAMPLE)
    numbered = f"SELECT example_id, seq, row_number() OVER () - 1 AS n {first}"
    chosen = f"SELECT example_id, seq FROM ({numbered}) WHERE n % {step} = 0 AND n < {step * _SAMPLE}"
    return select(store, f"SELECT DISTINCT example_id, seq FROM ({chosen}) ORDER BY ALL")


def select(store: TraceStore | Portion, query: str) -> list[tuple[Any, ...]]:
    """Return all rows of a query over the run's tables."""
    return store.query(query).fetchall()


def select_number(store: TraceStore | Portion, query: str) -> float:
    """Return the only number of a query over the run's tables."""
    return float(select(store, query)[0][0])
