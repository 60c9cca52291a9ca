"""`/api/influence…`: what made a prediction: the source tokens with their influence, and the heads that carry it.

In: an influence run, or the run that it explains. Out: rows of the views and tables that it has; their `run_id` is the run with the text,
so that they select its tokens. Heads that carry `logit` read at the explained position; those of `ifr` at any, as paths have several
steps.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.console.answers import answer, empty, rows
from warehouse.console.work import Work
from warehouse.errors import NotFoundError

router = APIRouter()

_TARGETS = """
SELECT t.source_run_id AS run_id, t.example_id, t.seq, t.pos, t.target_token, t.against_token, t.logit, t.parts_sum, t.quantity,
    coalesce(x.text, e.text) AS text
FROM influence_targets AS t
LEFT JOIN examples AS e ON e.run_id = t.source_run_id AND e.example_id = t.example_id
LEFT JOIN prompts AS x ON x.run_id = t.source_run_id AND x.example_id = t.example_id AND x.seq = t.seq
WHERE t.run_id = ? ORDER BY t.example_id, t.seq, t.pos LIMIT ?"""

_SOURCES = """
WITH said AS (
    SELECT source_pos, measure, value FROM influence WHERE run_id = ? AND source_run_id = ? AND example_id = ? AND seq = ? AND pos = ?
    UNION ALL
    SELECT source_pos, 'logit', logit FROM logit_parts
    WHERE run_id = ? AND source_run_id = ? AND example_id = ? AND seq = ? AND pos = ? AND source_pos IS NOT NULL
), told AS (
    SELECT source_pos AS pos, sum(value) FILTER (measure = 'logit') AS logit, sum(value) FILTER (measure = 'ifr') AS ifr,
        sum(value) FILTER (measure = 'value-norm') AS value_norm, sum(value) FILTER (measure = 'occlusion') AS occlusion
    FROM said GROUP BY source_pos
)
SELECT t.run_id, t.example_id, t.seq, t.side, t.pos, t.token_id, t.token, s.logit, s.ifr, s.value_norm, s.occlusion
FROM tokens AS t LEFT JOIN told AS s ON s.pos = t.pos
WHERE t.run_id = ? AND t.example_id = ? AND t.seq = ? AND t.side = 'dec' ORDER BY t.pos"""

_LOGIT_HEADS = """
SELECT p.source_run_id AS run_id, p.example_id, p.seq, 'dec' AS side, p.pos, p.part, p.layer, p.head, sum(p.logit) AS value
FROM logit_parts AS p
WHERE p.run_id = ? AND p.source_run_id = ? AND p.example_id = ? AND p.seq = ? AND p.pos = ? AND p.part IN ({parts}) {narrowed}
GROUP BY ALL ORDER BY abs(sum(p.logit)) DESC, p.layer, p.head"""

_FLOW_HEADS = """
SELECT e.source_run_id AS run_id, e.example_id, e.seq, 'dec' AS side, e.pos, 'head' AS part, e.layer, e.head, e.source_pos, e.share,
    e.flow AS value, t.token, s.token AS source_token
FROM token_edges AS e
LEFT JOIN tokens AS t ON t.run_id = e.source_run_id AND t.example_id = e.example_id AND t.seq = e.seq AND t.side = 'dec' AND t.pos = e.pos
LEFT JOIN tokens AS s
    ON s.run_id = e.source_run_id AND s.example_id = e.example_id AND s.seq = e.seq AND s.side = 'dec' AND s.pos = e.source_pos
WHERE e.run_id = ? AND e.source_run_id = ? AND e.example_id = ? AND e.seq = ? AND e.target_pos = ? AND e.head IS NOT NULL {narrowed}
ORDER BY e.flow DESC, e.layer, e.head, e.pos, e.source_pos"""


class Target(NamedTuple):
    """A prediction that is explained."""

    run: str
    """The influence run."""
    source: str
    """The run with the text."""
    example: str
    seq: int
    facts: dict[str, Any]
    """Its row of the table `influence_targets`."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What the tables know it by."""
        return self.run, self.source, self.example, self.seq, self.facts["pos"]


@router.get("/influence/targets")
async def targets(request: Request, run: str, limit: Annotated[int, Query(ge=1, le=1000)] = 500) -> Response:
    """Answer with a row a prediction that is explained. Notes: `influence_run`, `measures`, `total`."""

    def make(work: Work) -> Response:
        found = influence_run(work, run)
        if found is None:
            return _none(run)
        total = work.sql("SELECT count(*) AS n FROM influence_targets WHERE run_id = ?", found)["n"][0].as_py()
        measures = work.sql("SELECT DISTINCT measure FROM influence WHERE run_id = ? ORDER BY measure", found)
        table = work.sql(_TARGETS, found, limit)
        taken = ["logit", *measures["measure"].to_pylist()]
        return rows(table, work, influence_run=found, measures=taken, total=total, rule="by example and position")

    return await answer(request, make)


@router.get("/influence")
async def influence(request: Request, run: str, example: str, seq: int = 0, pos: int | None = None) -> Response:
    """Answer with a row a token of the text: its influence on one prediction, by every measure. Notes: `influence_run`, `target`."""

    def make(work: Work) -> Response:
        found = _target(work, run, example, seq, pos)
        if isinstance(found, Response):
            return found
        table = work.sql(_SOURCES, *found.key, *found.key, found.source, found.example, found.seq)
        return rows(table, work, influence_run=found.run, target=found.facts)

    return await answer(request, make)


@router.get("/influence/heads")
async def heads(
    request: Request,
    run: str,
    example: str,
    seq: int = 0,
    pos: int | None = None,
    source: int | None = None,
    measure: str = "logit",
    limit: Annotated[int, Query(ge=1, le=2000)] = 1000,
) -> Response:
    """Answer with a row a head that carries influence from `source`, or from all tokens, to the position `pos` of the row."""

    def make(work: Work) -> Response:
        if measure not in ("logit", "ifr"):
            raise NotFoundError("measure", measure, ("logit", "ifr"))
        found = _target(work, run, example, seq, pos)
        if isinstance(found, Response):
            return found
        narrowed, values = ("", []) if source is None else ("AND source_pos = ?", [source])
        parts = "'head', 'attn'" if source is not None else "'head', 'attn', 'mlp'"
        query = _FLOW_HEADS if measure == "ifr" else _LOGIT_HEADS
        table = work.sql(query.format(narrowed=narrowed, parts=parts), *found.key, *values)
        rule = "the largest first" + ("; edges of small flow were not stored" if measure == "ifr" else "")
        return rows(table[:limit], work, total=len(table), rule=rule, influence_run=found.run, target=found.facts)

    return await answer(request, make)


def influence_run(work: Work, run: str) -> str | None:
    """Return the influence run that is meant: the run itself, or the newest that explains it."""
    work.warehouse.cached_run(run)
    found = work.sql(
        "SELECT run_id FROM runs WHERE list_contains(tables, 'influence_targets') AND (run_id = ? OR parents[1] = ?) "
        "ORDER BY run_id = ? DESC, created_at DESC, run_id DESC LIMIT 1",
        run, run, run,
    )  # fmt: skip
    return found["run_id"][0].as_py() if len(found) else None


def _target(work: Work, run: str, example: str, seq: int, pos: int | None) -> Target | Response:
    """Return the explained prediction that is meant: of several of a text the last.

    Raises:
        NotFoundError: No prediction of this text, or none at this position, is explained.
    """
    found = influence_run(work, run)
    if found is None:
        return _none(run)
    known = work.sql(
        "SELECT * EXCLUDE (run_id) FROM influence_targets WHERE run_id = ? AND example_id = ? AND seq = ? ORDER BY pos DESC",
        found, example, seq,
    ).to_pylist()  # fmt: skip
    chosen = [facts for facts in known if pos is None or facts["pos"] == pos]
    if not known:
        ids = work.sql("SELECT DISTINCT example_id FROM influence_targets WHERE run_id = ? ORDER BY 1 LIMIT 100", found)
        raise NotFoundError("explained example", example, ids["example_id"].to_pylist(), f"(run '{found}', seq {seq})")
    if not chosen:
        raise NotFoundError("explained position", pos, [facts["pos"] for facts in known], f"(run '{found}')")
    return Target(found, chosen[0]["source_run_id"], example, seq, chosen[0])


def _none(run: str) -> Response:
    return empty(f"No prediction of run '{run}' has been explained.", f"traces influence {run} --measure logit,ifr")
