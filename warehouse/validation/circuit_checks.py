"""Check the tables of circuits: scores of the nodes and edges of one graph, and what a metric is under a circuit."""

from __future__ import annotations

from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect_no_row

_NODE_TABLES = ("circuit_nodes", "circuit_node_scores")
_SCORED = ("circuit_nodes", "circuit_edges")
_SUM_OF_EDGES = {"float32": 0.01, "float64": 0.01}
"""How far a node's score may be from the sum of its edges', of their sizes, by the dtype that gradients are computed in."""
_SUM_OF_EDGES_HALF = 0.05
"""As `_SUM_OF_EDGES`, of shorter dtypes: 0.0145 was seen in bfloat16."""


def check_circuits(store: TraceStore) -> str | None:
    """Check that nodes and edges are those of the model, that edges lead forward, that ranks and sums agree with scores."""
    counts = store.meta.counts.rows
    if not any(counts.get(name) for name in ("circuits", *_NODE_TABLES, "circuit_edges")):
        return None
    parent = sql_text(store.meta.parents[0]) if store.meta.parents else "NULL"
    allowed = _SUM_OF_EDGES.get(store.meta.model.dtype, _SUM_OF_EDGES_HALF)
    tests = {
        "a task's run that is not the parent": f"circuits WHERE source_run_id <> {parent}",
        "a level that is neither edge nor node": "circuits WHERE level NOT IN ('edge', 'node')",
        "another number of edges than the graph's": """circuits LEFT JOIN
            (SELECT circuit, count(*) AS n FROM circuit_edges GROUP BY circuit) USING (circuit)
            WHERE coalesce(n, 0) <> CASE level WHEN 'edge' THEN n_edges ELSE 0 END""",
        "another number of nodes than the graph's": """circuits LEFT JOIN
            (SELECT circuit, count(*) AS n FROM circuit_nodes GROUP BY circuit) USING (circuit) WHERE coalesce(n, 0) <> n_nodes""",
        "an edge of a node that is not there": """circuit_edges AS e ANTI JOIN circuit_nodes AS n ON n.circuit = e.circuit
            AND n.kind = e.source_kind AND n.layer IS NOT DISTINCT FROM e.source_layer
            AND n.head IS NOT DISTINCT FROM e.source_head""",
        "an edge to what the model has not": """circuit_edges JOIN circuits USING (circuit) WHERE NOT CASE sink_kind
            WHEN 'head' THEN coalesce(sink_layer BETWEEN 0 AND n_layers - 1 AND port IN ('q', 'k', 'v')
                AND sink_head BETWEEN 0 AND if(port = 'q', n_heads, n_kv_heads) - 1, FALSE)
            WHEN 'mlp' THEN coalesce(sink_layer BETWEEN 0 AND n_layers - 1, FALSE) AND sink_head IS NULL AND port IS NULL
            WHEN 'logits' THEN sink_layer IS NULL AND sink_head IS NULL AND port IS NULL
            ELSE FALSE END""",
        "an edge that leads backwards": """circuit_edges WHERE source_layer > sink_layer
            OR source_layer = sink_layer AND NOT (source_kind IN ('head', 'attn') AND sink_kind = 'mlp')""",
        "a node's score that is not the mean of its pairs'": """(SELECT p.circuit, n, mean, size, s.score FROM
            (SELECT circuit, kind, layer, head, avg(score) AS mean, avg(abs(score)) AS size, count(*) AS n
                FROM circuit_node_scores GROUP BY ALL) AS p
            LEFT JOIN circuit_nodes AS s ON s.circuit = p.circuit AND s.kind = p.kind
            AND s.layer IS NOT DISTINCT FROM p.layer AND s.head IS NOT DISTINCT FROM p.head)
            JOIN circuits USING (circuit)
            WHERE n IS DISTINCT FROM n_examples OR NOT coalesce(abs(mean - score) <= 1e-6 * size + 1e-12, FALSE)""",
        "a node's score that is not the sum of those of the edges that leave it": f"""(SELECT n.circuit, n.score, e.total, e.size
            FROM circuit_nodes AS n
            JOIN (SELECT circuit, source_kind, source_layer, source_head, sum(score) AS total, sum(abs(score)) AS size
                FROM circuit_edges GROUP BY ALL) AS e ON e.circuit = n.circuit AND e.source_kind = n.kind
            AND e.source_layer IS NOT DISTINCT FROM n.layer AND e.source_head IS NOT DISTINCT FROM n.head)
            JOIN circuits USING (circuit)
            WHERE method NOT IN ('exact', 'random', 'imported') AND NOT abs(score - total) <= {allowed} * size + 1e-9""",
        "a share of the change that is below 0, or NaN": "circuits WHERE NOT completeness_error >= 0 OR isnan(completeness_error)",
    }  # fmt: skip
    for table in _NODE_TABLES:
        tests |= {
            f"{table} of what the model has not": f"""{table} JOIN circuits USING (circuit) WHERE NOT CASE kind
                WHEN 'embed' THEN layer IS NULL AND head IS NULL
                WHEN 'head' THEN coalesce(layer BETWEEN 0 AND n_layers - 1 AND head BETWEEN 0 AND n_heads - 1, FALSE)
                WHEN 'attn' THEN coalesce(layer BETWEEN 0 AND n_layers - 1, FALSE) AND head IS NULL
                WHEN 'mlp' THEN coalesce(layer BETWEEN 0 AND n_layers - 1, FALSE) AND head IS NULL
                ELSE FALSE END"""
        }
    for table in (*_NODE_TABLES, "circuit_edges"):
        tests |= {
            f"{table} of a circuit that is not there": f"{table} ANTI JOIN circuits USING (circuit)",
            f"{table} with a score that is no finite number": f"{table} WHERE NOT isfinite(score)",
        }
    for table in _SCORED:
        tests |= {
            f"{table} whose ranks are not 1, 2, 3 and so on, by size of the score": f"""(SELECT circuit, rank, score, row_number() OVER by_rank
                AS place, lag(abs(score)) OVER by_rank AS before FROM {table} WHERE rank IS NOT NULL OR score IS NOT NULL
                WINDOW by_rank AS (PARTITION BY circuit ORDER BY rank))
                WHERE rank IS DISTINCT FROM place OR score IS NULL OR abs(score) > before * (1 + 1e-9)""",
            f"{table} with an interval that is none": f"{table} WHERE NOT low <= high OR (low IS NULL) <> (high IS NULL)"
            " OR isnan(low) OR isnan(high)",
            f"{table} selected more often than resampled": f"{table} WHERE NOT selection_frequency BETWEEN 0 AND 1",
            f"{table} with an effect that is NaN": f"{table} WHERE isnan(exact_effect)",
        }
    expect_no_row(store, tests, "SELECT circuit FROM")
    rows = ", ".join(f"{name} {counts.get(name, 0):,}" for name in ("circuits", "circuit_edges", *_NODE_TABLES))
    return f"{rows}, {len(tests)} conditions"


def check_circuit_values(store: TraceStore) -> str | None:
    """Check that every pair was tried with every choice of edges, and is the same pair there."""
    counts = store.meta.counts.rows
    if not counts.get("circuit_values"):
        return None
    parents = [sql_text(run) for run in store.meta.parents] or ["NULL"]
    tried = "circuit, source_run_id, level, selection, ablation, metric"
    tests = {
        "a circuit's run that is not the first parent": f"circuit_values WHERE circuit_run_id <> {parents[0]}",
        "a task's run that is not a parent": f"circuit_values WHERE source_run_id NOT IN ({', '.join(parents)})",
        "a size outside 0 to 1": "circuit_values WHERE NOT (size > 0 AND size <= 1)",
        "a word that is none of the table's": """circuit_values WHERE level NOT IN ('edge', 'node')
            OR selection NOT IN ('abs', 'signed', 'greedy') OR ablation NOT IN ('resample', 'mean', 'zero')
            OR variant NOT IN ('circuit', 'complement', 'random')""",
        "a draw of what is not drawn": "circuit_values WHERE draw < 0 OR draw > 0 AND variant <> 'random'",
        "more edges than were asked for": """circuit_values
            WHERE n_asked < 1 OR n_edges < 0 OR n_edges > n_asked AND variant = 'circuit' AND level = 'edge'""",
        "sizes of one circuit that have other pairs": f"""(SELECT {tried}, size, count(*) AS n
            FROM circuit_values GROUP BY {tried}, variant, draw, size)
            GROUP BY {tried} HAVING min(n) <> max(n)""",
        "a pair with several metrics of the model as it is, or with all edges ablated": f"""circuit_values
            GROUP BY {tried}, example_id HAVING min(full_value) <> max(full_value) OR min(none_value) <> max(none_value)
            OR min(unit) <> max(unit) OR min(held_out) <> max(held_out)""",
        "NaN": "circuit_values WHERE isnan(value) OR isnan(full_value) OR isnan(none_value)",
    }  # fmt: skip
    expect_no_row(store, tests, "SELECT circuit, source_run_id FROM")
    return f"{counts['circuit_values']:,} values, {len(tests)} conditions"
