"""`/api/nearest`: the tokens of all runs whose vectors are nearest to a token's, in their texts and without itself."""

from __future__ import annotations

import contextlib
from typing import Annotated

import duckdb
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.console.answers import answer, empty, rows
from warehouse.console.sql.door import check_condition
from warehouse.console.work import Work
from warehouse.errors import TracesError, UsageError, first_line
from warehouse.storage.model_info import ModelInfo
from warehouse.vectors import token_query
from warehouse.vectors.model_folders import find_folder
from warehouse.vectors.near_tokens import near_tokens
from warehouse.vectors.table import VectorTable
from warehouse.warehouse import Warehouse

router = APIRouter()


@router.get("/nearest")
async def nearest(
    request: Request,
    run: str,
    example: str,
    pos: int,
    seq: int = 0,
    site: str = "resid.post_mlp",
    layer: int | None = None,
    head: int | None = None,
    k: Annotated[int, Query(ge=1, le=200)] = 20,
    where: str = "",
) -> Response:
    """Answer with a row a token, the nearest first: its distance, its keys, and what stands around it."""

    def make(work: Work) -> Response:
        wh = work.warehouse
        store = wh.cached_run(run)
        tables = _tables_of(wh, store.meta.model)
        if not any(t.info.site == site and layer in (None, t.info.layer) for t in tables):
            of = f"{site} in layer {layer}" if layer is not None else site
            hint = f"traces index add {run} --site {site} --layers {'mid' if layer is None else layer}"
            return empty(f"There is no vector table of {of}.", hint)
        query = token_query.for_token(
            wh, wh.vectors, run, example, seq, pos, site, None if layer is None else [layer], head
        )
        found = token_query.nearest(wh, query, k, _checked(where), "cosine", exact=False)
        work.check()
        table = near_tokens(work.sql, wh, found)
        return rows(
            table,
            work,
            table=[t.info.sql_name for t, _ in query.vectors],
            search=sorted(set(table["search"].to_pylist())),
            tables=[_told(t) for t in tables],
            k=k,
        )

    return await answer(request, make)


def warm_up(warehouse: Warehouse) -> None:
    """Open the vector tables, so that the first search takes no longer than the others; a damaged one is left to be told later."""
    for table in warehouse.vectors.all():
        with contextlib.suppress(TracesError):
            table.lance.count_rows()


def _checked(where: str) -> str | None:
    """Return a condition that has been through the door, or None for an empty one.

    Raises:
        UsageError: It is refused.
    """
    if not where.strip():
        return None
    try:
        with duckdb.connect() as con:
            check_condition(con, where)
    except duckdb.Error as e:
        raise UsageError(f"The condition is not SQL: {first_line(e)}") from None
    return where


def _tables_of(warehouse: Warehouse, model: ModelInfo) -> list[VectorTable]:
    """Return the vector tables of a model."""
    folder = find_folder(warehouse.root, model)
    return [t for t in warehouse.vectors.readable() if t.info.model == folder]


def _told(table: VectorTable) -> dict[str, object]:
    """Return what the page offers of a table."""
    info = table.info
    return {
        "name": info.sql_name, "site": info.site, "side": info.side, "layer": info.layer, "rows": info.rows,
        "heads": info.query_heads if info.head_column else None,
    }  # fmt: skip
