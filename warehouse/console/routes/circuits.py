"""`/api/circuits` and `/api/circuit…`: circuits, the edges of one of a size, and how faithful they are.

In: a circuit, as a run and a name in it, and a size. Out: at most so many edges, strongest first, with how many there are; a model has
tens of thousands, which no page needs. Faithfulness is of the view `circuit_curve`, the verdict of the saved query `circuit_holds`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from warehouse.catalog.saved_queries import find_query
from warehouse.console.answers import answer, empty, rows
from warehouse.console.circuit_rows import edge_rows, edges_sql, node_rows, node_sql, nodes_of
from warehouse.console.kept_circuits import KeptCircuit, kept_circuit
from warehouse.console.work import Work
from warehouse.schema.quoting import sql_text

router = APIRouter()

_CIRCUITS = """
WITH named AS (
    SELECT run_id, circuit, method, FALSE AS of_parts FROM circuits
    UNION ALL
    SELECT c.run_id, c.method, c.method, TRUE FROM circuits AS c
    ANTI JOIN circuits AS own ON own.run_id = c.run_id AND own.circuit = c.method GROUP BY ALL
    UNION ALL
    SELECT run_id, 'ensemble', 'ensemble', FALSE FROM circuits WHERE method <> 'random' GROUP BY run_id HAVING count(DISTINCT method) > 1
), facts AS (
    SELECT run_id, circuit, method, source_run_id, task, corruption, metric, level, ablation, n_layers, n_heads, n_kv_heads, n_examples,
        n_edges, n_nodes, unit, clean, corrupted, completeness_error, row_number() OVER (PARTITION BY run_id ORDER BY method = 'random', circuit) AS place
    FROM circuits
), evaluations AS (
    SELECT parents[1] AS run_id, count(*) AS n_evaluations FROM runs WHERE list_contains(tables, 'circuit_values') GROUP BY parents[1]
)
SELECT n.run_id, n.circuit, n.method, n.of_parts, coalesce(o.source_run_id, f.source_run_id) AS source_run_id, f.task, f.corruption, f.metric,
    f.level, f.ablation, f.n_layers, f.n_heads, f.n_kv_heads, o.n_examples, f.n_edges, f.n_nodes, f.unit, f.clean, f.corrupted,
    o.completeness_error, coalesce(v.n_evaluations, 0) AS n_evaluations, r.model, r.created_at
FROM named AS n JOIN facts AS f ON f.run_id = n.run_id AND f.place = 1
LEFT JOIN facts AS o ON o.run_id = n.run_id AND o.circuit = n.circuit
JOIN runs AS r ON r.run_id = n.run_id LEFT JOIN evaluations AS v ON v.run_id = n.run_id
ORDER BY r.created_at DESC, n.run_id, n.method = 'random', n.of_parts DESC, n.circuit"""

_CURVE = """
SELECT run_id, circuit_run_id, circuit, source_run_id, task, is_own, part, level, selection, ablation, metric, size, n, n_units, n_edges,
    faithfulness, low, high, complement, random, random_low, random_high, accuracy, full_value, none_value
FROM circuit_curve WHERE ? IN (run_id, circuit_run_id) {narrowed}
ORDER BY NOT is_own, part <> 'all', circuit, level, selection, source_run_id, part, ablation, metric, run_id, size"""


@router.get("/circuits")
async def circuits(request: Request) -> Response:
    """Answer with a row a circuit, the newest run first; means of parts and of methods are circuits too, as evaluations name them."""
    return await answer(request, lambda work: rows(work.sql(_CIRCUITS), work))


@router.get("/circuit")
async def circuit(
    request: Request,
    run: str,
    circuit: str = "",
    size: float | None = None,
    selection: str = "abs",
    most: Annotated[int, Query(ge=1, le=2000)] = 300,
) -> Response:
    """Answer with a row an edge of a circuit of a size, the first by the selection first; `into` is what its sink feeds."""

    def make(work: Work) -> Response:
        kept = _kept(work, run, circuit)
        chosen = kept.choose(size, selection)
        keep, taken = kept.shown(chosen, most)
        table = edge_rows(kept, chosen, keep)
        total = int(chosen.keep.sum())
        cut = f"of the {taken:,} first by {_SAID[selection]}, those on a path to the logits: the largest circuit with at most {most:,} edges"
        return rows(
            table,
            total=total,
            rule=cut if len(table) < total else None,
            sql=[edges_sql(kept, selection, chosen.asked)],
            n_asked=chosen.asked,
            of_edges=len(keep),
            circuit=kept.circuit.name,
            nodes=nodes_of(kept, keep, chosen.keep),
        )

    return await answer(request, make)


@router.get("/circuit/node")
async def node(
    request: Request,
    run: str,
    name: str,
    circuit: str = "",
    size: float | None = None,
    selection: str = "abs",
    limit: Annotated[int, Query(ge=1, le=2000)] = 200,
) -> Response:
    """Answer with a row an edge into or out of a node of a circuit, the largest score first; `layer` and `head` are the other end's."""

    def make(work: Work) -> Response:
        kept = _kept(work, run, circuit)
        chosen = kept.choose(size, selection)
        table, n_in = node_rows(kept, chosen, name)
        rule = "the largest scores first" if len(table) > limit else None
        about = {"n_in": n_in, "n_out": len(table) - n_in, "sql": [node_sql(kept, name)]}
        return rows(table[:limit], total=len(table), rule=rule, **about)

    return await answer(request, make)


@router.get("/circuit/curve")
async def curve(request: Request, run: str, parts: bool = False) -> Response:
    """Answer with a row a size of an evaluated circuit on a task; with `parts` also on those of each template and corruption."""

    def make(work: Work) -> Response:
        work.warehouse.cached_run(run)
        table = work.sql(_CURVE.format(narrowed="" if parts else "AND part = 'all'"), run)
        if not len(table):
            return empty(f"No circuit of run '{run}' has been evaluated.", f"traces circuit evaluate {run}")
        return rows(table, work)

    return await answer(request, make)


@router.get("/circuit/holds")
async def holds(request: Request, run: str, size: float | None = None, least: float | None = None) -> Response:
    """Answer with the saved query `circuit_holds`: a row a task, template or corruption, whether the circuit holds there, and why."""

    def make(work: Work) -> Response:
        work.warehouse.cached_run(run)
        lines = find_query("circuit_holds").text.splitlines()
        query = "\n".join(line for line in lines if not line.startswith("--")).strip().rstrip(";")
        query = query.replace("getvariable('run')", sql_text(run))
        for variable, value in (("size", size), ("least", least)):
            query = query.replace(f"getvariable('{variable}')", "NULL" if value is None else repr(float(value)))
        return rows(work.sql(query), work)

    return await answer(request, make)


_SAID = {
    "abs": "size of score",
    "signed": "how negative their score is",
    "greedy": "size of score, from the logits upwards",
}


def _kept(work: Work, run: str, circuit: str) -> KeptCircuit:
    return kept_circuit(work.warehouse, f"{run}/{circuit}" if circuit else run)
