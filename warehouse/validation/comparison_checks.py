"""Check the tables of comparisons: two distributions cannot be apart in every way that numbers can."""

from __future__ import annotations

import math

from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect_no_row

_NEAR = 1e-3
"""What rounding may add to the difference of two probabilities: float32 sums over the vocabulary, with room."""


def parents_test(store: TraceStore, table: str) -> dict[str, str]:
    """Return the test that a table's rows are about the two runs that the manifest names."""
    a, b = (sql_text(run) for run in (*store.meta.parents, "", "")[:2])
    return {f"{table} of other runs than the parents": f"{table} WHERE source_run_id <> {a} OR other_run_id <> {b}"}


def check_comparisons(store: TraceStore) -> str | None:
    """Check that divergences, probabilities and places can be those of two models that read the same tokens."""
    if not store.meta.counts.rows.get("comparisons"):
        return None
    predicted = [
        f"({name} IS NULL)" for name in ("kl", "kl_reverse", "top1_id", "top1_prob", "other_top1_id", "other_top1_prob")
    ]
    tests = parents_test(store, "comparisons") | {
        "a negative divergence, or NaN": "comparisons WHERE kl < 0 OR kl_reverse < 0 OR isnan(kl) OR isnan(kl_reverse)",
        "a probability outside 0 to 1": "comparisons WHERE NOT (top1_prob > 0 AND top1_prob <= 1.00001 AND other_top1_prob > 0 "
        "AND other_top1_prob <= 1.00001)",
        "a prediction that is known in part": "comparisons WHERE " + " OR ".join(f"{predicted[0]} <> {p}" for p in predicted[1:]),
        "a token outside the vocabulary": f"comparisons WHERE NOT (top1_id BETWEEN 0 AND {store.meta.model.vocab_size - 1}) "
        "OR other_top1_id < 0",
        # Pinsker's inequality: no event's probabilities are further apart than the root of half the divergence.
        "probabilities that are further apart than the divergence allows": "comparisons WHERE top1_id = other_top1_id "
        f"AND abs(top1_prob - other_top1_prob) > sqrt(least(kl, kl_reverse) / 2) + {_NEAR}",
        "a divergence of 0 between other predictions": "comparisons WHERE kl = 0 AND kl_reverse = 0 AND top1_id <> other_top1_id",
        "a loss below 0, or NaN": "comparisons WHERE loss < -1e-5 OR other_loss < -1e-5 OR isnan(loss) OR isnan(other_loss)",
        "a position below 0": "comparisons WHERE pos < 0 OR other_pos < 0",
        "positions that go back": "(SELECT other_pos, lag(other_pos) OVER (PARTITION BY example_id, seq ORDER BY pos) AS before "
        "FROM comparisons) WHERE other_pos <= before",
    }  # fmt: skip
    expect_no_row(store, tests, "SELECT * FROM")
    return f"{store.meta.counts.rows['comparisons']:,} rows, {len(tests)} conditions"


def check_layer_similarity(store: TraceStore) -> str | None:
    """Check that similarities are in their range, their intervals hold them, and all pairs are of the same tokens."""
    if not store.meta.counts.rows.get("layer_similarity"):
        return None
    n = store.meta.model.n_layers
    tests = parents_test(store, "layer_similarity") | {
        "a layer that the model has not": f"layer_similarity WHERE NOT layer BETWEEN 0 AND {n - 1} OR other_layer < 0",
        "a similarity outside its range, or NaN": "layer_similarity WHERE NOT cka BETWEEN -1 AND 1 OR NOT procrustes BETWEEN 0 AND 1 "
        "OR NOT procrustes_chance BETWEEN 0 AND 1 OR isnan(cka) OR isnan(procrustes) OR isnan(procrustes_chance)",
        "an interval without its number": "layer_similarity WHERE NOT cka BETWEEN cka_low AND cka_high "
        "OR NOT procrustes BETWEEN procrustes_low AND procrustes_high OR (cka_low IS NULL) <> (cka_high IS NULL) "
        "OR (procrustes_low IS NULL) <> (procrustes_high IS NULL) OR isnan(cka_low) OR isnan(cka_high)",
        "a similarity without what chance comes to": "layer_similarity WHERE (procrustes IS NULL) <> (procrustes_chance IS NULL)",
        "pairs of layers over other tokens": "(SELECT count(DISTINCT (n_tokens, n_examples)) AS n FROM layer_similarity) WHERE n > 1",
        "more examples than tokens, or none": "layer_similarity WHERE NOT n_examples BETWEEN 1 AND n_tokens",
    }  # fmt: skip
    expect_no_row(store, tests, "SELECT * FROM")
    return f"{store.meta.counts.rows['layer_similarity']:,} pairs of layers, {len(tests)} conditions"


def check_moved_directions(store: TraceStore) -> str | None:
    """Check that directions are unit vectors of the layer's width, and that their shares are parts of one whole, the largest first."""
    if not store.meta.counts.rows.get("moved_directions"):
        return None
    model = store.meta.model
    tests = parents_test(store, "moved_directions") | {
        "a layer that the model has not": f"moved_directions WHERE NOT layer BETWEEN 0 AND {model.n_layers - 1}",
        "a direction whose length is not 1": "moved_directions WHERE NOT abs(list_dot_product(vector, vector) - 1) < 1e-3",
        f"a direction of another width than the model's, {model.d_model}": f"moved_directions WHERE len(vector) <> {model.d_model}",
        "a share outside 0 to 1": "moved_directions WHERE NOT share BETWEEN 0 AND 1",
        "shares that exceed 1": "(SELECT layer, sum(share) AS whole FROM moved_directions GROUP BY layer) WHERE whole > 1 + 1e-4",
        "ranks that are not 1, 2, 3 and so on, by share": "(SELECT rank, share, row_number() OVER by_rank AS place, "
        "lag(share) OVER by_rank AS before FROM moved_directions WINDOW by_rank AS (PARTITION BY layer ORDER BY rank)) "
        "WHERE rank <> place OR share > before + 1e-6",
        "a shift below 0, or NaN": "moved_directions WHERE NOT mean_shift >= 0 OR NOT sd_shift >= 0 OR NOT rms_moved > 0 "
        "OR NOT rms_state >= 0 OR isnan(mean_shift + sd_shift + rms_moved + rms_state)",
        # The mean square along a direction is its share of the mean square of all.
        "a share that is not what the shifts come to": "moved_directions WHERE NOT abs(mean_shift::DOUBLE ** 2 + sd_shift::DOUBLE ** 2 "
        "- share * rms_moved::DOUBLE ** 2) <= 1e-3 * rms_moved::DOUBLE ** 2",
    }  # fmt: skip
    expect_no_row(store, tests, "SELECT * FROM")
    return f"{store.meta.counts.rows['moved_directions']:,} directions, {len(tests)} conditions"


def check_head_changes(store: TraceStore) -> str | None:
    """Check that divergences of attention are in their range, and their intervals hold them."""
    if not store.meta.counts.rows.get("head_changes"):
        return None
    model = store.meta.model
    heads = " OR ".join(f"layer = {layer} AND head >= {model.heads_of(layer)}" for layer in range(model.n_layers))
    tests = parents_test(store, "head_changes") | {
        "a head that the model has not": f"head_changes WHERE NOT layer BETWEEN 0 AND {model.n_layers - 1} OR head < 0 OR {heads}",
        "a divergence outside 0 to ln 2": f"head_changes WHERE NOT js BETWEEN 0 AND {math.log(2) + 1e-5} OR isnan(js)",
        "an interval without its number": "head_changes WHERE NOT js BETWEEN js_low AND js_high OR (js_low IS NULL) <> (js_high IS NULL)",
        "a part outside 0 to 1": "head_changes WHERE NOT top_changed BETWEEN 0 AND 1 OR isnan(top_changed)",
        "a change below 0, or NaN": "head_changes WHERE NOT write_change >= 0 OR isnan(write_change)",
        "more examples than tokens, or none": "head_changes WHERE NOT n_examples BETWEEN 1 AND n_tokens",
    }
    expect_no_row(store, tests, "SELECT * FROM")
    return f"{store.meta.counts.rows['head_changes']:,} heads, {len(tests)} conditions"
