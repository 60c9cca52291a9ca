"""The projections of one sequence's tokens on the vectors of traits.

In: a run and a sequence of it. Out: a row a vector and token (`trait_tokens`), and a row a vector with where the response commits
itself and where it peaks (`trait_dynamics`). Both are of the newest projection of the run on each trait, as the views
`newest_trait_projections` and `newest_trait_dynamics` have them, and are asked by key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.catalog.ask import Ask

_NEWEST = """
WITH newest AS (
    SELECT d.trait, d.run_id
    FROM (SELECT DISTINCT trait, run_id FROM trait_dynamics WHERE source_run_id = ?) AS d
    JOIN runs AS r ON r.run_id = d.run_id{stored}
    QUALIFY row_number() OVER (PARTITION BY d.trait ORDER BY r.created_at DESC, d.run_id DESC) = 1
)
"""

_TOKENS = (
    _NEWEST.format(stored=" AND list_contains(r.tables, 'trait_projections')")
    + """
SELECT p.trait, p.vectors_run_id, p.method, p.component, p.layer, p.pos, p.projection, p.velocity, p.acceleration
FROM trait_projections AS p
JOIN newest AS n ON n.run_id = p.run_id AND n.trait = p.trait
WHERE p.source_run_id = ? AND p.example_id = ? AND p.seq = ?
ORDER BY p.trait, p.method, p.component, p.layer NULLS FIRST, p.pos
"""
)

_DYNAMICS = (
    _NEWEST.format(stored="")
    + """
SELECT
    d.trait, d.vectors_run_id, d.method, d.component, d.layer, d.n_tokens, d.first_pos, d.mean_projection, d.spread,
    d.peak_velocity, d.commitment_point, d.commitment_point_relative, d.peak_point, d.persistence
FROM trait_dynamics AS d
JOIN newest AS n ON n.run_id = d.run_id AND n.trait = d.trait
WHERE d.source_run_id = ? AND d.example_id = ? AND d.seq = ?
ORDER BY d.trait, d.method, d.component, d.layer NULLS FIRST
"""
)


def trait_tokens(ask: Ask, run: str, example: str, seq: int = 0) -> pa.Table:
    """Return a sequence's tokens on the vectors that its run was projected on.

    Args:
        ask: Asks the warehouse.
        run: The run that was projected.
        example: The example's id.
        seq: Which sequence of the example.

    Returns:
        A row a vector and token; none where the run was not projected, or its dynamics alone were kept.
    """
    return ask(_TOKENS, run, run, example, seq)


def trait_dynamics(ask: Ask, run: str, example: str, seq: int = 0) -> pa.Table:
    """Return how a response moves along the vectors that its run was projected on, a row a vector.

    Args:
        ask: Asks the warehouse.
        run: The run that was projected.
        example: The example's id.
        seq: Which sequence of the example.

    Returns:
        The rows; `commitment_point`, `commitment_point_relative` and `peak_point` count from 0 at `first_pos`.
    """
    return ask(_DYNAMICS, run, run, example, seq)
