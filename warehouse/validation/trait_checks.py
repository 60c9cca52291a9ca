"""Check the tables of traits: judgements, vectors, evaluations and projections."""

from __future__ import annotations

from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect_no_row


def check_judgements(store: TraceStore) -> str | None:
    """Check that scores are in range, say how they were found, and are of responses of a parent run."""
    if not store.meta.counts.rows.get("judgements"):
        return None
    parents = ", ".join(sql_text(p) for p in store.meta.parents)
    tests = {
        "a score outside 0 to 100": "NOT (trait_score BETWEEN 0 AND 100 AND coherence_score BETWEEN 0 AND 100)",
        "a refusal with a number for a trait score": "refused AND scored_by = 'number'",
        "a score without how it was found, or the other way about": "(trait_score IS NULL) <> (scored_by IS NULL)",
        "probabilities outside 0 to 1": "NOT number_mass BETWEEN 0 AND 1",
        "a score by probabilities, fewer than a quarter of them on numbers": "scored_by = 'probabilities' "
        "AND coalesce(number_mass, 0) < 0.25",
        "a response of a run that is not among the parents": f"source_run_id NOT IN ({parents or 'NULL'})",
    }
    expect_no_row(store, tests, "SELECT source_run_id, example_id, seq FROM judgements WHERE")
    return f"{store.meta.counts.rows['judgements']:,} judgements, {len(tests)} conditions"


def check_trait_vectors(store: TraceStore) -> str | None:
    """Check that vectors have length 1 and the model's width, point towards their trait, and are of layers that it has."""
    if not store.meta.counts.rows.get("trait_vectors"):
        return None
    model = store.meta.model
    width, n = model.stack(model.side).d_model, model.stack(model.side).n_layers
    tests = {
        f"a vector that is not of the model's width, {width}": f"len(vector) <> {width}",
        "a vector whose length is not 1": "NOT abs(list_inner_product(vector, vector) - 1) < 2e-4",  # a length within 1e-4
        "a vector that points away from its trait": "gap < 0",
        "a layer that the model has not": f"NOT layer BETWEEN 0 AND {n - 1}",
        "an accuracy outside 0 to 1": "NOT train_accuracy BETWEEN 0 AND 1",
        "a vector made from nothing": "n_pos < 1 OR n_neg < 1 OR NOT norm > 0",
        "NaN": "isnan(norm) OR isnan(gap) OR isnan(midpoint) OR isnan(effect_size)",
    }
    expect_no_row(store, tests, "SELECT trait, method, component, layer FROM trait_vectors WHERE")
    return f"{store.meta.counts.rows['trait_vectors']:,} vectors, {len(tests)} conditions"


def check_trait_evaluations(store: TraceStore) -> str | None:
    """Check that measures are in range, and that no interval ends before it begins."""
    if not store.meta.counts.rows.get("trait_evaluations"):
        return None
    parts = ("accuracy", "accuracy_low", "accuracy_high", "auc", "overlap", "random_accuracy")
    ends = ("accuracy", "effect_size", "above_random")
    tests = {
        **{f"{name} outside 0 to 1": f"NOT {name} BETWEEN 0 AND 1" for name in parts},
        **{f"an interval of {name} that ends before it begins": f"NOT {name}_low <= {name}_high" for name in ends},
        "a difference to random directions that is none": "abs(above_random - (accuracy - random_accuracy)) > 1e-5",
        "an evaluation of nothing": "n_pos < 1 OR n_neg < 1",
        "NaN": "isnan(effect_size) OR isnan(train_minus_heldout)",
    }
    expect_no_row(store, tests, "SELECT trait, method, component, layer FROM trait_evaluations WHERE")
    return f"{store.meta.counts.rows['trait_evaluations']:,} evaluations, {len(tests)} conditions"


def check_projections(store: TraceStore) -> str | None:
    """Check that no projection is longer than its state, and that velocity, acceleration and dynamics follow from projections."""
    counts = store.meta.counts.rows
    if not counts.get("trait_projections") and not counts.get("trait_dynamics"):
        return None
    vector = "source_run_id, example_id, seq, trait, method, component, place"  # place: the layer, NULL being one
    projections, dynamics = (
        f"(SELECT *, coalesce(layer, -1) AS place FROM {table})" for table in ("trait_projections", "trait_dynamics")
    )
    # The tokens that dynamics are made from: the first one, and those with a velocity.
    dynamics_tokens = (
        f"SELECT p.*, d.n_tokens, lag(projection) OVER same AS one_before, lag(velocity) OVER same AS velocity_before "
        f"FROM {projections} AS p JOIN {dynamics} AS d USING ({vector}) WHERE p.velocity IS NOT NULL OR p.pos = d.first_pos "
        f"WINDOW same AS (PARTITION BY {vector} ORDER BY pos)"
    )
    tests = {
        "a projection longer than its state": ("trait_projections", "abs(projection) > token_norm * (1 + 1e-3)"),
        "a value that is not finite": (
            "trait_projections",
            "NOT isfinite(projection + token_norm + coalesce(velocity, 0) + coalesce(acceleration, 0))",
        ),
        "a velocity that is not the difference of projections": (
            f"({dynamics_tokens})", "velocity IS DISTINCT FROM projection - one_before",
        ),
        "an acceleration that is not the difference of velocities": (
            f"({dynamics_tokens})", "acceleration IS DISTINCT FROM velocity - velocity_before",
        ),
        "dynamics of another number of tokens": (
            f"(SELECT {vector}, n_tokens, count(*) AS found FROM ({dynamics_tokens}) GROUP BY ALL)", "found <> n_tokens",
        ),
        "a point outside the tokens looked at": (
            "trait_dynamics",
            "n_tokens < 1 OR NOT peak_point BETWEEN 0 AND n_tokens - 1 OR NOT coalesce(commitment_point, 2) BETWEEN 2 AND greatest(n_tokens - 1, 2) "
            "OR NOT coalesce(commitment_point_relative, 2) BETWEEN 2 AND greatest(n_tokens - 1, 2)",
        ),
        "a peak that persists longer than there are tokens after it": (
            "trait_dynamics", "NOT persistence BETWEEN 0 AND n_tokens - 1 - peak_point",
        ),
    }  # fmt: skip
    wheres = {finding: f"{rows} WHERE {test}" for finding, (rows, test) in tests.items()}
    expect_no_row(store, wheres, "SELECT example_id, seq FROM")
    return f"{counts.get('trait_projections', 0):,} projections, {counts.get('trait_dynamics', 0):,} dynamics, {len(tests)} conditions"
