"""Which vectors a run is projected on: those requested, else the best by steering or evaluation.

Takes a warehouse, the run to project and the options; returns unit vectors with their names and why each was chosen. Every wrong
call of `traces trait project` is found here, before anything is computed or written. `project` does the computing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from capture.traits import dynamics
from capture.traits.best_vector import choice_lines, find_best_vector
from capture.traits.response_activations import COMPONENTS
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.quoting import sql_texts
from warehouse.schema.sites import Key
from warehouse.storage.manifest import Manifest
from warehouse.storage.run_list import find_run
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class Options:
    """What a run is projected on; empty `layers`, `methods` and `components` take those of the best vector."""

    traits: tuple[str, ...]
    vectors: tuple[str, ...] = ()
    """Runs to take vectors from; empty: for each trait the newest run with vectors of the run's model."""
    layers: tuple[int | None, ...] = ()
    """None stands for `resid.embed`."""
    methods: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    dynamics_only: bool = False
    threshold: float = dynamics.THRESHOLD
    shard: str = ""
    """`i/n`: every n-th group of sequences that lie side by side in a shard, starting with the i-th."""


class Direction(NamedTuple):
    """A vector to project on, and what identifies it."""

    trait: str
    method: str
    component: str
    layer: int | None
    vectors_run_id: str
    vector: np.ndarray
    """(D,) float32, of length 1."""
    reason: str
    """Why it was chosen, in words."""

    @property
    def layer_name(self) -> str:
        """The layer as the command line writes it: a number, or `embed`."""
        return _display_name(self.layer)

    @property
    def key(self) -> dict[str, Any]:
        """The columns of `trait_projections` that identify the vector, by name."""
        return {name: getattr(self, name) for name in _KEY_COLUMNS}

    def lines(self, wh: Warehouse) -> Iterator[str]:
        """Yield lines for the user about the choice, as `choice_lines` does."""
        return choice_lines(wh, self.vectors_run_id, self.trait, self.method, self.component, [self.layer], self.reason)


_KEY_COLUMNS = ("trait", "method", "component", "layer", "vectors_run_id")


def parse_layers(names: Sequence[str]) -> tuple[int | None, ...]:
    """Parse layers: `("5", "embed")` gives (5, None); raises UsageError for anything but a number or `embed`."""
    try:
        return tuple(None if name == "embed" else int(name) for name in names)
    except ValueError:
        raise UsageError(f"--layers {','.join(names)}: write numbers, as in 5,10, or embed.") from None


def _display_name(value: str | int | None) -> str:
    """Return a layer as the command line writes it, and other names as they are."""
    return "embed" if value is None else str(value)


def choose_directions(wh: Warehouse, source: str, options: Options) -> list[Direction]:
    """Choose the vectors to project a run on.

    Args:
        wh: The warehouse with the run and the vectors.
        source: The run to project.
        options: What was requested.

    Returns:
        The directions, in the order of the table's key: by trait, method, component and layer.

    Raises:
        NotFoundError: A run, trait, method, component or layer has no vector.
        UsageError: No trait is named, the vectors are of another model, or the run did not store the states they belong to.
    """
    if not options.traits:
        raise UsageError("No trait is named: --traits sycophantic,humorous.")
    store = wh.cached_run(source)
    for component in options.components:
        if component not in COMPONENTS:
            raise NotFoundError("component", component, COMPONENTS)
    chosen = [
        d
        for trait in dict.fromkeys(options.traits)
        for d in _directions_for_trait(wh, store, trait, _find_vectors_run(wh, store, trait, options), options)
    ]
    for d in chosen:
        store.slices(tensor_key(store, d))  # raises where that was not stored, and says how to capture it
    return sorted(chosen, key=lambda d: (d.trait, d.method, d.component, -1 if d.layer is None else d.layer))


def tensor_key(store: TraceStore, d: Direction) -> Key:
    """Return the key of the tensor that is projected on a direction."""
    site = COMPONENTS[d.component]
    return store.key("resid.embed", None) if d.layer is None else store.key(site, d.layer)


def _find_vectors_run(wh: Warehouse, store: TraceStore, trait: str, options: Options) -> str:
    """Return the newest run with vectors of a trait, those of the run's own model first."""
    for run in options.vectors:
        find_run(wh.root, run)
    among = f"AND v.run_id IN {sql_texts(options.vectors)}" if options.vectors else ""
    runs = (
        wh.cursor()
        .execute(
            f"""
        SELECT DISTINCT v.run_id, r.body_hash = ? AS fits, r.created_at
        FROM trait_vectors AS v JOIN runs AS r USING (run_id)
        WHERE v.trait = ? {among} ORDER BY fits DESC, r.created_at DESC, v.run_id DESC
        """,
            [store.meta.model.space, trait],
        )
        .fetchall()
    )
    if not runs:
        where = f"in {', '.join(options.vectors)}" if options.vectors else "See traces trait extract --help"
        known = (
            wh.cursor()
            .execute(f"SELECT DISTINCT v.trait FROM trait_vectors AS v WHERE true {among} ORDER BY ALL")
            .fetchall()
        )
        raise NotFoundError("vectors of trait", trait, [name for (name,) in known], where)
    newest: str = runs[0][0]
    _check_model(store.meta, wh.cached_run(newest).meta)
    return newest


def _check_model(source: Manifest, vectors: Manifest) -> None:
    """Raise UsageError where the vectors come from a model whose states the run does not have."""
    mine, theirs = source.model, vectors.model
    if mine.d_model != theirs.d_model:
        what = f"have {theirs.d_model} dimensions ({theirs.name}), the states of run '{source.run_id}' {mine.d_model}"
    elif mine.space != theirs.space:
        what = f"are of a model with other weights ({theirs.name}) than that of run '{source.run_id}'"
    else:
        return
    raise UsageError(
        f"The vectors of run '{vectors.run_id}' {what} ({mine.name}): extract the trait's vectors with that model."
    )


def _directions_for_trait(
    wh: Warehouse, store: TraceStore, trait: str, run: str, options: Options
) -> Iterator[Direction]:
    rows = (
        wh.cursor()
        .execute(
            "SELECT method, component, layer, vector FROM trait_vectors WHERE run_id = ? AND trait = ?", [run, trait]
        )
        .fetchall()
    )
    vectors = {(method, component, layer): np.asarray(vector, np.float64) for method, component, layer, vector in rows}
    methods, components, layers, reason = _requested_or_best(wh, store, trait, run, options, list(vectors))
    kinds = (
        ("method", methods, {m for m, _, _ in vectors}),
        ("component", components, {c for _, c, _ in vectors}),
        ("layer", layers, {i for _, _, i in vectors}),
    )
    for kind, wanted, known in kinds:
        for value in wanted:
            if value not in known:
                names = map(_display_name, sorted(known, key=lambda k: (k is not None, k)))
                raise NotFoundError(kind, _display_name(value), names, f"(vectors of {trait}, run '{run}')")
    for key in ((m, c, i) for m in methods for c in components for i in layers):
        if key not in vectors:
            raise UsageError(
                f"Run '{run}' has no vector of {trait} by {key[0]} in {key[1]}, layer {_display_name(key[2])}."
            )
        vector = vectors[key]
        yield Direction(trait, *key, run, (vector / np.linalg.norm(vector)).astype(np.float32), reason)


def _requested_or_best(
    wh: Warehouse,
    store: TraceStore,
    trait: str,
    run: str,
    options: Options,
    available: Sequence[tuple[str, str, int | None]],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int | None, ...], str]:
    """Choose methods, components and layers: those requested, else those of the best vector.

    Args:
        wh: The warehouse.
        store: The run to project.
        trait: The trait.
        run: The run with the trait's vectors.
        options: What was requested.
        available: (method, component, layer) of each vector in the run.

    Returns:
        Methods, components, layers, and the reason in words. Where nothing was evaluated or steered, the best is the mean
        difference of the residual stream in the layer nearest to the middle one.
    """
    requested = [name for name in ("method", "component", "layer") if getattr(options, f"{name}s")]
    best = find_best_vector(wh, run, trait)
    if best is not None:
        method, component, layer, reason = best
    else:
        only = {m for m, _, _ in available}
        method = only.pop() if len(only) == 1 else "mean_diff"  # imported vectors are of no method of ours
        component = (options.components or ("residual",))[0]
        middle = store.meta.model.n_layers // 2
        layers = {
            i for m, c, i in available if i is not None and m in (options.methods or (method,)) and c == component
        }
        layer = min(layers, key=lambda i: (abs(i - middle), i), default=middle)
        what = "mean difference" if method == "mean_diff" else method
        reason = f"the middle layer's {what}, as nothing was evaluated or steered: traces trait evaluate"
    if len(requested) == 3:
        reason = "as requested"
    elif requested:
        reason = f"{' and '.join(requested)} as requested, else {reason}"
    return options.methods or (method,), options.components or (component,), options.layers or (layer,), reason
