"""Check the tables of comparisons: two distributions cannot be apart in every way that numbers can."""

from __future__ import annotations

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
