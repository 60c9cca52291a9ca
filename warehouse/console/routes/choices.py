"""`/api/choices` and `/api/choice`: the multiple-choice questions of a run, and one of them with its choices and what agreed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.console.answers import answer, empty, rows
from warehouse.console.work import Work
from warehouse.errors import NotFoundError

router = APIRouter()

_ORDERS = {
    "place": "idx",
    "margin": "margin, idx",
    "entropy": "entropy DESC, idx",
    "confidence": "pred_prob DESC, idx",
}
"""How questions can be ordered: as they were read, the closest first, the least sure, the most sure."""
_SHOWN = {"all": "true", "right": "q.is_correct", "wrong": "NOT q.is_correct", "unknown": "q.is_correct IS NULL"}
"""Which questions can be shown."""


@router.get("/choices")
async def choices(
    request: Request,
    run: str,
    show: str = "all",
    order: str = "place",
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Answer with a row a question: its beginning, the choice taken and the right one, how sure it was; `accuracy` of the run."""

    def make(work: Work) -> Response:
        for kind, value, known in (("order", order, _ORDERS), ("part of the questions", show, _SHOWN)):
            if value not in known:
                raise NotFoundError(kind, value, known)
        work.warehouse.cached_run(run)
        accuracy = work.sql(
            "SELECT score, n_questions, n, accuracy, low, high, chance, mean_confidence FROM mcq_accuracy WHERE run_id = ?",
            run,
        )
        if not len(accuracy):
            hint = "traces capture mcq-prompt --model smollm2 --data csqa --run NAME"
            return empty(f"Run '{run}' has no multiple-choice questions.", hint)
        counts = work.sql(
            'SELECT count(*) FILTER (is_correct) AS "right", count(*) FILTER (NOT is_correct) AS wrong, '
            'count(*) FILTER (is_correct IS NULL) AS unknown, count(*) AS "all" FROM mcq_predictions WHERE run_id = ?',
            run,
        ).to_pylist()[0]
        table = work.sql(
            "SELECT e.idx, q.example_id, q.is_correct, q.pred_label, q.label, q.pred_prob, q.label_prob, q.margin, q.top_two_gap, "
            "q.entropy, left(e.text, 300) AS text FROM mcq_predictions AS q "
            "JOIN (SELECT example_id, idx, text FROM examples WHERE run_id = ?) AS e USING (example_id) "
            f"WHERE q.run_id = ? AND {_SHOWN[show]} ORDER BY {_ORDERS[order]} LIMIT ? OFFSET ?",
            run, run, limit, after,
        )  # fmt: skip
        return rows(table, work, total=counts[show], counts=counts, accuracy=accuracy.to_pylist()[0])

    return await answer(request, make)


@router.get("/choice")
async def choice(request: Request, run: str, example: str) -> Response:
    """Answer with a row a choice of a question; `question`, what is known of it, and `others`, what other runs answered."""

    def make(work: Work) -> Response:
        work.warehouse.cached_run(run).check_sequence(example, 0)
        table = work.sql(
            "SELECT choice_idx, label, text, logit, logprob, logprob_per_byte, prob, is_label, is_pred FROM choices "
            "WHERE run_id = ? AND example_id = ? ORDER BY choice_idx",
            run, example,
        )  # fmt: skip
        if not len(table):
            hint = "traces capture mcq-prompt --model smollm2 --data csqa --run NAME"
            return empty(f"Run '{run}' has no multiple-choice question '{example}'.", hint)
        question = work.sql(
            "SELECT q.*, e.text, r.kind, (SELECT text FROM prompts WHERE run_id = ? AND example_id = ? AND seq = 0) AS prompt "
            "FROM mcq_predictions AS q JOIN examples AS e USING (run_id, example_id) JOIN runs AS r USING (run_id) "
            "WHERE q.run_id = ? AND q.example_id = ?",
            run, example, run, example,
        )  # fmt: skip
        others = work.sql(
            "SELECT q.run_id, r.kind, r.model, q.score, q.pred_idx, q.pred_label, q.pred_prob, q.is_correct FROM mcq_predictions AS q "
            "JOIN runs AS r USING (run_id) WHERE q.example_id = ? AND q.run_id <> ? ORDER BY r.created_at, q.run_id LIMIT 100",
            example, run,
        )  # fmt: skip
        return rows(table, work, question=question.to_pylist()[0], others=others.to_pylist())

    return await answer(request, make)
