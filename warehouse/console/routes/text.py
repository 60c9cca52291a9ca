"""`/api/sequences`, `/api/strip`, `/api/scores`, `/api/lens`, `/api/traits`: a sequence's tokens, and what is known of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.analysis.lens_matrix import lens_matrix
from warehouse.analysis.token_strip import sequence_text, token_strip
from warehouse.analysis.token_strip import sequences as sequences_of
from warehouse.analysis.trait_tokens import trait_tokens
from warehouse.console.answers import answer, empty, rows
from warehouse.console.work import Work

router = APIRouter()


@router.get("/sequences")
async def sequences(request: Request, run: str, example: str) -> Response:
    """Answer with a row a sequence of an example and side: its tokens, its text where that is not the example's, its mean loss."""

    def make(work: Work) -> Response:
        return rows(sequences_of(work.sql, work.warehouse.cached_run(run), example), work)

    return await answer(request, make)


@router.get("/strip")
async def strip(request: Request, run: str, example: str, seq: int = 0, side: str = "") -> Response:
    """Answer with a row a token: how well it was foreseen, and what is foreseen after it; `text` is what its offsets count in."""

    def make(work: Work) -> Response:
        store = work.warehouse.cached_run(run)
        table = token_strip(work.sql, store, example, seq, side)
        text = sequence_text(work.sql, store, example, seq, side)
        return rows(table, work, text=text, n_tokens=len(table), side=store.check_side(side or None))

    return await answer(request, make)


@router.get("/scores")
async def scores(request: Request, run: str, example: str, seq: int = 0) -> Response:
    """Answer with a row a score that an evaluation gave the sequence; none where it was not evaluated."""

    def make(work: Work) -> Response:
        work.warehouse.cached_run(run).check_sequence(example, seq)
        table = work.sql(
            "SELECT scorer, metric, score, value, is_correct, target, answer, explanation, answered_by FROM scored_sequences "
            "WHERE run_id = ? AND example_id = ? AND seq = ? ORDER BY scorer, metric",
            run, example, seq,
        )  # fmt: skip
        return rows(table, work)

    return await answer(request, make)


@router.get("/lens")
async def lens(
    request: Request, run: str, example: str, seq: int = 0, top: Annotated[int, Query(ge=1, le=100)] = 5
) -> Response:
    """Answer with a row a layer and position: what the layer would have said after the token, its `top` tokens by name."""

    def make(work: Work) -> Response:
        store = work.warehouse.cached_run(run)
        found = lens_matrix(work.sql, run, example, seq, top)
        if found is None:
            if store.meta.kind != "lens":
                store.check_sequence(example, seq)
            return empty(f"Run '{run}' has no logit lens of this sequence.", f"traces lens {run}")
        return rows(found.rows, work, lens_run=found.lens_run, layers=found.layers)

    return await answer(request, make)


@router.get("/traits")
async def traits(request: Request, run: str, example: str, seq: int = 0) -> Response:
    """Answer with a row a trait's vector and token; `dynamics` says where the response commits itself and where it peaks."""

    def make(work: Work) -> Response:
        work.warehouse.cached_run(run).check_sequence(example, seq)
        found = trait_tokens(work.sql, run, example, seq)
        if found is None or not len(found.tokens) + len(found.dynamics):
            message = f"Run '{run}' has no projection of this sequence on a trait's vector."
            return empty(message, f"traces trait project {run} --traits NAME")
        return rows(found.tokens, work, dynamics=found.dynamics.to_pylist())

    return await answer(request, make)
