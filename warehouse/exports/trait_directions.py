"""The vectors of one trait by layer, as formats for steering take them: what is exported, and how long it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warehouse.catalog.ask import asker
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.manifest import Manifest
from warehouse.storage.paths import run_id_of
from warehouse.warehouse import Warehouse

SCALES = ("unit", "gap")
_COMPONENT = "residual"
"""What vectors for steering live in: the output of a block, to which they are added."""
_PREFERRED = "mean_diff"
_ROWS = """
SELECT trait, method, layer, vector, gap FROM trait_vectors
WHERE run_id = ? AND component = ? AND layer IS NOT NULL ORDER BY layer
"""


@dataclass(frozen=True)
class TraitDirections:
    """One vector a layer; layer l is the output of block l, 0-based."""

    meta: Manifest
    """Of the run that the vectors are of."""
    run: str
    trait: str
    method: str
    scale: str
    vectors: dict[int, np.ndarray]
    """By layer, float32 (D,)."""

    @property
    def model_hint(self) -> str:
        """The kind of model as llama.cpp names it, from the name of its class: `LlamaForCausalLM` is `llama`."""
        name, _, _ = self.meta.model.architecture.partition("For")
        return name.removesuffix("LMHeadModel").lower()


def trait_directions(
    wh: Warehouse,
    run: str,
    *,
    trait: str | None = None,
    method: str | None = None,
    layers: str | Sequence[int] = "all",
    scale: str = "unit",
) -> TraitDirections:
    """Return the vectors of a trait, one a layer.

    Args:
        wh: The warehouse.
        run: A run of kind trait-vectors.
        trait: The trait; None where the run has one.
        method: How the vectors were made; None: `mean_diff`, or the only one.
        layers: `all`, or some.
        scale: `unit`: vectors of length 1; `gap`: of the length that one unit of `traces trait steer` has, the distance between the
            polarities' means.

    Returns:
        The vectors, by layer.

    Raises:
        UsageError: The run has no vectors of that kind, or several and none is chosen.
        NotFoundError: There is no such trait, method, layer or scale.
    """
    if scale not in SCALES:
        raise NotFoundError("scale", scale, SCALES)
    store = wh.run(run)
    rows = asker(wh)(_ROWS, run_id_of(store.path), _COMPONENT).to_pylist()
    if not rows:
        raise UsageError(
            f"Run '{run}' is of kind {store.meta.kind}: it has no vectors of traits in the residual stream. Make some: traces trait extract."
        )
    trait = _chosen("trait", trait, [row["trait"] for row in rows])
    rows = [row for row in rows if row["trait"] == trait]
    methods = [row["method"] for row in rows]
    method = _chosen("method", method or (_PREFERRED if _PREFERRED in methods else None), methods)
    known = {row["layer"]: row for row in rows if row["method"] == method}
    for layer in () if layers == "all" else layers:
        if layer not in known:
            raise NotFoundError("layer with a vector", layer, known)
    vectors = {
        layer: np.array(row["vector"], np.float32) * np.float32(row["gap"] if scale == "gap" else 1)
        for layer, row in known.items()
        if layers == "all" or layer in layers
    }
    return TraitDirections(store.meta, run_id_of(store.path), trait, method, scale, vectors)


def _chosen(what: str, name: str | None, known: Sequence[str]) -> str:
    """Return the name that is chosen, or the only one.

    Raises:
        UsageError: There are several, and none is chosen.
        NotFoundError: There is none of that name.
    """
    names = sorted(set(known))
    if name is None and len(names) > 1:
        raise UsageError(f"There are several: choose one with --{what}: {', '.join(names)}.")
    if name is not None and name not in names:
        raise NotFoundError(what, name, names)
    return name or names[0]
