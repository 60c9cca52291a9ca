"""Saved queries: `sql/queries/*.sql`, each a query that people really ask, runnable from here and from the duckdb shell.

The first comment line of a query is its title, and the lines straight after it are its header:

    -- run: …                       it reads getvariable('run'), and what that is
    -- other_run (mcq-encoder): …   it reads getvariable('other_run'), a run of that kind only
    -- needs: words, next_token     tables that the run must have rows in

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
_READ = re.compile(r"getvariable\('(\w+)'\)")
_RUN_VARIABLES = ("run", "other_run")

_MADE_BY = {
    "words": "capture an annotated data set, such as --data ud_ewt",
    "labels": "capture a labelled data set, such as --data go_emotions",
    "messages": "capture chats, such as --data chats.jsonl",
    "evaluations": "capture a log of an evaluation, such as --data log.eval",
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
    "comparisons": "see traces compare --help",
    "layer_similarity": "see traces compare --help, of runs that kept resid",
    "moved_directions": "see traces compare --help, of runs that kept resid",
    "head_changes": "see traces compare --help, of runs that kept qkv",
    "trait_dynamics": "see traces trait project --help",
    "trait_projections": "see traces trait project --help",
    "judgements": "see traces trait judge --help",
    "effects": "see traces ablate --help, and traces patch",
    "interventions": "see traces ablate --help, and traces patch",
    "influence_targets": "see traces influence --help",
    "logit_parts": "see traces influence --help",
    "token_edges": "see traces influence --help",
    "circuit_nodes": "see traces circuit discover --help",
    "circuit_edges": "see traces circuit discover --help",
    "circuits": "see traces circuit discover --help",
    "circuit_values": "see traces circuit evaluate --help",
    "dictionaries": "see traces features encode --help",
    "features": "see traces features encode --help",
    "feature_tokens": "see traces features encode --help",
    "reconstructions": "see traces features encode --help",
    "reconstruction_losses": "see traces features evaluate --help",
    "feature_associations": "see traces features associate --help",
}
"""What to do for rows in a table that not every run has rows in."""

_ABOUT_PARENT = (
    "heads",
    "lens",
    "judge",
    "trait-projection",
    "ablation",
    "patching",
    "influence",
    "circuit-evaluation",
    "features",
    "features-evaluation",
    "features-associations",
)
"""Kinds of runs whose rows are about the run that they were made from, their first parent, which their source_run_id names."""

# Naming such a run or its parent is naming its rows, so a parent has the tables of the runs about it too.
_RUNS = f"""
    SELECT r.run_id, r.kind, list_distinct(list_concat(r.tables, flatten(coalesce(list(d.tables), [])))), r.parents[1]
    FROM runs AS r
    LEFT JOIN runs AS d ON d.kind IN {_ABOUT_PARENT} AND d.parents[1] = r.run_id
    GROUP BY r.run_id, r.kind, r.tables, r.parents, r.created_at
    ORDER BY r.kind IN {_ABOUT_PARENT}, r.created_at DESC, r.run_id
"""


@dataclass(frozen=True)
class SavedQuery:
    """A saved query and its header."""

    name: str
    title: str
    text: str

    @cached_property
    def _header(self) -> dict[str, tuple[str | None, str]]:
        """The header: name → (kind in brackets, text)."""
        return {name: (kind, says) for name, kind, says in _header_lines(self.text)}

    @property
    def variables(self) -> list[str]:
        """The names of the variables that it reads."""
        return [name for name in self._header if name != "needs"]

    def required_kind(self, variable: str) -> str | None:
        """Return the kind of run that a variable must name; None: any."""
        return self._header[variable][0]

    def meaning(self, variable: str) -> str:
        """Return what a variable is, in the words of the header."""
        return self._header[variable][1]

    @property
    def needs(self) -> list[str]:
        """The tables that a run must have rows in."""
        return re.findall(r"\w+", self._header.get("needs", (None, ""))[1])


def _header_lines(text: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield the name, the kind in brackets and the text of every header line."""
    for line in text.splitlines()[1:]:
        match = _HEADER.fullmatch(line)
        if match is None:
            return
        yield match[1], match[2], match[3]


@dataclass(frozen=True)
class _Run:
    run_id: str
    kind: str
    tables: list[str]
    parent: str | None
    """The first parent."""

    def lacks(self, query: SavedQuery) -> list[str]:
        """Return the tables that a query needs and this run has no rows in."""
        return [t for t in query.needs if t not in self.tables]

    def fits(self, query: SavedQuery, kind: str | None) -> bool:
        """Return whether a query may choose this run by itself; a training only where the query is about trainings."""
        trained = self.kind == "finetune" and "training" not in query.needs
        return not self.lacks(query) and kind in (None, self.kind) and not trained


def all_queries() -> dict[str, SavedQuery]:
    """Return all saved queries by name, sorted."""
    queries = {}
    for path in sorted((paths.data_dir("sql") / "queries").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        queries[path.stem] = SavedQuery(path.stem, text.splitlines()[0].removeprefix("-- "), text)
    return queries


def find_query(name: str) -> SavedQuery:
    """Return the saved query of a name.

    Raises:
        NotFoundError: There is none; the message lists the nearest names.
    """
    queries = all_queries()
    if name not in queries:
        raise NotFoundError("saved query", name, queries, "All of them: traces sql --list")
    return queries[name]


def run_query(
    con: duckdb.DuckDBPyConnection, query: SavedQuery, settings: Mapping[str, str]
) -> duckdb.DuckDBPyRelation:
    """Run a saved query over the views of a connection.

    Its variables are set in a cursor of its own, so that later queries do not change the answer.

    Args:
        con: A connection to the views.
        query: The query.
        settings: Values of its variables; runs that are not named are chosen. NotFoundError and UsageError as of `choose_values`.

    Returns:
        The answer.
    """
    values = choose_values(con, query, settings)
    cursor = con.cursor()
    (path,) = con.execute("SELECT current_setting('search_path')").fetchall()[0]
    cursor.execute(f"SET search_path = {sql_text(path)}")
    for name, value in values.items():
        cursor.execute(f"SET VARIABLE {name} = {sql_text(value)}")
    return cursor.sql(query.text)


def fill_in(query: SavedQuery, values: Mapping[str, str]) -> str:
    """Return the text of a saved query with values in the places of its variables: SQL that asks the same without any."""
    return _READ.sub(lambda found: sql_text(values[found[1]]) if found[1] in values else "NULL", query.text)


def choose_values(con: duckdb.DuckDBPyConnection, query: SavedQuery, settings: Mapping[str, str]) -> dict[str, str]:
    """Choose the values of a saved query's variables.

    Args:
        con: A connection to the views.
        query: The query.
        settings: The values that are given; runs that are not named are chosen.

    Returns:
        The values by variable; what is neither given nor a run is left out.

    Raises:
        NotFoundError: The query has no such variable, or there is no such run.
        UsageError: The named run lacks what the query needs, or no run has it.
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
    if query.needs and not query.variables:  # it is about every run that has what it needs
        _newest_run(query, None, runs, taken=[])
    return values


def _check_run(query: SavedQuery, variable: str, run_id: str, runs: Sequence[_Run]) -> None:
    """Check that a named run has what a query needs.

    Raises:
        NotFoundError: There is no such run.
        UsageError: It is of another kind, lacks rows, or is a projection where the projected run is meant.
    """
    run = next((r for r in runs if r.run_id == run_id), None)
    if run is None:
        raise NotFoundError("run", run_id, [r.run_id for r in runs])
    kind = query.required_kind(variable)
    if kind not in (None, run.kind):
        raise UsageError(
            f"Run '{run_id}' is of kind {run.kind}: saved query '{query.name}' reads {variable} of one of kind {kind}."
        )
    for table in run.lacks(query):
        raise UsageError(f"Run '{run_id}' has no rows in {table}: {_MADE_BY[table]}.")
    projected = {"trait_projections", "trait_dynamics"} & set(query.needs)
    if projected and run.kind == "trait-projection":  # its rows are read under the projected run
        raise UsageError(
            f"Run '{run_id}' is a projection of '{run.parent}': saved query '{query.name}' reads {variable} of the run that was "
            f"projected. Add --set {variable}={run.parent}"
        )


def _newest_run(query: SavedQuery, variable: str | None, runs: Sequence[_Run], taken: Sequence[str]) -> str:
    """Return the newest run that has what a query needs and is not taken by another variable.

    Raises:
        UsageError: There is none; the message says how to make one.
    """
    kind = query.required_kind(variable) if variable else None
    for run in runs:
        if run.fits(query, kind) and run.run_id not in taken:
            return run.run_id
    run_wanted = f"{'another' if taken else 'a'} run{f' of kind {kind}' if kind else ''}"
    if not query.needs:
        raise UsageError(f"Saved query '{query.name}' needs {run_wanted}, and there is none yet.")
    remedies = "; ".join(dict.fromkeys(_MADE_BY[t] for t in query.needs))
    raise UsageError(
        f"Saved query '{query.name}' needs {run_wanted} with rows in {' and '.join(query.needs)}, and there is none yet: "
        f"{remedies}."
    )
