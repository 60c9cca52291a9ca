"""Check the tables of sparse dictionaries: both orders have the same rows, and what is counted and measured can be."""

from __future__ import annotations

from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect, expect_no_row, select

_SAME = "example_id, seq, pos, layer, sae, feature, activation"


def check_features(store: TraceStore) -> str | None:
    """Check that features are those of their dictionaries, the same in both orders, and as many as are counted."""
    counts = store.meta.counts.rows
    if not counts.get("dictionaries"):
        return None
    tests = {
        "a feature that its dictionary has not": "features AS f JOIN dictionaries AS d USING (sae) "
        "WHERE NOT f.feature BETWEEN 0 AND d.n_features - 1",
        "an activation that is not above 0": "features AS f WHERE NOT (f.activation > 0 AND isfinite(f.activation))",
        "another number of active features than is counted": (
            "(SELECT example_id, seq, pos, sae, count(*) AS found FROM features GROUP BY ALL) AS f "
            "FULL JOIN reconstructions AS r USING (example_id, seq, pos, sae) WHERE coalesce(f.found, 0) IS DISTINCT FROM r.n_active"
        ),
        "a squared length below 0, or that is no number": "reconstructions AS f "
        "WHERE NOT (squared_error >= 0 AND squared_norm >= 0 AND squared_deviation >= 0)",
    }
    expect_no_row(store, {finding: f"SELECT 1 FROM {test}" for finding, test in tests.items()})
    both = [
        select(store, f"SELECT count(*), sum(hash({_SAME})) FROM {table}") for table in ("features", "feature_tokens")
    ]
    expect(both[0] == both[1], "features and feature_tokens have other rows")
    return f"{counts.get('features', 0):,} active features of {counts['dictionaries']:,} dictionaries, {len(tests) + 1} conditions"


def check_feature_associations(store: TraceStore) -> str | None:
    """Check that no more tokens are active than there are, and that corrected p-values follow from p-values."""
    n = store.meta.counts.rows.get("feature_associations")
    if not n:
        return None
    tests = {
        "more active tokens than tokens": "NOT n_active BETWEEN 0 AND n_tokens OR NOT n_other_active BETWEEN 0 AND n_other_tokens",
        "a share of no tokens": "n_tokens < 1 OR n_other_tokens < 1 OR n_examples < 1",
        "a probability outside 0 to 1": "NOT (p_value BETWEEN 0 AND 1 AND q_value BETWEEN p_value AND 1)",
        "a z on the other side of 0 than the difference": "abs(z) > 1e-6 AND z * (n_active / n_tokens - n_other_active / n_other_tokens) < 0",
    }
    expect_no_row(store, tests, "SELECT sae, feature, value FROM feature_associations WHERE")
    return f"{n:,} tests, {len(tests)} conditions"


def check_reconstruction_losses(store: TraceStore) -> str | None:
    """Check that losses are of predictions, and can be."""
    n = store.meta.counts.rows.get("reconstruction_losses")
    if not n:
        return None
    tests = {
        "a loss below 0": "loss < 0 OR reconstructed_loss < 0 OR zeroed_loss < 0",
        "a divergence below 0": "mean_kl < -1e-4",
        "losses of nothing": "n_predictions < 1",
        "NaN": "isnan(loss) OR isnan(reconstructed_loss) OR isnan(zeroed_loss) OR isnan(mean_kl)",
    }
    expect_no_row(store, tests, "SELECT sae, example_id, seq FROM reconstruction_losses WHERE")
    return f"{n:,} sequences, {len(tests)} conditions"
