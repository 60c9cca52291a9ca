"""The projections of one sequence's tokens on the vectors of traits.

In: a run and a sequence of it. Out: a row a vector and token, and a row a vector with where the response commits itself and where it
peaks. Both are of the newest projection of the run on each trait, as the views `newest_trait_projections` and `newest_trait_dynamics`
have them, and are asked by key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from warehouse.schema.quoting import sql_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from warehouse.catalog.ask import Ask

_PROJECTIONS = """
SELECT d.trait, d.run_id, list_contains(r.tables, 'trait_projections') AS has_tokens
FROM (SELECT DISTINCT trait, run_id FROM trait_dynamics WHERE source_run_id = ?) AS d
JOIN runs AS r ON r.run_id = d.run_id
ORDER BY d.trait, r.created_at DESC, d.run_id DESC
"""

_TOKENS = """
SELECT trait, vectors_run_id, method, component, layer, pos, projection, velocity, acceleration
FROM trait_projections
WHERE {newest} AND source_run_id = ? AND example_id = ? AND seq = ?
ORDER BY trait, method, component, layer NULLS FIRST, pos
"""

_DYNAMICS = """
SELECT
    trait, vectors_run_id, method, component, layer, n_tokens, first_pos, mean_projection, spread, peak_velocity, commitment_point,
    commitment_point_relative, peak_point, persistence
FROM trait_dynamics
WHERE {newest} AND source_run_id = ? AND example_id = ? AND seq = ?
ORDER BY trait, method, component, layer NULLS FIRST
"""


class TraitTokens(NamedTuple):
    """A sequence on the vectors that its run was projected on."""

    tokens: pa.Table
    """A row a vector and token; none where dynamics alone were kept."""
    dynamics: pa.Table
    """A row a vector; `commitment_point`, `commitment_point_relative` and `peak_point` count from 0 at `first_pos`."""


def trait_tokens(ask: Ask, run: str, example: str, seq: int = 0) -> TraitTokens | None:
    """Return a sequence's tokens on the vectors that its run was projected on.

    Args:
        ask: Asks the warehouse.
        run: The run that was projected.
        example: The example's id.
        seq: Which sequence of the example.

    Returns:
        Tokens and dynamics, each of the newest projection on a trait that has such rows; None where the run was not projected.
    """
    newest: dict[str, str] = {}
    with_tokens: dict[str, str] = {}
    for row in ask(_PROJECTIONS, run).to_pylist():
        newest.setdefault(row["trait"], row["run_id"])
        if row["has_tokens"]:
            with_tokens.setdefault(row["trait"], row["run_id"])
    if not newest:
        return None
    return TraitTokens(
        ask(_TOKENS.format(newest=_are_of(with_tokens)), run, example, seq),
        ask(_DYNAMICS.format(newest=_are_of(newest)), run, example, seq),
    )


def _are_of(runs: Mapping[str, str]) -> str:
    """Write the condition that a row is of the run of its trait, naming the runs so that the files of others are not read."""
    names = ", ".join(sql_text(run) for run in sorted(set(runs.values()))) or "NULL"
    pairs = ", ".join(f"({sql_text(run)}, {sql_text(trait)})" for trait, run in runs.items()) or "(NULL, NULL)"
    return f"run_id IN ({names}) AND (run_id, trait) IN ({pairs})"
