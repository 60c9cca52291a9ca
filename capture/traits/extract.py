"""Traits' vectors: from runs of responses to one run of kind `trait-vectors`, with the table `trait_vectors`.

A vector a trait, method, component and layer, made from the responses to some of the questions; the others are held out for
`evaluate`. An interrupted job goes on with the block of layers that it was at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from capture.traits import extraction_methods, response_activations
from capture.traits.response_activations import COMPONENTS, FILTERS, ResponseMeans, SelectedResponses
from warehouse.catalog.publish import publish
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.parquet import to_table
from warehouse.storage.run_writer import RecordedBatch, RunWriter
from warehouse.storage.trace_store import TraceStore
from warehouse.vectors import trait_table as index
from warehouse.warehouse import Warehouse

CONVENTION = "layer l is the output of block l, 0-based; layer NULL is resid.embed, the input of the first"
KIND = "trait-vectors"
_BLOCK = 8
"""Layers between two points from which an interrupted job can go on."""


@dataclass(frozen=True)
class Options:
    methods: tuple[str, ...] = ("mean_diff", "probe", "ica", "gradient")
    """`random` is made beside them, whether it is asked for or not."""
    components: tuple[str, ...] | None = None
    """None: residual, and attn_out where the run has it."""
    layers: str | tuple[int | None, ...] = "all"
    """`all`, `mid` (the middle one), or which; None is resid.embed."""
    threshold: float | None = 50.0
    """The trait score that tells positive responses from negative ones; None: all count."""
    filter: str = "pairs"
    """How it is read: `activations.FILTERS`."""
    held_out: float = 0.25
    """Part of the questions that no vector is made from."""
    seed: int = 0


@dataclass(frozen=True)
class LayerProgress:
    """How far a job is: called back after every layer."""

    run_id: str
    stage: str
    done: int
    total: int
    """Layers, over all traits and components."""


@dataclass(frozen=True)
class LayerBlock:
    """What one shard of the run is made from: some layers of a trait's component."""

    trait: int
    component: str
    layers: tuple[int | None, ...]


def extract(
    root: Path,
    responses_runs: Sequence[str],
    options: Options,
    run_id: str | None = None,
    report: Callable[[LayerProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Makes the vectors of one trait from each of the runs, and publishes them as one run, `<trait>-vectors` if not named.

    `note` is told how many responses count, and what did not converge. The same call goes on where an earlier one was interrupted.
    Raises UsageError for options that cannot be, runs of other kinds or of different models, two of one trait, and as
    `activations.select` and `Means.of` do; RunExistsError where the run is there.
    """
    check_options(options)
    with Warehouse(root) as wh:
        stores = [response_activations.open_responses_run(root, r) for r in responses_runs]
        _check_same_model(stores)
        selected = [
            response_activations.select_responses(wh, r, options.threshold, rule=options.filter) for r in responses_runs
        ]
    for s in selected:
        note(s.summary())
    held = [response_activations.choose_held_out(s, options.held_out, options.seed) for s in selected]
    for s, h in zip(selected, held, strict=True):
        training_vectors(s.question, s, h)
    means = [ResponseMeans(store, s.keys) for store, s in zip(stores, selected, strict=True)]
    units = [u for i, m in enumerate(means) for u in split_into_blocks(i, _requested_layers(m, options))]
    told = _manifest_options(root, options, stores, selected, held, [u.component for u in units])
    parents = list(dict.fromkeys(p for s in selected for p in (s.run_id, s.judge_run) if p))
    name = run_id or f"{'-'.join(s.trait for s in selected)}-vectors"
    asked = json.loads(json.dumps(asdict(options)))
    identity = {"kind": KIND, "schema_version": SCHEMA_VERSION, "parents": parents, "sources": told["sources"], **asked}
    count = LayerCounter(name, sum(len(u.layers) for u in units), report)
    with RunWriter(root, name, identity) as writer:
        for number, unit in enumerate(units):
            s = selected[unit.trait]
            if number < len(writer.done):
                count.skip(unit, s.trait)
                continue
            rows: list[dict[str, Any]] = []
            for layer in unit.layers:
                try:
                    rows += _extract_layer(means[unit.trait], s, held[unit.trait], unit.component, layer, options)
                except UsageError:
                    writer.discard()  # there is no going on from it: the remedy is another call
                    raise
                count.advance(unit, s.trait)
            late = Counter(r["method"] for r in rows if r["converged"] is False)
            write_shard(writer, "trait_vectors", rows, json.dumps({"not_converged": late}))
        manifest = publish(
            writer,
            lambda p: stores[0].meta.derive(
                KIND, name, parents, told | {"not_converged": count_not_converged(writer)}, p
            ),
        )
    for method, n in manifest.option("not_converged").items():
        note(
            f"{method} did not converge in {extraction_methods.STEPS[method]} steps for {n} of {count.total} vectors, where its last step's is taken; "
            "which: converged in trait_vectors"
        )
    try:
        index.reconcile(root)
    except TracesError as e:  # of another run: this one is published
        note(f"the table of all traits' vectors is as it was: {e}")
    return manifest


def write_shard(writer: RunWriter, table: str, rows: list[dict[str, Any]], mark: str) -> None:
    """A shard of rows alone."""
    writer.begin_shard({}, {})
    columns = {name: [r[name] for r in rows] for name in rows[0]}
    writer.put(RecordedBatch([], {}, {}, {table: to_table(table, columns)}))
    writer.end_shard(mark)


def split_into_blocks(trait: int, wanted: dict[str, list[int | None]]) -> Iterator[LayerBlock]:
    """A trait's components and layers, some layers at a time."""
    for component, layers in wanted.items():
        for start in range(0, len(layers), _BLOCK):
            yield LayerBlock(trait, component, tuple(layers[start : start + _BLOCK]))


class LayerCounter:
    """Counts layers, and tells of them."""

    def __init__(self, run_id: str, of: int, report: Callable[[LayerProgress], None]) -> None:
        self._run_id, self._done, self.total, self._report = run_id, 0, of, report

    def advance(self, unit: LayerBlock, trait: str, n: int = 1) -> None:
        self._done += n
        self._report(LayerProgress(self._run_id, f"{trait}, {unit.component}", self._done, self.total))

    def skip(self, unit: LayerBlock, trait: str) -> None:
        """A unit that an earlier process has done."""
        self.advance(unit, trait, len(unit.layers))


def check_options(options: Options) -> None:
    """Raises UsageError or NotFoundError for what cannot be."""
    for method in options.methods:
        if method not in extraction_methods.METHODS:
            raise NotFoundError("method", method, extraction_methods.METHODS)
    for component in options.components or ():
        if component not in COMPONENTS:
            raise NotFoundError("component", component, COMPONENTS)
    if options.filter not in FILTERS:
        raise NotFoundError("filter", options.filter, FILTERS)
    if not options.methods or options.components == () or options.layers == ():
        raise UsageError("Ask for at least one method, one component and one layer.")
    if not 0 <= options.held_out < 1:
        raise UsageError(f"held-out {options.held_out}: a part of the questions, from 0 to below 1.")
    if options.threshold is not None and not 0 <= options.threshold <= 100:
        raise UsageError(f"threshold {options.threshold:g}: scores are from 0 to 100; none takes all responses.")
    if isinstance(options.layers, str) and options.layers not in ("all", "mid"):
        raise UsageError(f"layers {options.layers!r}: give all, mid, or numbers.")


def _check_same_model(stores: Sequence[TraceStore]) -> None:
    if not stores:
        raise UsageError("No run of responses is asked for.")
    first = stores[0].meta
    seen: dict[str, str] = {}
    for store in stores:
        meta, trait = store.meta, response_activations.trait_name(store)
        if meta.model.space != first.model.space:
            raise UsageError(
                f"Runs '{first.run_id}' and '{meta.run_id}' are of models with different weights ({first.model.name}, "
                f"{meta.model.name}): their vectors are no kin. Make a run for each."
            )
        if trait in seen:
            raise UsageError(f"Runs '{seen[trait]}' and '{meta.run_id}' are both of trait {trait}: take one.")
        seen[trait] = meta.run_id


def _requested_layers(means: ResponseMeans, options: Options) -> dict[str, list[int | None]]:
    """The layers of each component. Raises UsageError for one that the run has not, as `Means.of` does."""
    components = options.components or tuple(c for c in COMPONENTS if c == "residual" or means.layers(c))
    found: dict[str, list[int | None]] = {}
    for component in components:
        there = means.layers(component)
        if not isinstance(options.layers, str):
            layers = [i for i in dict.fromkeys(options.layers) if i is not None or component == "residual"]
        elif options.layers == "mid":
            layers = [means.store.meta.model.stack(means.store.meta.model.side).n_layers // 2]
        else:
            layers = there
        for layer in [i for i in layers if i not in there] or ([] if there else [0]):
            means.vectors(component, layer)  # says why it is not there
        found[component] = layers
    if not any(found.values()):
        raise UsageError("resid.embed is of component residual: attn_out has none.")
    return found


def _manifest_options(
    root: Path,
    options: Options,
    stores: Sequence[TraceStore],
    selected: Sequence[SelectedResponses],
    held: Sequence[list[int]],
    components: Sequence[str],
) -> dict[str, Any]:
    """What the manifest tells; by trait where traits differ."""
    sources = dict.fromkeys(run for s in selected for run in (s.run_id, s.judge_run) if run)
    return {
        **asdict(options),
        "traits": [s.trait for s in selected],
        "methods": list(dict.fromkeys([*options.methods, "random"])),
        "components": list(dict.fromkeys(components)),
        "layers": options.layers if isinstance(options.layers, str) else list(options.layers),
        "convention": CONVENTION,
        "held_out_questions": {s.trait: h for s, h in zip(selected, held, strict=True)},
        "questions": {s.trait: [q for q in s.questions if q not in h] for s, h in zip(selected, held, strict=True)},
        "responses_run": {s.trait: s.run_id for s in selected},
        "judge_run": {s.trait: s.judge_run for s in selected},
        "definitions": {
            s.trait: xxhash.xxh3_128_hexdigest(json.dumps(store.meta.option("trait"), sort_keys=True).encode())
            for s, store in zip(selected, stores, strict=True)
        },
        "sources": {run: manifest_hash(root, run) for run in sources},
        "filtered": {s.trait: s.filtered for s in selected},
        "dropped": {s.trait: s.dropped for s in selected},
        "probe_c": extraction_methods.PROBE_C,
        "ica_components": extraction_methods.ICA_COMPONENTS,
    }


def _extract_layer(
    means: ResponseMeans,
    selected: SelectedResponses,
    held: Sequence[int],
    component: str,
    layer: int | None,
    options: Options,
) -> list[dict[str, Any]]:
    """The rows of a layer, one a method."""
    pos, neg = training_vectors(means.vectors(component, layer), selected, held)
    rows = []
    for method in dict.fromkeys([*options.methods, "random"]):
        raw, converged = extraction_methods.fit(method, pos, neg, layer_seed(options.seed, layer))
        try:
            made = extraction_methods.measure(raw, pos, neg)
        except ValueError as e:
            raise UsageError(
                f"{selected.trait}: {method} finds no direction in {component}, layer {layer} of run '{selected.run_id}': {e}."
            ) from None
        rows.append({"trait": selected.trait, "method": method, "component": component, "layer": layer,
                     "n_pos": len(pos), "n_neg": len(neg), "converged": converged, **made._asdict(),
                     "vector": made.vector.tolist()})  # fmt: skip
    return rows


def training_vectors(x: Any, selected: SelectedResponses, held: Sequence[int]) -> tuple[Any, Any]:
    """The rows of x (n, D) that vectors are made from: positive and negative ones. Raises UsageError for fewer than two of either."""
    train = [q not in set(held) for q in selected.question.tolist()]
    parts = x[train & selected.positive], x[train & ~selected.positive]
    if min(map(len, parts)) < 2:
        raise UsageError(
            f"{selected.trait}: {len(parts[0])} positive and {len(parts[1])} negative responses of run '{selected.run_id}' are left "
            "to make vectors from, and two of each are needed. Lower --threshold, or --held-out (traces trait extract --help), or make "
            "more responses."
        )
    return parts


def layer_seed(seed: int, layer: int | None) -> int:
    """Another for every layer: random directions of neighbours are not the same."""
    return seed * 10_000 + (0 if layer is None else layer + 1)


def count_not_converged(writer: RunWriter) -> dict[str, int]:
    """By method, how many fits did not converge, those of earlier processes included; only methods that have some."""
    total: Counter[str] = Counter()
    for shard in writer.done:
        total.update(shard.resume_point_as(dict).get("not_converged", {}))
    return dict(sorted(total.items()))
