"""`/api/state` and `/api/events`: what there is to ask about, and word of what comes and goes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from warehouse.console.answers import answer, as_json
from warehouse.console.events import changes
from warehouse.console.schema_info import queries, schema
from warehouse.console.work import Work

router = APIRouter()


@router.get("/state")
async def state(request: Request) -> Response:
    """Answer with the schema for completion, the saved queries, and what is running here."""

    def make(work: Work) -> Response:
        wh = work.warehouse
        model = request.app.state.model
        return as_json({
            "root": str(wh.root),
            "version": wh.version(),
            "live": {"model": model} if model else None,
            "schema": wh.attempt(lambda: schema(wh.cursor())),
            "queries": queries(),
        })  # fmt: skip

    return await answer(request, make)


@router.get("/events")
async def events(request: Request) -> Response:
    """Answer with server-sent events, until the page or the server goes."""
    state = request.app.state
    stream = changes(request, state.warehouse, state.stopping)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
