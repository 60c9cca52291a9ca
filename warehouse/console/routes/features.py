"""`/api/features…`: the dictionaries that runs were encoded with, their features, where one is active, and which are active at a token.

In: a run that was encoded, or a run of features, and the dictionary where there are several. Out: rows. What is asked of one feature or of one
token is read by its key; counts of all features, and pairs of them, are SQL over all of their rows.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.analysis.feature_contexts import (
    EncodedRun,
    FeatureTokens,
    features_of_token,
    find_encoded,
    find_feature,
    top_contexts,
)
from warehouse.console.answers import answer, empty, rows
from warehouse.console.routes.heads import distribution
from warehouse.console.work import Work
from warehouse.errors import NotFoundError
from warehouse.schema.quoting import sql_text

router = APIRouter()

_ORDERS = {
    "tokens": "n_tokens DESC, feature",
    "rare": "n_tokens, feature",
    "examples": "n_examples DESC, feature",
    "mean": "mean_activation DESC, feature",
    "max": "max_activation DESC, feature",
    "number": "feature",
}
"""How features can be ordered: active most often first, least often, and so on, or by their number."""
_CONTEXT = pa.schema(
    [
        ("activation", pa.float32()),
        ("run_id", pa.string()),
        ("example_id", pa.string()),
        ("seq", pa.int32()),
        ("pos", pa.int32()),
        ("first_pos", pa.int32()),
        ("tokens", pa.list_(pa.string())),
        ("activations", pa.list_(pa.float32())),
    ]
)

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/features/runs")
async def of_runs(request: Request) -> Response:
    """Answer with a row a dictionary that a run was encoded with, the newest first."""
    query = (
        "SELECT d.*, r.model FROM dictionaries AS d JOIN runs AS r ON r.run_id = d.run_id "
        "ORDER BY r.created_at DESC, d.run_id, d.sae LIMIT 1000"
    )
    return await answer(request, lambda work: rows(work.sql(query), work))


@router.get("/features/dictionary")
async def dictionary(request: Request, run: str, sae: str | None = None) -> Response:
    """Answer with the dictionary and its fit, in one row; no row where it was measured on no token."""

    def make(work: Work) -> Response:
        encoded = _of(work, run, sae)
        if isinstance(encoded, Response):
            return encoded
        table = work.sql("SELECT * FROM dictionary_fit WHERE run_id = ? AND sae = ?", encoded.run_id, encoded.sae)
        return rows(table, work)

    return await answer(request, make)


@router.get("/features")
async def features(
    request: Request,
    run: str,
    sae: str | None = None,
    order: str = "tokens",
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Limit = 200,
) -> Response:
    """Answer with a row a feature that is active somewhere; `total`: how many are, `n_features`: how many the dictionary has."""

    def make(work: Work) -> Response:
        if order not in _ORDERS:
            raise NotFoundError("order", order, _ORDERS)
        encoded = _of(work, run, sae)
        if isinstance(encoded, Response):
            return encoded
        table = work.sql(
            "SELECT feature, n_tokens, n_examples, density, mean_activation, max_activation, count(*) OVER () AS total "
            f"FROM feature_counts WHERE run_id = ? AND sae = ? ORDER BY {_ORDERS[order]} LIMIT ? OFFSET ?",
            encoded.run_id, encoded.sae, limit, after,
        )  # fmt: skip
        total = table["total"][0].as_py() if len(table) else 0
        return rows(table.drop_columns("total"), work, total=total, n_features=encoded.n_features)

    return await answer(request, make)


@router.get("/features/contexts")
async def contexts(
    request: Request,
    run: str,
    feature: int,
    sae: str | None = None,
    before: Annotated[int, Query(ge=0, le=100)] = 12,
    after: Annotated[int, Query(ge=0, le=100)] = 6,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> Response:
    """Answer with a row a sequence in which a feature is most active; `summary` and `distribution` are of all tokens that it is active at."""

    def make(work: Work) -> Response:
        encoded = _of(work, run, sae)
        if isinstance(encoded, Response):
            return encoded
        found = find_feature(work.warehouse.cached_run, encoded, feature)
        summary = found.summary
        top = top_contexts(work.warehouse.cached_run, found, n=limit, before=before, after=after)
        work.asked.append(_contexts_as_sql(found))
        listed = [asdict(context) | {"run_id": encoded.source_run_id} for context in top]
        return rows(
            pa.Table.from_pylist(listed, schema=_CONTEXT),
            work,
            total=summary["n_sequences"],
            summary=summary,
            distribution=distribution(found.rows["activation"]),
        )

    return await answer(request, make)


@router.get("/features/together")
async def together(request: Request, run: str, feature: int, sae: str | None = None, limit: Limit = 100) -> Response:
    """Answer with a row a feature that is active at the same tokens as another, the most alike first."""

    def make(work: Work) -> Response:
        encoded = _of(work, run, sae)
        if isinstance(encoded, Response):
            return encoded
        _check_feature(encoded, feature)
        table = work.sql(
            "SELECT other_sae, other_feature, n_both, n_tokens, other_n_tokens, jaccard, pmi, count(*) OVER () AS total "
            "FROM feature_cooccurrences WHERE run_id = ? AND sae = ? AND feature = ? "
            "ORDER BY jaccard DESC, other_sae, other_feature LIMIT ?",
            encoded.run_id, encoded.sae, feature, limit,
        )  # fmt: skip
        total = table["total"][0].as_py() if len(table) else 0
        return rows(table.drop_columns("total"), work, total=total)

    return await answer(request, make)


@router.get("/features/associations")
async def associations(
    request: Request, run: str, feature: int, sae: str | None = None, limit: Limit = 100
) -> Response:
    """Answer with a row a value of a property that a feature was tested on, the surest first; of each property the newest tests."""

    def make(work: Work) -> Response:
        encoded = _of(work, run, sae)
        if isinstance(encoded, Response):
            return encoded
        _check_feature(encoded, feature)
        tests = work.sql(
            "SELECT a.run_id, a.property FROM feature_associations AS a JOIN runs AS r ON r.run_id = a.run_id "
            "WHERE a.features_run_id = ? AND a.sae = ? GROUP BY a.run_id, a.property, r.created_at "
            "QUALIFY row_number() OVER (PARTITION BY a.property ORDER BY r.created_at DESC, a.run_id DESC) = 1",
            encoded.run_id, encoded.sae,
        ).to_pylist()  # fmt: skip
        if not tests:
            message = f"What the features of run '{encoded.run_id}' go with has not been tested."
            return empty(message, f"traces features associate {encoded.run_id} --by upos")
        newest = " OR ".join("(run_id = ? AND property = ?)" for _ in tests)
        table = work.sql(
            "SELECT run_id AS tests_run_id, property, value, n_active / nullif(n_tokens, 0) AS share, "
            "n_other_active / nullif(n_other_tokens, 0) AS elsewhere, n_tokens, n_active, z, p_value, q_value, "
            f"count(*) OVER () AS total FROM feature_associations WHERE ({newest}) AND sae = ? AND feature = ? "
            "ORDER BY q_value, abs(z) DESC, property, value LIMIT ?",
            *(value for test in tests for value in (test["run_id"], test["property"])), encoded.sae, feature, limit,
        )  # fmt: skip
        total = table["total"][0].as_py() if len(table) else 0
        return rows(table.drop_columns("total"), work, total=total, properties=sorted(t["property"] for t in tests))

    return await answer(request, make)


@router.get("/features/token")
async def token(
    request: Request, run: str, example: str, pos: int, seq: int = 0, sae: str | None = None, limit: Limit = 100
) -> Response:
    """Answer with a row a feature that is active at a token, the strongest first; `token` is its text."""

    def make(work: Work) -> Response:
        encoded = _of(work, run, sae)
        if isinstance(encoded, Response):
            return encoded
        source = work.warehouse.cached_run(encoded.source_run_id)
        source.check_sequence(example, seq)
        of = source.rows_of("tokens", ("example_id", "seq", "side", "pos", "token"), {example})
        same = pc.and_(pc.equal(of["seq"], seq), pc.equal(of["side"], encoded.side))
        of = of.filter(same)
        here = of.filter(pc.equal(of["pos"], pos))
        if not len(here):
            raise NotFoundError("position", pos, [f"0 to {len(of) - 1}"], f"(of example '{example}')")
        table = features_of_token(work.warehouse.cached_run, encoded, example, pos, seq)
        work.asked.append(
            f"SELECT feature, activation FROM features WHERE run_id = {sql_text(encoded.run_id)} AND sae = {sql_text(encoded.sae)} "
            f"AND example_id = {sql_text(example)} AND seq = {seq} AND pos = {pos} ORDER BY activation DESC, feature"
        )
        text = here["token"][0].as_py()
        return rows(table.slice(0, limit), work, total=len(table), token=text, source_run=encoded.source_run_id)

    return await answer(request, make)


def _of(work: Work, run: str, sae: str | None) -> EncodedRun | Response:
    """Return the run of features that is meant; an answer where the run has not been encoded."""
    work.warehouse.cached_run(run)
    known = work.sql("SELECT count(*) AS n FROM dictionaries WHERE run_id = ? OR source_run_id = ?", run, run)
    if not known["n"][0].as_py():
        return empty(
            f"Run '{run}' has not been encoded with a dictionary.", f"traces features encode {run} --sae FOLDER"
        )
    return find_encoded(work.sql, run, sae)


def _check_feature(encoded: EncodedRun, feature: int) -> None:
    """Raise NotFoundError where the dictionary has no such feature."""
    if not 0 <= feature < encoded.n_features:
        raise NotFoundError("feature", feature, [f"0 to {encoded.n_features - 1}"], f"(of {encoded.sae})")


def _contexts_as_sql(found: FeatureTokens) -> str:
    """Return the SQL that tells the tokens of a feature, for the log."""
    run, sae = sql_text(found.encoded.run_id), sql_text(found.encoded.sae)
    return (
        "SELECT run_id, example_id, seq, pos, activation, text_before, token, text_after FROM feature_contexts "
        f"WHERE features_run_id = {run} AND sae = {sae} AND feature = {found.feature} ORDER BY activation DESC LIMIT 100"
    )
