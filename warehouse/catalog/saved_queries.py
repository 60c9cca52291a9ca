"""Saved queries: `sql/queries/*.sql`, each a question that people really ask, runnable from here and from the shell alike.

A query's first comment line is its title, and the lines straight after it are its header:

    -- run: …                       it reads getvariable('run'), and what that is
    -- other_run (mcq-encoder): …   the same, of a run of that kind only
    -- needs: words, next_token     tables that a run must have rows in to be asked about

A run that is not named is the newest that fits, captured ones before derived ones; `other_run` is another than `run`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.quoting import sql_text
from warehouse.storage import paths

if TYPE_CHECKING:
    import duckdb

_HEADER = re.compile(r"-- (\w+)(?: \(([\w-]+)\))?: (.+)")
_RUN_VARIABLES = ("run", "other_run")

_MADE_BY = {
    "words": "capture an annotated data set, such as --data ud_ewt",
    "labels": "capture a labelled data set, such as --data go_emotions",
    "next_token": "see traces capture next-token --help",
    "heads": "capture with heads in --capture, or see traces derive heads --help",
    "tensors": "capture with something in --capture, such as hidden",
    "choices": "see traces capture mcq-prompt --help, and mcq-encoder",
    "mcq_predictions": "see traces capture mcq-prompt --help, and mcq-encoder",
    "training": "see traces finetune --help",
    "responses": "see traces capture generate --help, and traces trait respond and steer",
    "trait_vectors": "see traces trait extract --help",
    "trait_evaluations": "see traces trait evaluate --help",
    "logit_lens": "see traces lens --help",
    "trait_dynamics": "see traces trait project --help",
    "trait_projections": "see traces trait project --help",
    "judgements": "see traces trait judge --help",
}
"""How a run comes to have rows in a table that not every run has rows in."""

_ABOUT_PARENT = ("heads", "lens", "judge", "trait-projection")
"""Kinds of runs whose rows tell of the run that they were made from, their first parent: its name is in their source_run_id."""

# Such a run adds to what there is of the other: naming either is naming its rows.
_RUNS = f"""
    SELECT r.run_id, r.kind, list_distinct(list_concat(r.tables, flatten(coalesce(list(d.tables), [])))), r.parents[1]
    FROM runs AS r
    LEFT JOIN runs AS d ON d.kind IN {_ABOUT_PARENT} AND d.parents[1] = r.run_id
    GROUP BY r.run_id, r.kind, r.tables, r.parents, r.created_at
    ORDER BY r.kind IN {_ABOUT_PARENT}, r.created_at DESC, r.run_id
"""


@dataclass(frozen=True)
class SavedQuery:
    name: str
    title: str
    text: str

    @cached_property
    def _header(self) -> dict[str, tuple[str | None, str]]:
        """Name → (kind in brackets, what it says)."""
        return {name: (kind, says) for name, kind, says in _header_lines(self.text)}

    @property
    def variables(self) -> list[str]:
        return [name for name in self._header if name != "needs"]

    def required_kind(self, variable: str) -> str | None:
        """The kind of run that a variable must name; None: any."""
        return self._header[variable][0]

    @property
    def needs(self) -> list[str]:
        """Tables that a run must have rows in."""
        return re.findall(r"\w+", self._header.get("needs", (None, ""))[1])


def _header_lines(text: str) -> Iterator[tuple[str, str | None, str]]:
    for line in text.splitlines()[1:]:
        found = _HEADER.fullmatch(line)
        if found is None:
            return
        yield found[1], found[2], found[3]


@dataclass(frozen=True)
class _Run:
    run_id: str
    kind: str
    tables: list[str]
    parent: str | None
    """The first."""

    def lacks(self, question: SavedQuery) -> list[str]:
        return [t for t in question.needs if t not in self.tables]

    def fits(self, question: SavedQuery, kind: str | None) -> bool:
        """Whether it may be asked about without being named: a model's training only where that is the question."""
        trained = self.kind == "finetune" and "training" not in question.needs
        return not self.lacks(question) and kind in (None, self.kind) and not trained


def all_queries() -> dict[str, SavedQuery]:
    found = {}
    for path in sorted((paths.data_dir("sql") / "queries").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        found[path.stem] = SavedQuery(path.stem, text.splitlines()[0].removeprefix("-- "), text)
    return found


def find_query(name: str) -> SavedQuery:
    questions = all_queries()
    if name not in questions:
        raise NotFoundError("saved query", name, questions, "All of them: traces sql --list")
    return questions[name]


def run_query(con: duckdb.DuckDBPyConnection, query: SavedQuery, settings: Mapping[str, str]) -> duckdb.DuckDBPyRelation:
    """Runs a question over the views of a connection; its variables are those of another, so that its answer stays its own
    whatever is asked next. Raises NotFoundError for a setting it does not have or a run that is not there, UsageError for a run that
    has not what it needs, or where there is none that has.
    """
    runs = [_Run(*row) for row in con.sql(_RUNS).fetchall()]
    for name in settings:
        if name not in query.variables:
            raise NotFoundError(f"variable in saved query '{query.name}':", name, query.variables)
    values = dict(settings)
    for name in query.variables:
        if name in values and name in _RUN_VARIABLES:
            _check_run(query, name, values[name], runs)
    for name in query.variables:
        if name not in values and name in _RUN_VARIABLES:
            values[name] = _newest_run(query, name, runs, taken=list(values.values()))
    if query.needs and not query.variables:  # it asks about every run that has what it needs
        _newest_run(query, None, runs, taken=[])
    own = con.cursor()
    (path,) = con.execute("SELECT current_setting('search_path')").fetchall()[0]
    own.execute(f"SET search_path = {sql_text(path)}")
    for name, value in values.items():
        own.execute(f"SET VARIABLE {name} = {sql_text(value)}")
    return own.sql(query.text)


def _check_run(question: SavedQuery, variable: str, run_id: str, runs: Sequence[_Run]) -> None:
    found = next((r for r in runs if r.run_id == run_id), None)
    if found is None:
        raise NotFoundError("run", run_id, [r.run_id for r in runs])
    kind = question.required_kind(variable)
    if kind not in (None, found.kind):
        raise UsageError(
            f"Run '{run_id}' is of kind {found.kind}: saved query '{question.name}' reads {variable} of one of kind {kind}."
        )
    for table in found.lacks(question):
        raise UsageError(f"Run '{run_id}' has no rows in {table}: {_MADE_BY[table]}.")
    projected = {"trait_projections", "trait_dynamics"} & set(question.needs)
    if projected and found.kind == "trait-projection":  # its rows are read by the run that they tell of
        raise UsageError(
            f"Run '{run_id}' is a projection of '{found.parent}': saved query '{question.name}' reads {variable} of the run that was "
            f"projected. Add --set {variable}={found.parent}"
        )


def _newest_run(question: SavedQuery, variable: str | None, runs: Sequence[_Run], taken: Sequence[str]) -> str:
    kind = question.required_kind(variable) if variable else None
    for run in runs:
        if run.fits(question, kind) and run.run_id not in taken:
            return run.run_id
    run_wanted = f"{'another' if taken else 'a'} run{f' of kind {kind}' if kind else ''}"
    if not question.needs:
        raise UsageError(f"Saved query '{question.name}' needs {run_wanted}, and there is none yet.")
    remedies = "; ".join(dict.fromkeys(_MADE_BY[t] for t in question.needs))
    raise UsageError(
        f"Saved query '{question.name}' needs {run_wanted} with rows in {' and '.join(question.needs)}, and there is none yet: "
        f"{remedies}."
    )
