"""Where the projections of a run on a trait are: the newest of the run, or those of a projection that is named itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from warehouse.errors import NotFoundError, UsageError
from warehouse.plots.canvas import layer_name
from warehouse.plots.shown_tokens import ShownTokens, rows
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse


class TokenProjection(NamedTuple):
    """A token on a trait's vector."""

    pos: int
    projection: float
    cosine: float | None
    """None for a state of length 0."""


@dataclass(frozen=True)
class Projection:
    """A run on one vector of a trait."""

    store: TraceStore
    """The run that was projected."""
    key: tuple[str, str, str, str, int | None]
    """run_id of the projection, trait, method, component, layer: what its rows have in common."""

    @property
    def vector_name(self) -> str:
        """What a title says of the vector."""
        _, _, method, component, layer = self.key
        return f"{method} vector, {component}, layer {layer_name(layer)}"

    def tokens(self, wh: Warehouse, shown: ShownTokens) -> list[TokenProjection]:
        """Return those of the tokens that a picture shows."""
        query = f"SELECT pos, projection, projection / nullif(token_norm, 0) FROM trait_projections WHERE {_OF} ORDER BY pos"
        found = (TokenProjection(*row) for row in rows(wh, query, *self.key, *_place(self.store, shown)))
        return [p for p in found if p.pos in shown.positions]

    def dynamics(self, wh: Warehouse, shown: ShownTokens) -> tuple[int, int, int | None] | None:
        """Return first_pos, peak_point and commitment_point_relative of `trait_dynamics`; None where there is no such row."""
        query = f"SELECT first_pos, peak_point, commitment_point_relative FROM trait_dynamics WHERE {_OF}"
        return next(iter(rows(wh, query, *self.key, *_place(self.store, shown))), None)

    def midpoint(self, wh: Warehouse) -> float | None:
        """Return the projection above which a response counts as showing the trait; None where the vector's run is gone."""
        query = """
            SELECT v.midpoint FROM trait_vectors AS v
            WHERE v.run_id IN (SELECT vectors_run_id FROM trait_dynamics AS d WHERE d.run_id = ?)
            AND v.trait = ? AND v.method = ? AND v.component = ? AND v.layer IS NOT DISTINCT FROM ?
        """
        return next((midpoint for (midpoint,) in rows(wh, query, *self.key)), None)


_OF = """run_id = ? AND trait = ? AND method = ? AND component = ? AND layer IS NOT DISTINCT FROM ?
    AND source_run_id = ? AND example_id = ? AND seq = ?"""


def _place(store: TraceStore, shown: ShownTokens) -> tuple[str, str, int]:
    return store.meta.run_id, shown.example_id, shown.seq


def find_projection(wh: Warehouse, store: TraceStore, trait: str) -> Projection:
    """Find the projection of a run on a trait; of several vectors the first, by method, component and layer.

    Args:
        wh: The warehouse.
        store: A run that was projected, for its newest projection, or the projection.
        trait: The trait.

    Returns:
        The projection.

    Raises:
        UsageError: The run was not projected on anything.
        NotFoundError: The run was not projected on this trait.
    """
    run_id = store.meta.run_id
    projected = store.meta.kind == "trait-projection"
    places = "trait_projections" if projected else "newest_trait_projections"
    column = "run_id" if projected else "source_run_id"
    found = rows(
        wh,
        f"""
        SELECT source_run_id, run_id, trait, method, component, layer FROM {places} WHERE {column} = ?
        GROUP BY ALL ORDER BY trait, method, component, layer NULLS FIRST
        """,
        run_id,
    )
    if not found:
        raise UsageError(
            f"Run '{run_id}' was not projected on a trait's vector. Project it: traces trait project {run_id} --traits NAME"
        )
    for source, *key in found:
        if key[1] == trait:
            return Projection(wh.run(source) if projected else store, tuple(key))
    raise NotFoundError("trait", trait, sorted({row[2] for row in found}), f"(run '{run_id}')")
