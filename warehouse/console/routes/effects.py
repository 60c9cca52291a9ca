"""`/api/effects…`: what was done to the model on a task's pairs, and what came of it; `/api/patching` has it by position.

In: an ablation or patching run. Out: the mean effect of each intervention, beside how its head attends, or its effect on each pair. An
effect is the metric with the intervention less the metric without. Notes: `metrics`, the one that is `shown`, and `heads_run`, which
tells how heads attend, or the `hint` that makes it.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.console.answers import answer, empty, rows
from warehouse.console.routes.heads import heads_run
from warehouse.console.work import Work
from warehouse.errors import NotFoundError

router = APIRouter()


class Shown(NamedTuple):
    """Which of a run's effects are shown."""

    source: str
    """The task's run."""
    metric: str
    metrics: list[str]
    """All that were taken, the task's own first."""


_RUNS = """
WITH done AS (
    SELECT run_id, list(DISTINCT kind ORDER BY kind) AS kinds, list(DISTINCT site ORDER BY site) AS sites, count(*) AS n_interventions,
        bool_or(coalesce(pos >= 0, FALSE)) AS by_position, bool_or(head IS NOT NULL) AS by_head
    FROM interventions GROUP BY run_id
), tasks AS (SELECT run_id, any_value(task) AS task FROM task_pairs GROUP BY run_id)
SELECT r.run_id, r.kind, r.parents[1] AS source_run_id, t.task, d.kinds, d.sites, d.by_position, d.by_head, d.n_interventions,
    r.n_examples, r.model, r.created_at
FROM runs AS r LEFT JOIN done AS d ON d.run_id = r.run_id LEFT JOIN tasks AS t ON t.run_id = r.parents[1]
WHERE list_contains(r.tables, 'effects') OR list_contains(r.tables, 'influence_targets')
ORDER BY r.created_at DESC, r.run_id"""

_EFFECTS = """
WITH ran AS (SELECT DISTINCT example_id, seq FROM effects WHERE run_id = ?),
attention AS (
    SELECT h.seq, h.side, h.layer, h.head, avg(h.induction_mass) AS induction_mass, avg(h.previous_token_mass) AS previous_token_mass,
        avg(h.first_token_mass) AS first_token_mass, avg(h.entropy) AS entropy
    FROM heads AS h SEMI JOIN ran ON ran.example_id = h.example_id AND ran.seq = h.seq
    WHERE h.run_id = ? AND h.source_run_id = ? GROUP BY h.seq, h.side, h.layer, h.head
)
SELECT e.run_id, e.source_run_id, e.intervention_id, e.spec, e.side, e.site, e.layer, e.head, e.pos AS at, e.kind, e.direction, e.seq,
    e.metric, e.n, e.effect, e.effect_low, e.effect_high, e.effect_normalised, e.baseline, e.value,
    a.induction_mass, a.previous_token_mass, a.first_token_mass, a.entropy
FROM effect_means AS e LEFT JOIN attention AS a
    ON e.site = 'heads' AND a.seq = e.seq AND a.side = e.side AND a.layer = e.layer AND a.head = e.head
WHERE e.run_id = ? AND e.metric = ? AND (e.pos IS NULL OR e.pos < 0)
ORDER BY abs(e.effect) DESC, e.intervention_id"""

_EXAMPLES = """
SELECT e.source_run_id AS run_id, e.example_id, e.seq, i.side, i.layer, i.head, i.pos AS at, i.kind, i.spec, e.effect,
    e.effect_normalised, e.baseline, e.value, p.template, x.text
FROM effects AS e JOIN interventions AS i ON i.run_id = e.run_id AND i.intervention_id = e.intervention_id
LEFT JOIN task_pairs AS p ON p.run_id = e.source_run_id AND p.example_id = e.example_id AND p.seq = e.seq
LEFT JOIN prompts AS x ON x.run_id = e.source_run_id AND x.example_id = e.example_id AND x.seq = e.seq
WHERE e.run_id = ? AND e.intervention_id = ? AND e.metric = ?
ORDER BY abs(e.effect) DESC, e.example_id LIMIT ?"""


@router.get("/effects/runs")
async def runs(request: Request) -> Response:
    """Answer with the runs that tell of causes, the newest first: ablations, patchings, and what influences a prediction."""
    return await answer(request, lambda work: rows(work.sql(_RUNS), work))


@router.get("/effects")
async def effects(request: Request, run: str, metric: str | None = None) -> Response:
    """Answer with a row an intervention at all positions or the last: its mean effect, and how its head attends there."""

    def make(work: Work) -> Response:
        shown = shown_of(work, run, metric)
        if isinstance(shown, Response):
            return shown
        told_by = heads_run(work, shown.source)
        table = work.sql(_EFFECTS, run, told_by, shown.source, run, shown.metric)
        hint = None if told_by else f"traces derive heads {shown.source}"
        return rows(table, work, metrics=shown.metrics, shown=shown.metric, heads_run=told_by, hint=hint)

    return await answer(request, make)


@router.get("/effects/examples")
async def examples(
    request: Request,
    run: str,
    intervention: int,
    metric: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Answer with a row a pair: what one intervention did to it, the largest effect first; `run_id` is the run with its prompts."""

    def make(work: Work) -> Response:
        shown = shown_of(work, run, metric)
        if isinstance(shown, Response):
            return shown
        table = work.sql(_EXAMPLES, run, intervention, shown.metric, limit)
        count = "SELECT count(*) AS n FROM effects WHERE run_id = ? AND intervention_id = ? AND metric = ?"
        total = work.sql(count, run, intervention, shown.metric)["n"][0].as_py()
        return rows(table, work, total=total, rule="the largest effects first", shown=shown.metric)

    return await answer(request, make)


def shown_of(work: Work, run: str, metric: str | None) -> Shown | Response:
    """Return which of a run's effects are shown: by its task's own metric where none is asked for.

    Args:
        work: The work of a request.
        run: An ablation or patching run.
        metric: A metric, or None.

    Returns:
        What is shown; an answer where the run has no effects.

    Raises:
        NotFoundError: There is no such run, or its effects were not measured by this metric.
    """
    work.warehouse.cached_run(run)
    found = work.sql(
        "SELECT e.metric, any_value(e.source_run_id) AS source, bool_or(coalesce(s.is_default, FALSE)) AS own FROM effects AS e "
        "LEFT JOIN (SELECT DISTINCT run_id, metric, is_default FROM task_scores) AS s ON s.run_id = e.source_run_id AND s.metric = e.metric "
        "WHERE e.run_id = ? GROUP BY e.metric ORDER BY own DESC, e.metric",
        run,
    ).to_pylist()
    if not found:
        return empty(
            f"Run '{run}' has no effects of interventions. A task's run gets them by ablating its heads.",
            f"traces ablate {run}",
        )
    metrics = [row["metric"] for row in found]
    if metric is not None and metric not in metrics:
        raise NotFoundError("metric", metric, metrics)
    return Shown(found[0]["source"], metric or metrics[0], metrics)
