"""`/api/patching`: the effect of interventions at single positions: in which layer, at which token something is carried.

In: a run that patched position by position. Out: a row a place: its mean effect over all pairs, over those of a template (whose
positions mean the same), or on one pair. `token` stands there in all of these prompts, `other_token` in the pairs' other prompts; NULL:
several do.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from warehouse.console.answers import answer, empty, rows
from warehouse.console.routes.effects import shown_of
from warehouse.console.work import Work

router = APIRouter()

_PLACES = """
WITH chosen AS (
    SELECT e.source_run_id, e.intervention_id, e.example_id, e.seq, e.effect, e.effect_normalised, e.baseline, e.value, i.spec, i.side,
        i.site, i.layer, i.head, i.kind, i.direction, i.pos, s.clean - s.corrupted AS gap
    FROM effects AS e JOIN interventions AS i ON i.run_id = e.run_id AND i.intervention_id = e.intervention_id
    LEFT JOIN task_pairs AS p ON p.run_id = e.source_run_id AND p.example_id = e.example_id AND p.seq = e.seq
    LEFT JOIN task_scores AS s ON s.run_id = e.source_run_id AND s.example_id = e.example_id AND s.metric = e.metric
    WHERE e.run_id = ? AND e.metric = ? AND i.pos >= 0 {narrowed}
), places AS (SELECT DISTINCT example_id, seq, side, pos FROM chosen),
named AS (
    SELECT c.side, c.pos, any_value(t.token) AS token, any_value(o.token) AS other_token, count(DISTINCT t.token) AS n_tokens,
        count(DISTINCT o.token) AS n_others
    FROM places AS c
    JOIN tokens AS t ON t.run_id = ? AND t.example_id = c.example_id AND t.seq = c.seq AND t.side = c.side AND t.pos = c.pos
    LEFT JOIN tokens AS o ON o.run_id = ? AND o.example_id = c.example_id AND o.seq = 1 - c.seq AND o.side = c.side AND o.pos = c.pos
    GROUP BY c.side, c.pos
)
SELECT c.source_run_id AS run_id, c.intervention_id, any_value(c.spec) AS spec, c.side, c.site, c.layer, c.head, c.pos, c.kind,
    c.direction, any_value(c.seq) AS seq, CASE WHEN max(n.n_tokens) = 1 THEN any_value(n.token) END AS token,
    CASE WHEN max(n.n_others) = 1 THEN any_value(n.other_token) END AS other_token, count(*) AS n, avg(c.effect) AS effect,
    sum(c.effect) FILTER (c.effect_normalised IS NOT NULL) / nullif(sum(c.gap) FILTER (c.effect_normalised IS NOT NULL), 0)
        AS effect_normalised, avg(c.baseline) AS baseline, avg(c.value) AS value
FROM chosen AS c LEFT JOIN named AS n ON n.side = c.side AND n.pos = c.pos
GROUP BY c.source_run_id, c.intervention_id, c.side, c.site, c.layer, c.head, c.pos, c.kind, c.direction
ORDER BY c.side, c.site, c.kind, c.direction, c.layer NULLS FIRST, c.head NULLS FIRST, c.pos"""

_PAIRS = """
SELECT p.example_id, p.seq, p.template, p.n_tokens, p.first_changed, x.text
FROM (SELECT DISTINCT example_id, seq FROM effects WHERE run_id = ?) AS e
JOIN task_pairs AS p ON p.run_id = ? AND p.example_id = e.example_id AND p.seq = e.seq
LEFT JOIN prompts AS x ON x.run_id = ? AND x.example_id = e.example_id AND x.seq = e.seq
ORDER BY p.template, p.example_id"""


@router.get("/patching")
async def patching(
    request: Request, run: str, metric: str | None = None, template: str | None = None, example: str | None = None
) -> Response:
    """Answer with a row an intervention at a position: the mean over the `n` pairs that are long enough."""

    def make(work: Work) -> Response:
        shown = shown_of(work, run, metric)
        if isinstance(shown, Response):
            return shown
        narrowed, values = "", []
        for column, value in (("p.template", template), ("e.example_id", example)):
            if value is not None:
                narrowed += f" AND {column} = ?"
                values.append(value)
        query = _PLACES.format(narrowed=narrowed)
        table = work.sql(query, run, shown.metric, *values, shown.source, shown.source)
        if not len(table) and not values:
            return empty(f"Run '{run}' did nothing at single positions.", f"traces patch {shown.source}")
        return rows(table, work, metrics=shown.metrics, shown=shown.metric)

    return await answer(request, make)


@router.get("/patching/pairs")
async def pairs(request: Request, run: str) -> Response:
    """Answer with a row a pair that a run did something to: the prompt that ran, its template, and where the two prompts differ first."""

    def make(work: Work) -> Response:
        shown = shown_of(work, run, None)
        if isinstance(shown, Response):
            return shown
        return rows(work.sql(_PAIRS, run, shown.source, shown.source), work)

    return await answer(request, make)
