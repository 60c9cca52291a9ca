"""The best vector of a trait: which one it is, why, and whether it is known to beat a random direction.

Every command that picks a vector (`evaluate`, `steer`, `project`, `run`) asks here and prints what it is told. The choice itself is
the view `trait_best`; this module only puts it into words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from warehouse.warehouse import Warehouse


class BestVector(NamedTuple):
    """A row of the view `trait_best`, with its grounds in words."""

    method: str
    component: str
    layer: int | None
    reason: str


def find_best_vector(wh: Warehouse, vectors_run: str, trait: str) -> BestVector | None:
    """Return the best vector of a trait in a run, or None where nothing was evaluated or steered."""
    row = (
        wh.cursor()
        .execute(
            "SELECT method, component, layer, grounds, passed_over FROM trait_best WHERE vectors_run_id = ? AND trait = ?",
            [vectors_run, trait],
        )
        .fetchone()
    )
    if row is None:
        return None
    method, component, layer, grounds, passed_over = row
    if component == "residual":
        reason = f"the residual stream's best by {grounds}"
        if passed_over:
            better = "one does better, and is" if passed_over == 1 else f"{passed_over} do better, and are"
            reason += f"; {better} passed over, of attn_out, which few runs keep, or of the embedding, which is before all blocks"
    else:
        reason = f"{component}'s best by {grounds}, where the residual stream has none"
    return BestVector(method, component, layer, reason)


def choice_lines(
    wh: Warehouse,
    vectors_run: str,
    trait: str,
    method: str,
    component: str,
    layers: Sequence[int | None],
    reason: str,
) -> Iterator[str]:
    """Yield lines for the user about chosen vectors: which they are, why, and warnings as `weak_vector_warnings` has them."""
    names = ", ".join("embed" if layer is None else str(layer) for layer in layers)
    yield f"{trait}: {method}, {component}, layer {names}, of run {vectors_run} ({reason})"
    yield from weak_vector_warnings(wh, vectors_run, trait, method, component, layers)


def weak_vector_warnings(
    wh: Warehouse, vectors_run: str, trait: str, method: str, component: str, layers: Sequence[int | None]
) -> Iterator[str]:
    """Yield a warning for each layer whose vector may be no better than a random direction.

    Args:
        wh: The warehouse with vectors and evaluations.
        vectors_run: The run of the vectors.
        trait: Their trait.
        method: The method that made them.
        component: `residual` or `attn_out`.
        layers: Their layers; None is the embedding.

    Yields:
        One line a layer for which the 95 % interval of `above_random`, in the newest evaluation of the vector, reaches 0 or below.
    """
    for layer in layers:
        row = (
            wh.cursor()
            .execute(
                "SELECT e.above_random, e.above_random_low, e.above_random_high, e.accuracy, e.n_pos + e.n_neg "
                "FROM trait_evaluations AS e JOIN runs AS r USING (run_id) WHERE e.vectors_run_id = ? AND e.trait = ? AND e.method = ? "
                "AND e.component = ? AND e.layer IS NOT DISTINCT FROM ? ORDER BY r.created_at DESC, r.run_id DESC LIMIT 1",
                [vectors_run, trait, method, component, layer],
            )
            .fetchone()
        )
        if row is not None and row[1] is not None and row[1] <= 0:
            above, low, high, accuracy, n = row
            yield (
                f"warning: {trait}: {method}, {component}, layer {'embed' if layer is None else layer}, is not known to separate better than "
                f"a random direction: of {n} held-out responses {accuracy:.0%} are on the right side, {above:+.0%} to random ones "
                f"(above_random, 95 % interval {low:+.0%} to {high:+.0%}, {'includes' if high >= 0 else 'lies below'} 0)"
            )
