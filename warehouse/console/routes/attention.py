"""`/api/attn`, `/api/attn/row`, `/api/attn/layer`: a head's attention as a picture, one token's exactly, a layer's heads small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.console.answers import answer, empty, tile
from warehouse.console.work import Work
from warehouse.errors import UsageError
from warehouse.storage.attention_matrix import AttentionMatrix, AttentionTile
from warehouse.storage.trace_store import TraceStore

router = APIRouter()

Kind = Literal["self", "cross"]
Size = Annotated[int, Query(ge=1, le=4096)]
Number = Annotated[int, Query(ge=0)]


@router.get("/attn")
async def attention(
    request: Request,
    run: str,
    example: str,
    layer: int,
    head: int,
    seq: int = 0,
    side: str = "",
    kind: Kind = "self",
    row0: Number = 0,
    row1: int | None = None,
    col0: Number = 0,
    col1: int | None = None,
    size: Size = 512,
) -> Response:
    """Answer with a part of a head's attention as bytes, max-pooled to `size`: a row looks at columns; (byte/255)² · scale."""

    def make(work: Work) -> Response:
        with _opened(work, run) as store:
            if (nothing := _nothing(store, run, kind)) is not None:
                return nothing
            matrix = _matrix(work, store, example, layer, head, seq, side, kind)
            rows, cols = _part(matrix, -2, row0, row1), _part(matrix, -1, col0, col1)
            return _picture(matrix, matrix.pooled(size, rows, cols))

    return await answer(request, make)


@router.get("/attn/layer")
async def layer_of_heads(
    request: Request,
    run: str,
    example: str,
    layer: int,
    seq: int = 0,
    side: str = "",
    kind: Kind = "self",
    size: Size = 32,
) -> Response:
    """Answer with a small picture of each head of a layer, each on its own scale."""

    def make(work: Work) -> Response:
        with _opened(work, run) as store:
            if (nothing := _nothing(store, run, kind)) is not None:
                return nothing
            matrix = _matrix(work, store, example, layer, None, seq, side, kind)
            return _picture(matrix, matrix.pooled(size))

    return await answer(request, make)


@router.get("/attn/row")
async def one_token(
    request: Request,
    run: str,
    example: str,
    layer: int,
    pos: Number,
    head: int | None = None,
    seq: int = 0,
    side: str = "",
    kind: Kind = "self",
    direction: Literal["from", "to"] = "from",
) -> Response:
    """Answer with what a token looks at, exactly, float32 (S,), or (H, S) of all heads; `to`: with who looks at it, (T,)."""

    def make(work: Work) -> Response:
        axis, one = -2 if direction == "from" else -1, range(pos, pos + 1)
        with _opened(work, run) as store:
            if (nothing := _nothing(store, run, kind)) is not None:
                return nothing
            matrix = _matrix(work, store, example, layer, head, seq, side, kind)
            if pos >= matrix.shape[axis]:
                raise UsageError(f"pos {pos}: the sequence has positions 0 to {matrix.shape[axis] - 1} there.")
            values = matrix.tile(rows=one) if direction == "from" else matrix.tile(cols=one)
        return tile(np.ascontiguousarray(values.squeeze(axis)), pos=pos, direction=direction, layer=layer, head=head)

    return await answer(request, make)


@contextmanager
def _opened(work: Work, run: str) -> Iterator[TraceStore]:
    """Open a run, and give back the memory of what is read of it: the server does not grow with every example that is looked at."""
    store = work.warehouse.cached_run(run)
    try:
        yield store
    finally:
        store.release_pages()


def _nothing(store: TraceStore, run: str, kind: str) -> Response | None:
    """Answer for a run without attention, saying how to have it; None where it has some."""
    if ("attn" if kind == "self" else "cross.attn") in store.sites:
        return None
    model, data = store.meta.model.name, store.meta.data.dataset
    return empty(
        f"Run '{run}' has no {'' if kind == 'self' else 'cross '}attention: it stored neither q and k nor attn.",
        f"traces capture next-token --model {model} --data {data} --capture hidden,qkv --run {run}-qkv",
    )


def _matrix(
    work: Work, store: TraceStore, example: str, layer: int, head: int | None, seq: int, side: str, kind: str
) -> AttentionMatrix:
    """Return attention that stops being read where the request is dropped."""
    matrix = store.attn_matrix(example, layer, head, seq=seq, side=side or None, kind=kind)

    def read(some: range) -> np.ndarray:
        work.check()
        return matrix.read(some)

    return replace(matrix, read=read)


def _part(matrix: AttentionMatrix, axis: int, first: int, last: int | None) -> range:
    """Return which rows or columns are asked for: to the end where no end is said, or one beyond it."""
    n = matrix.shape[axis]
    return range(min(first, n), n if last is None else max(min(first, n), min(last, n)))


def _picture(matrix: AttentionMatrix, picture: AttentionTile) -> Response:
    """Answer with a picture and what its bytes mean."""
    return tile(
        picture.values,
        rows=[picture.rows.start, picture.rows.stop],
        cols=[picture.cols.start, picture.cols.stop],
        scale=picture.scale.tolist(),
        transform="sqrt",
        n_tokens=matrix.shape[-2],
        n_sources=matrix.shape[-1],
        pooled=list(picture.cell),
    )
