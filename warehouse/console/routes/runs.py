"""`/api/runs`, `/api/leftovers`, `/api/manifest` and `/api/examples`: which runs there are, what each is, and the texts of one."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.console.answers import answer, as_json, rows
from warehouse.console.work import Work, run_work
from warehouse.errors import NotFoundError
from warehouse.storage import paths

router = APIRouter()

_ORDERS = {"place": "idx", "loss": "loss DESC NULLS LAST, idx", "tokens": "n_tokens DESC, idx"}
"""How examples can be ordered."""


@router.get("/runs")
async def runs(request: Request) -> Response:
    """Answer with a row a run, the newest first."""
    return await answer(
        request, lambda work: rows(work.sql("SELECT * FROM runs ORDER BY created_at DESC, run_id"), work)
    )


@router.get("/leftovers")
async def leftovers(request: Request) -> Response:
    """Answer with what is there and no run: damaged runs with their faults, and unfinished captures; it changes without a new version."""

    def make(work: Work) -> Response:
        damaged = [{"run_id": name, "fault": fault} for name, fault in work.warehouse.damaged.items()]
        return as_json({"damaged": damaged, "unfinished": paths.staged_runs(work.warehouse.root)})

    return await run_work(request, request.app.state.warehouse, make)


@router.get("/manifest")
async def manifest(request: Request, run: str) -> Response:
    """Answer with a run's manifest, its arrays and the runs that were derived from it, as JSON."""

    def make(work: Work) -> Response:
        store = work.warehouse.cached_run(run)
        children = work.sql("SELECT run_id, kind FROM runs WHERE list_contains(parents, ?) ORDER BY created_at", run)
        return as_json(
            {
                "manifest": json.loads(store.meta.model_dump_json()),
                "arrays": store.arrays().to_dict("records"),
                "children": children.to_pylist(),
            }
        )

    return await answer(request, make)


@router.get("/examples")
async def examples(
    request: Request,
    run: str,
    order: str = "place",
    after: int = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    find: str = "",
) -> Response:
    """Answer with a row an example: its id, how its text begins, its loss, whether all scores call it right; `find` keeps texts with it, ids that begin so."""

    def make(work: Work) -> Response:
        if order not in _ORDERS:
            raise NotFoundError("order", order, _ORDERS)
        work.warehouse.cached_run(run)
        kept = "run_id = ? AND (contains(lower(text), lower(?)) OR starts_with(example_id, ?))"
        total = work.sql(f"SELECT count(*) AS n FROM examples WHERE {kept}", run, find, find)["n"][0].as_py()
        table = work.sql(
            "SELECT e.idx, e.example_id, left(e.text, 200) AS text, e.n_seqs, e.n_tokens, e.truncated, l.loss, v.is_correct "
            "FROM examples AS e LEFT JOIN (SELECT example_id, avg(loss) AS loss FROM next_token WHERE run_id = ? "
            "GROUP BY example_id) AS l USING (example_id) LEFT JOIN (SELECT example_id, bool_and(is_correct) AS is_correct "
            f"FROM evaluations WHERE run_id = ? GROUP BY example_id) AS v USING (example_id) WHERE {kept} ORDER BY {_ORDERS[order]} LIMIT ? OFFSET ?",
            run, run, run, find, find, limit, after,
        )  # fmt: skip
        return rows(table, work, total=total)

    return await answer(request, make)
