"""`/api/diff…`: where two runs differ on the same texts, by example, and token by token or by span; which runs a run can be compared with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.analysis.run_diff import ORDERS, compared_examples, compared_sequence
from warehouse.console.answers import answer, empty, rows
from warehouse.console.work import Work
from warehouse.errors import NotFoundError

router = APIRouter()


@router.get("/diff")
async def diff(
    request: Request,
    a: str,
    b: str,
    order: str = "difference",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Answer with a row an example that both runs have: the mean loss of each, bits a byte, and their differences."""

    def make(work: Work) -> Response:
        if order not in ORDERS:
            raise NotFoundError("order", order, ORDERS)
        about = [_about(work, run) for run in (a, b)]
        silent = next((one for one in about if not one["has_predictions"]), None)
        if silent is not None:
            hint = f"traces capture next-token --model {silent['model']} --text FILE --run NAME"
            return empty(f"Run '{silent['run_id']}' has no next-token predictions.", hint)
        found = compared_examples(work.sql, a, b, order, limit)
        if not found.total:
            return _nothing_in_common(*about)
        notes: dict[str, Any] = {"total": found.total, "all_same": found.all_same, "a": about[0], "b": about[1]}
        if found.total > len(found.rows):
            notes["rule"] = f"the first {limit:,} by {order}"
        return rows(found.rows, work, **notes)

    return await answer(request, make)


@router.get("/diff/partners")
async def partners(request: Request, run: str) -> Response:
    """Answer with a row a run that has predictions of examples that a run has too: how many they share, the most first."""

    def make(work: Work) -> Response:
        _about(work, run)
        table = work.sql(
            "SELECT r.run_id, r.model, r.dtype, r.dataset, count(*) AS shared, r.n_examples FROM examples AS e "
            "JOIN runs AS r ON r.run_id = e.run_id AND list_contains(r.tables, 'next_token') "
            "WHERE e.run_id <> ? AND e.example_id IN (SELECT example_id FROM examples WHERE run_id = ?) "
            "GROUP BY r.run_id, r.model, r.dtype, r.dataset, r.n_examples, r.created_at ORDER BY shared DESC, r.created_at DESC",
            run, run,
        )  # fmt: skip
        return rows(table, work)

    return await answer(request, make)


@router.get("/diff/strip")
async def strip(request: Request, a: str, b: str, example: str, seq: int = 0) -> Response:
    """Answer with a row a segment of one text, a token or the smallest span that both share; `kl` is of a comparison of the two."""

    def make(work: Work) -> Response:
        found = compared_sequence(work.sql, work.warehouse.cached_run(a), work.warehouse.cached_run(b), example, seq)
        alignment = found.alignment
        notes = {"by": alignment.by, "common_chars": alignment.common_chars, "outside": found.outside}
        return rows(found.rows, work, comparison=found.comparison, **notes)

    return await answer(request, make)


def _about(work: Work, run: str) -> dict[str, Any]:
    """Return what a reader of a comparison needs to know of a run."""
    work.warehouse.cached_run(run)
    return work.sql(
        "SELECT run_id, model, dtype, dataset, split, n_examples, bits_per_byte, perplexity, "
        "list_contains(tables, 'next_token') AS has_predictions FROM runs WHERE run_id = ?", run,
    ).to_pylist()[0]  # fmt: skip


def _nothing_in_common(a: dict[str, Any], b: dict[str, Any]) -> Response:
    """Answer that two runs read other texts, with the command that has the second one's model read the first one's."""
    data = f"--data {a['dataset']} --split {a['split']}" if a["split"] else "--text FILE"
    return empty(
        f"'{a['run_id']}' read {_data(a)} and '{b['run_id']}' {_data(b)}: they have no example in common.",
        f"traces capture next-token --model {b['model']} {data} --run NAME",
    )


def _data(run: dict[str, Any]) -> str:
    named = f"{run['dataset']} ({run['split']})" if run["split"] else run["dataset"]
    return f"{run['n_examples']:,} examples of {named}"
