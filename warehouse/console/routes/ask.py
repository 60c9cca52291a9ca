"""`/api/sql` and `/api/query`: a user's own SQL and the saved queries, answered by a process that is killed at the limit.

A query is no resource that a browser keeps: there are no ETags here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import duckdb
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from warehouse.catalog.saved_queries import choose_values, fill_in, find_query
from warehouse.console.answers import as_json, rows
from warehouse.console.sql.pool import MOST_ROWS, MOST_SECONDS, ROWS, SECONDS, Pool, Question, Rows, SqlError
from warehouse.console.work import Work, run_work
from warehouse.warehouse import Warehouse

router = APIRouter()

KEYS = ("run_id", "example_id", "seq", "side", "pos", "layer", "head")
"""The columns by which a row stands for tokens, layers or heads, and can be chosen."""
_CHECK_SECONDS = 2.0
"""How long it may take to find what is wrong with a query; after that it counts as right."""


class _Asked(BaseModel):
    """How a query is to be answered."""

    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, Field(max_length=100)] = ""
    """By which it can be cancelled; a query of the same id that is still at work is."""
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = ROWS
    timeout: Annotated[float, Field(gt=0, le=MOST_SECONDS, allow_inf_nan=False)] = SECONDS


class AskedSql(_Asked):
    """The body of `/api/sql`."""

    sql: str


class AskedQuery(_Asked):
    """The body of `/api/query`."""

    name: str
    values: dict[str, str] = Field(default_factory=dict)


class CheckedSql(BaseModel):
    """The body of `/api/sql/check`."""

    sql: str


@router.post("/sql")
async def sql(request: Request, asked: AskedSql) -> Response:
    """Answer with the rows of a query, up to a limit."""
    return await _ask(request, lambda warehouse: asked.sql, asked)


@router.post("/query")
async def query(request: Request, asked: AskedQuery) -> Response:
    """Answer with the rows of a saved query; the SQL in the notes is the query with its values filled in."""

    def text(warehouse: Warehouse) -> str:
        saved = find_query(asked.name)
        return fill_in(saved, warehouse.attempt(lambda: choose_values(warehouse.cursor(), saved, asked.values)))

    return await _ask(request, text, asked)


@router.post("/sql/check")
async def check(request: Request, asked: CheckedSql) -> Response:
    """Answer with what is wrong with a query, and where; an empty object where nothing is."""

    def make(work: Work) -> Response:
        question = Question(asked.sql, seconds=_CHECK_SECONDS, only_check=True)
        try:
            _answer(request, work, question)
        except SqlError as e:
            if e.kind in ("refused", "sql"):
                return as_json({"error": str(e), **e.place})
        except duckdb.Error as e:
            return as_json({"error": str(e)})
        return as_json({})

    return await run_work(request, request.app.state.warehouse, make)


@router.delete("/sql")
async def cancel(request: Request, id: Annotated[str, Query(max_length=100)]) -> Response:
    """Stop a query; the answer says whether there was one."""
    question: Question | None = request.app.state.questions.get(id)
    if question is not None:
        question.stop()
    return as_json({"cancelled": question is not None})


async def _ask(request: Request, text: Callable[[Warehouse], str], asked: _Asked) -> Response:
    """Answer with the rows of a query, of which the text may have to be made first."""
    running: dict[str, Question] = request.app.state.questions

    def make(work: Work) -> Response:
        work.warehouse.reopen_if_stale()
        question = Question(text(work.warehouse), asked.limit, asked.timeout)
        if asked.id and (before := running.get(asked.id)) is not None:
            before.stop()
        running[asked.id] = question
        try:
            found = _answer(request, work, question)
        finally:
            if running.get(asked.id) is question:
                del running[asked.id]
        assert found is not None
        names = found.table.column_names
        total = None if found.cut else found.table.num_rows
        return rows(
            found.table,
            sql=[question.sql],
            total=total,
            cut=_cut(found),
            ms=found.ms,
            keys=[k for k in KEYS if k in names],
        )

    return await run_work(request, request.app.state.warehouse, make)


def _answer(request: Request, work: Work, question: Question) -> Rows | None:
    """Answer a question; where a damaged run stops it, that run is left out of the views, once for each state of the warehouse."""
    pool: Pool = request.app.state.pool
    work.at_stop(question.stop)
    failed: list[duckdb.Error] = []

    def attempt() -> Rows | None:
        if failed:
            raise failed.pop()
        return pool.ask(question, work.warehouse.version())

    try:
        return attempt()
    except duckdb.Error as e:
        version = work.warehouse.version()
        if request.app.state.looked_for_damage == version:
            raise
        request.app.state.looked_for_damage = version
        failed.append(e)
        return work.warehouse.attempt(attempt)


def _cut(found: Rows) -> str | None:
    """Return what is said where rows were left out."""
    shown = f"The first {found.table.num_rows:,} rows are shown"
    if found.cut == "rows":
        return f"{shown}; there are more."
    if found.cut == "bytes":
        return (
            f"{shown}, which is as much as a page takes (32 MB); there are more."
            if found.table.num_rows
            else ("No row is shown: the first one alone is more than a page takes (32 MB).")
        )
    return None
