"""Ready questions: `sql/questions/*.sql`, each a query that people really ask, runnable from here and from the shell alike.

A question's first comment line is its title; a line `-- run: …` names a variable that it reads with getvariable('run').
`run` is the newest captured run unless set, `other_run` the newest but one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warehouse import layout
from warehouse.errors import NotFound, UsageError
from warehouse.quoting import sql_text

if TYPE_CHECKING:
    import duckdb

_VARIABLE = re.compile(r"^-- (\w+): ", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    name: str
    title: str
    text: str

    @property
    def variables(self) -> list[str]:
        return _VARIABLE.findall(self.text)


def all_questions() -> dict[str, Question]:
    found = {}
    for path in sorted((layout.data_dir("sql") / "questions").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        found[path.stem] = Question(path.stem, text.splitlines()[0].removeprefix("-- "), text)
    return found


def find_question(name: str) -> Question:
    questions = all_questions()
    if name not in questions:
        raise NotFound("question", name, questions, "All of them: traces sql --list")
    return questions[name]


def ask(con: duckdb.DuckDBPyConnection, question: Question, settings: Mapping[str, str]) -> duckdb.DuckDBPyRelation:
    """Runs a question. Raises NotFound for a setting it does not have or a run that is not there, UsageError where it needs
    more runs than there are."""
    captured_first = "ORDER BY len(parents) > 0, created_at DESC, run_id"
    runs = [r for (r,) in con.sql(f"SELECT run_id FROM runs {captured_first}").fetchall()]
    for name in settings:
        if name not in question.variables:
            raise NotFound(f"variable in question '{question.name}':", name, question.variables)
    values = dict(settings)
    for name in question.variables:
        if name in ("run", "other_run"):
            if name in values and values[name] not in runs:
                raise NotFound("run", values[name], runs)
            left = [r for r in runs if r not in values.values()]
            if name not in values:
                if not left:
                    raise UsageError(
                        f"Question '{question.name}' needs {'another' if runs else 'a'} run, and there is none yet."
                    )
                values[name] = left[0]
    for name, value in values.items():
        con.execute(f"SET VARIABLE {name} = {sql_text(value)}")
    return con.sql(question.text)
