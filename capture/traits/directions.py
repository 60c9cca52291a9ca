"""Which vectors a run is projected on: what was asked for, else what an evaluation or steering found best.

Takes a warehouse, the run to be projected and what was asked; gives unit vectors with their names and what chose them. Every
wrong call of `traces trait project` is found here, before anything is read or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from capture.traits import dynamics
from capture.traits.best import find_best_vector
from capture.traits.response_activations import COMPONENTS
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.quoting import sql_texts
from warehouse.schema.sites import Key
from warehouse.storage.manifest import Manifest
from warehouse.storage.paths import find_run
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class Options:
    traits: tuple[str, ...]
    vectors: tuple[str, ...] = ()
    """Runs to take vectors from; none: for each trait the newest that has one of the model's."""
    layers: tuple[int | None, ...] = ()
    """None in it: `resid.embed`. Empty: what `_chosen` says; `methods` and `components` too."""
    methods: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    dynamics_only: bool = False
    threshold: float = dynamics.THRESHOLD
    shard: str = ""
    """`i/n`: every n-th group of sequences that lie side by side in a shard, from the i-th on."""


class Direction(NamedTuple):
    """A vector to project on."""

    trait: str
    method: str
    component: str
    layer: int | None
    vectors_run_id: str
    vector: np.ndarray
    """(D,), of length 1, float32."""
    reason: str
    """What chose it."""

    @property
    def layer_name(self) -> str:
        return _display_name(self.layer)

    @property
    def key(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEY_COLUMNS}


_KEY_COLUMNS = ("trait", "method", "component", "layer", "vectors_run_id")


def parse_layers(names: Sequence[str]) -> tuple[int | None, ...]:
    """`("5", "embed")` → (5, None). Raises UsageError for what is neither a number nor `embed`."""
    try:
        return tuple(None if name == "embed" else int(name) for name in names)
    except ValueError:
        raise UsageError(f"--layer {','.join(names)}: write numbers, as in 5,10, or embed.") from None


def _display_name(value: str | int | None) -> str:
    """A layer as the command line has it; other names as they are."""
    return "embed" if value is None else str(value)


def choose_directions(wh: Warehouse, source: str, options: Options) -> list[Direction]:
    """The vectors that are meant, in the order of the table's key: by trait, method, component and layer.

    Raises NotFoundError for a run, a trait, a method or a layer without a vector, and UsageError for vectors of another model's width
    or weights, and where the run did not store what they live in.
    """
    if not options.traits:
        raise UsageError("No trait is named: --trait sycophantic,humorous.")
    store = wh.cached_run(source)
    for component in options.components:
        if component not in COMPONENTS:
            raise NotFoundError("component", component, COMPONENTS)
    found = [
        d
        for trait in dict.fromkeys(options.traits)
        for d in _directions_for_trait(wh, store, trait, _find_vectors_run(wh, store, trait, options), options)
    ]
    for d in found:
        store.slices(tensor_key(store, d))  # refuses what was not stored, and says how to capture it
    return sorted(found, key=lambda d: (d.trait, d.method, d.component, -1 if d.layer is None else d.layer))


def tensor_key(store: TraceStore, d: Direction) -> Key:
    """The tensor that a direction's tokens are in."""
    site = COMPONENTS[d.component]
    return store.key("resid.embed", None) if d.layer is None else store.key(site, d.layer)


def _find_vectors_run(wh: Warehouse, store: TraceStore, trait: str, options: Options) -> str:
    """The run to take a trait's vectors from."""
    for run in options.vectors:
        find_run(wh.root, run)
    among = f"AND v.run_id IN {sql_texts(options.vectors)}" if options.vectors else ""
    runs = wh.connection.execute(
        f"""
        SELECT DISTINCT v.run_id, r.body_hash = ? AS fits, r.created_at
        FROM trait_vectors AS v JOIN runs AS r USING (run_id)
        WHERE v.trait = ? {among} ORDER BY fits DESC, r.created_at DESC, v.run_id DESC
        """,
        [store.meta.model.space, trait],
    ).fetchall()
    if not runs:
        of = f"in {', '.join(options.vectors)}" if options.vectors else ""
        known = wh.connection.execute(
            f"SELECT DISTINCT v.trait FROM trait_vectors AS v WHERE true {among} ORDER BY ALL"
        ).fetchall()
        raise NotFoundError(
            "vectors of trait", trait, [name for (name,) in known], of or "See traces trait extract --help"
        )
    newest: str = runs[0][0]
    _check_model(store.meta, wh.cached_run(newest).meta)
    return newest


def _check_model(source: Manifest, vectors: Manifest) -> None:
    """Raises UsageError where the vectors are not of the space that the run's states are in."""
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


def _directions_for_trait(wh: Warehouse, store: TraceStore, trait: str, run: str, options: Options) -> Iterator[Direction]:
    rows = wh.connection.execute(
        "SELECT method, component, layer, vector FROM trait_vectors WHERE run_id = ? AND trait = ?", [run, trait]
    ).fetchall()
    there = {(method, component, layer): np.asarray(vector, np.float64) for method, component, layer, vector in rows}
    methods, components, layers, why = _requested_or_best(wh, store, trait, run, options, list(there))
    kinds = (
        ("method", methods, {m for m, _, _ in there}),
        ("component", components, {c for _, c, _ in there}),
        ("layer", layers, {i for _, _, i in there}),
    )
    for kind, wanted, known in kinds:
        for value in wanted:
            if value not in known:
                names = map(_display_name, sorted(known, key=lambda k: (k is not None, k)))
                raise NotFoundError(kind, _display_name(value), names, f"(vectors of {trait}, run '{run}')")
    for key in ((m, c, i) for m in methods for c in components for i in layers):
        if key not in there:
            raise UsageError(f"Run '{run}' has no vector of {trait} by {key[0]} in {key[1]}, layer {_display_name(key[2])}.")
        vector = there[key]
        yield Direction(trait, *key, run, (vector / np.linalg.norm(vector)).astype(np.float32), why)


def _requested_or_best(
    wh: Warehouse,
    store: TraceStore,
    trait: str,
    run: str,
    options: Options,
    there: Sequence[tuple[str, str, int | None]],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int | None, ...], str]:
    """Methods, components and layers: those asked for, and where nothing is, the best one that an evaluation or steering
    found (`best`), else the mean difference of the residual stream in the middle layer.
    """
    asked = [name for name in ("method", "component", "layer") if getattr(options, f"{name}s")]
    found = find_best_vector(wh, run, trait)
    if found is not None:
        method, component, layer, why = found
    else:
        method, component = "mean_diff", (options.components or ("residual",))[0]
        middle = store.meta.model.n_layers // 2
        near = {i for m, c, i in there if i is not None and m in (options.methods or (method,)) and c == component}
        layer = min(near, key=lambda i: (abs(i - middle), i), default=middle)
        why = "the middle layer's mean difference, as nothing was evaluated or steered: traces trait evaluate"
    if len(asked) == 3:
        why = "as asked for"
    elif asked:
        why = f"{' and '.join(asked)} as asked for, else {why}"
    return options.methods or (method,), options.components or (component,), options.layers or (layer,), why
