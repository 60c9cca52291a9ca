"""`/api/heads…`: how the heads of a run attend: means by layer and head, and the examples behind one of them.

In: a run, or one of kind heads that was derived from it. Out: rows of the table `heads`, of the newest run that tells of it, or of its
means over examples.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.console.answers import answer, empty, rows
from warehouse.console.work import Work
from warehouse.errors import NotFoundError

router = APIRouter()

METRICS = ("entropy", "max_prob", "first_token_mass", "previous_token_mass", "self_mass", "induction_mass")
"""What the table `heads` tells of a head."""
_BINS = 40
_MEANS = ", ".join(f"avg({m}) AS {m}" for m in METRICS)


def heads_run(work: Work, run: str) -> str | None:
    """Return the run with the rows of a run's heads: the newest of itself and those of kind heads that were derived from it."""
    found = work.sql(
        "SELECT run_id FROM runs WHERE list_contains(tables, 'heads') AND (run_id = ? OR (kind = 'heads' AND list_contains(parents, ?))) "
        "ORDER BY created_at DESC, run_id DESC LIMIT 1",
        run, run,
    )  # fmt: skip
    return found["run_id"][0].as_py() if len(found) else None


@router.get("/heads/runs")
async def of_runs(request: Request) -> Response:
    """Answer with the runs whose heads are told of, the newest first."""
    query = (
        "SELECT r.run_id, r.kind, r.parents, r.model, r.n_examples, r.created_at FROM runs AS r "
        "WHERE list_contains(r.tables, 'heads') ORDER BY r.created_at DESC, r.run_id"
    )
    return await answer(request, lambda work: rows(work.sql(query), work))


@router.get("/heads")
async def heads(request: Request, run: str, example: str | None = None, seq: int | None = None) -> Response:
    """Answer with a row a head: means over the run's sequences, over those of one example, or what one sequence has."""

    def make(work: Work) -> Response:
        found = _of(work, run)
        if isinstance(found, Response):
            return found
        told_by, where, values = found
        if example is not None:
            where, values = f"{where} AND example_id = ?", [*values, example]
        if seq is not None:
            where, values = f"{where} AND seq = ?", [*values, seq]
        table = work.sql(
            "SELECT any_value(source_run_id) AS run_id, side, layer, head, count(*) AS n, count(DISTINCT example_id) AS n_examples, "
            f"{_MEANS} FROM heads WHERE {where} GROUP BY side, layer, head ORDER BY side, layer, head",
            *values,
        )
        if not len(table) and example is not None:
            known = work.sql("SELECT DISTINCT example_id FROM heads WHERE run_id = ? ORDER BY 1 LIMIT 100", told_by)
            raise NotFoundError("example", example, known["example_id"].to_pylist(), f"(run '{told_by}')")
        return rows(table, work, heads_run=told_by)

    return await answer(request, make)


@router.get("/heads/examples")
async def examples(
    request: Request,
    run: str,
    layer: int,
    head: int,
    metric: str = "entropy",
    side: str = "dec",
    order: str = "high",
    low: float | None = None,
    high: float | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Answer with a row a sequence and its value from `low` to below `high`; the note `distribution` is of all of its run."""

    def make(work: Work) -> Response:
        if metric not in METRICS:
            raise NotFoundError("metric", metric, METRICS)
        if order not in ("high", "low"):
            raise NotFoundError("order", order, ("high", "low"))
        found = _of(work, run)
        if isinstance(found, Response):
            return found
        _, where, values = found
        where, values = f"{where} AND side = ? AND layer = ? AND head = ?", [*values, side, layer, head]
        every = work.sql(f"SELECT {metric} AS value FROM heads WHERE {where}", *values)
        if low is not None:
            where, values = f"{where} AND {metric} >= ?", [*values, low]
        if high is not None:
            where, values = f"{where} AND {metric} < ?", [*values, high]
        total = work.sql(f"SELECT count({metric}) AS n FROM heads WHERE {where}", *values)["n"][0].as_py()
        direction = "DESC" if order == "high" else "ASC"
        table = work.sql(
            "WITH first AS (SELECT source_run_id AS run_id, example_id, seq, side, layer, head, "
            f"{metric} AS value FROM heads WHERE {where} AND {metric} IS NOT NULL "
            f"ORDER BY {metric} {direction}, example_id, seq LIMIT ?) "
            "SELECT f.*, left(coalesce(p.text, e.text), 160) AS text FROM first AS f "
            "LEFT JOIN examples AS e USING (run_id, example_id) LEFT JOIN prompts AS p USING (run_id, example_id, seq) "
            f"ORDER BY f.value {direction}, example_id, seq",
            *values, limit,
        )  # fmt: skip
        rule = f"the {'largest' if order == 'high' else 'smallest'} {metric} first"
        return rows(table, work, total=total, rule=rule, distribution=distribution(every["value"]))

    return await answer(request, make)


def distribution(column: pa.ChunkedArray) -> dict[str, Any]:
    """Count values in at most 40 bins of equal width.

    Args:
        column: Numbers, NULL where there is none.

    Returns:
        `edges` (one more than bins), `counts`, `n`, `missing`, and `mean`, `min` and `max` of what is finite; a value on an edge counts
        above it, the largest in the last bin.
    """
    values = column.cast(pa.float64()).to_numpy()
    known = values[np.isfinite(values)]
    about = {"n": len(known), "missing": len(values) - len(known)}
    if not len(known):
        return about | {"edges": [], "counts": [], "mean": None, "min": None, "max": None}
    bins = min(_BINS, max(1, len(np.unique(known))))
    counts, edges = np.histogram(known, bins=bins)
    told = {"mean": float(known.mean()), "min": float(known.min()), "max": float(known.max())}
    return about | told | {"edges": edges.tolist(), "counts": counts.tolist()}


def _of(work: Work, run: str) -> Response | tuple[str, str, list[Any]]:
    """Return the run that tells of a run's heads, and which of its rows they are; an answer where there is none."""
    work.warehouse.cached_run(run)
    told_by = heads_run(work, run)
    if told_by is None:
        return empty(f"How the heads of run '{run}' attend has not been derived.", f"traces derive heads {run}")
    if told_by == run:
        return told_by, "run_id = ?", [told_by]
    return told_by, "run_id = ? AND source_run_id = ?", [told_by, run]
