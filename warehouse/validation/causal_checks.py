"""Check the tables of what causes what: a task's pairs, effects of interventions, and influence on predictions."""

from __future__ import annotations

from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect_no_row

_PREDICTION = "source_run_id, example_id, seq, pos"
"""The key of an explained prediction, within a run."""


def check_task(store: TraceStore) -> str | None:
    """Check that a task's pairs are two prompts of equal length that differ where they say, with a right answer and every metric."""
    counts = store.meta.counts.rows
    if not counts.get("task_pairs"):
        return None
    differing = """(SELECT example_id, count_if(a.token_id <> b.token_id) AS n, min(pos) FILTER (a.token_id <> b.token_id) AS first
        FROM (FROM tokens WHERE seq = 0) AS a JOIN (FROM tokens WHERE seq = 1) AS b USING (example_id, side, pos)
        GROUP BY example_id)"""
    tests = {
        "a role that is not that of its seq": "task_pairs WHERE role IS DISTINCT FROM CASE seq WHEN 0 THEN 'clean' WHEN 1 THEN 'corrupted' END",
        "a pair without both prompts": "task_pairs GROUP BY example_id HAVING count(*) <> 2",
        "an example that is no pair": "examples ANTI JOIN task_pairs USING (example_id)",
        "prompts of a pair that are not equally long": "task_pairs GROUP BY example_id HAVING min(n_tokens) <> max(n_tokens)",
        "a prompt that has another number of tokens": """task_pairs JOIN
            (SELECT example_id, seq, count(*) AS n FROM tokens GROUP BY ALL) USING (example_id, seq) WHERE n <> n_tokens""",
        "prompts that differ elsewhere than they say": f"""task_pairs JOIN {differing} USING (example_id)
            WHERE n <> n_changed OR first IS DISTINCT FROM first_changed""",
        "a pair without a right answer": "task_pairs ANTI JOIN (FROM task_targets WHERE sign = 1) USING (example_id)",
        "a sign that is neither 1 nor -1": "task_targets WHERE sign NOT IN (1, -1)",
        "an example without one metric of its task": "task_scores GROUP BY example_id HAVING count_if(is_default) <> 1",
        "a pair without scores": "task_pairs ANTI JOIN task_scores USING (example_id)",
        "a score that is right where it is not above 0": """task_scores
            WHERE correct IS DISTINCT FROM CASE WHEN metric IN ('logit_diff', 'prob_diff') THEN clean > 0 END""",
        "a probability outside -1 to 1": "task_scores WHERE metric = 'prob_diff' AND NOT (abs(clean) <= 1 + 1e-6 AND abs(corrupted) <= 1 + 1e-6)",
        "NaN": "task_scores WHERE isnan(clean) OR isnan(corrupted)",
    }  # fmt: skip
    expect_no_row(store, tests, "SELECT example_id FROM")
    return f"{counts['task_pairs']:,} prompts, {len(tests)} conditions"


def check_effects(store: TraceStore) -> str | None:
    """Check that effects are differences of what they say, of interventions that are there, and that the model has what was changed."""
    counts = store.meta.counts.rows
    if not counts.get("interventions") and not counts.get("effects"):
        return None
    stack = store.meta.model.stack(store.meta.model.side)
    tests = {
        "an effect that is not value - baseline": "effects WHERE effect IS DISTINCT FROM value - baseline",
        "an effect of an intervention that is not there": "effects ANTI JOIN interventions USING (intervention_id)",
        "a task's run that is not the parent": f"effects WHERE source_run_id <> {_first_parent(store)}",
        "a prompt that is not the one that its direction says": """effects JOIN interventions USING (intervention_id)
            WHERE seq NOT IN (0, 1) OR direction = 'denoise' AND seq <> 1 OR direction = 'noise' AND seq <> 0""",
        "an example whose effects are not normalised by one number": """(SELECT min(intervention_id) AS intervention_id FROM effects
            WHERE effect_normalised <> 0 AND isfinite(effect) GROUP BY source_run_id, example_id, metric
            HAVING NOT max(effect / effect_normalised) - min(effect / effect_normalised)
            <= 1e-6 * max(abs(effect / effect_normalised)))""",
        "a layer or head that the model has not": f"""interventions WHERE side = {sql_text(store.meta.model.side)}
            AND NOT (coalesce(layer, 0) BETWEEN 0 AND {stack.n_layers - 1}
            AND coalesce(head, 0) BETWEEN 0 AND greatest(if(site IN ('k', 'v'), {stack.n_kv_heads}, {stack.n_heads}) - 1, 0))""",
        "a mean over nothing, or of what is no mean": "interventions WHERE (kind = 'mean') <> (coalesce(n_reference, 0) > 0)",
        "NaN": "effects WHERE isnan(baseline) OR isnan(value)",
    }  # fmt: skip
    expect_no_row(store, tests, "SELECT intervention_id FROM")
    return f"{counts['interventions']:,} interventions, {counts.get('effects', 0):,} effects, {len(tests)} conditions"


def check_influence(store: TraceStore) -> str | None:
    """Check that parts add up, that shares sum to 1, that nothing comes from a later token, and that flows are parts of a prediction."""
    counts = store.meta.counts.rows
    if not counts.get("influence_targets"):
        return None
    with_target = f"ANTI JOIN influence_targets USING ({_PREDICTION})"
    tests = {
        "a run that is not the parent": f"influence_targets WHERE source_run_id <> {_first_parent(store)}",
        "parts of a prediction that is not there": f"logit_parts {with_target}",
        "influence on a prediction that is not there": f"influence {with_target}",
        "an edge of a prediction that is not there": f"""(SELECT * EXCLUDE (pos), target_pos AS pos FROM token_edges) {with_target}""",
        "parts that do not add up to parts_sum": f"""influence_targets JOIN
            (SELECT {_PREDICTION}, sum(logit) AS total, sum(abs(logit)) AS size FROM logit_parts GROUP BY ALL) USING ({_PREDICTION})
            WHERE NOT abs(total - parts_sum) <= 1e-6 * (1 + size)""",
        "a logit further from the sum of its parts than the identity's error": """influence_targets JOIN
            (SELECT source_run_id, max_error FROM identity_errors WHERE identity = 'logit = sum of parts') USING (source_run_id)
            WHERE NOT abs(logit - parts_sum) <= max_error * (1 + 1e-6) + 1e-12""",
        "shares that do not sum to 1": f"""(SELECT {_PREDICTION}, sum(value) AS total FROM influence
            WHERE measure IN ('ifr', 'value-norm') GROUP BY {_PREDICTION}, measure) WHERE NOT abs(total - 1) <= 1e-4""",
        "a share outside 0 to 1": "influence WHERE measure IN ('ifr', 'value-norm') AND NOT value BETWEEN -1e-6 AND 1 + 1e-6",
        "influence of a token that came later": "influence WHERE NOT source_pos BETWEEN 0 AND pos",
        "a part of a token that came later": "logit_parts WHERE NOT source_pos BETWEEN 0 AND pos",
        "an edge from a token that came later": "token_edges WHERE NOT (source_pos BETWEEN 0 AND pos AND pos <= target_pos)",
        "an edge of the stream between two tokens": "token_edges WHERE head IS NULL AND pos <> source_pos",
        "a flow or share outside 0 to 1": """token_edges
            WHERE NOT (flow BETWEEN 0 AND 1 + 1e-6 AND share BETWEEN 0 AND 1 + 1e-6 AND flow <= share + 1e-6)""",
        "flows of a layer that exceed the prediction": """(SELECT example_id, seq, sum(flow) AS total FROM token_edges
            GROUP BY source_run_id, example_id, seq, target_pos, layer) WHERE total > 1 + 1e-4""",
        "NaN": "logit_parts WHERE isnan(logit)",
        "an influence that is NaN": "influence WHERE isnan(value)",
    }  # fmt: skip
    expect_no_row(store, tests, "SELECT example_id, seq FROM")
    rows = ", ".join(
        f"{name} {counts.get(name, 0):,}" for name in ("influence_targets", "logit_parts", "influence", "token_edges")
    )
    return f"{rows}, {len(tests)} conditions"


def _first_parent(store: TraceStore) -> str:
    """Return the name of the run that the rows are about, in SQL."""
    return sql_text(store.meta.parents[0]) if store.meta.parents else "NULL"
