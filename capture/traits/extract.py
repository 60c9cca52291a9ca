"""Make traits' vectors: from runs of responses to one run of kind `trait-vectors`, with the table `trait_vectors`.

There is a vector for each trait, method, component and layer, made from the responses to part of the questions; the other questions
are held out for `evaluate`. An interrupted job resumes at the block of layers where it stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from capture.traits import extraction_methods, response_activations
from capture.traits.response_activations import COMPONENTS, FILTERS, ResponseMeans, SelectedResponses
from warehouse.catalog.publish import publish
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore
from warehouse.vectors import trait_table as index
from warehouse.warehouse import Warehouse

CONVENTION = "layer l is the output of block l, 0-based; layer NULL is resid.embed, the input of the first"
KIND = "trait-vectors"
_BLOCK = 8
"""Layers in a shard, where an interrupted job can resume."""


@dataclass(frozen=True)
class Options:
    """How vectors are made."""

    methods: tuple[str, ...] = ("mean_diff", "probe", "ica", "gradient")
    """`random` is always added."""
    components: tuple[str, ...] | None = None
    """None: residual, and attn_out where the run has it."""
    layers: str | tuple[int | None, ...] = "all"
    """`all`, `mid` (the middle one), or layer numbers; None is resid.embed."""
    threshold: float | None = 50.0
    """The trait score, 0 to 100, that separates positive from negative responses; None: all count."""
    filter: str = "pairs"
    """How the threshold is read: a key of `response_activations.FILTERS`."""
    held_out: float = 0.25
    """Fraction of the questions that no vector is made from."""
    seed: int = 0


@dataclass(frozen=True)
class LayerProgress:
    """How far a job is, in layers over all traits and components; reported after every layer."""

    run_id: str
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class LayerBlock:
    """Some layers of one component of one trait: what one shard of the run holds."""

    trait: int
    """Its place in the list of traits."""
    component: str
    layers: tuple[int | None, ...]


def extract(
    root: AnyPath,
    responses_runs: Sequence[str],
    options: Options,
    run_id: str | None = None,
    report: Callable[[LayerProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Make the vectors of one trait from each run of responses, and publish them together as a run.

    The same call resumes where an earlier one was interrupted.

    Args:
        root: The warehouse's folder.
        responses_runs: Runs of kind `trait-responses`, each of another trait, all of one model.
        options: How to make the vectors.
        run_id: The new run's name; `<trait>-vectors` if None.
        report: Called after every layer.
        note: Called with lines about how many responses count and which methods did not converge.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: Options are out of range, the runs are of another kind, of different models or of one trait, or as
            `select_responses` and `ResponseMeans.vectors` do.
        NotFoundError: There is no such run, method, component or filter.
        RunExistsError: The new run exists already.
    """
    check_options(options)
    with Warehouse(root) as wh:
        stores = [response_activations.open_responses_run(root, r) for r in responses_runs]
        _check_same_model(stores)
        selected = [
            response_activations.select_responses(wh, r, options.threshold, rule=options.filter) for r in responses_runs
        ]
    for s in selected:
        note(s.summary)
    held = [response_activations.choose_held_out(s, options.held_out, options.seed) for s in selected]
    for s, h in zip(selected, held, strict=True):
        training_vectors(s.question, s, h)
    means = [ResponseMeans(store, s.keys) for store, s in zip(stores, selected, strict=True)]
    units = [u for i, m in enumerate(means) for u in split_into_blocks(i, _requested_layers(m, options))]
    manifest_options = _manifest_options(root, options, stores, selected, held, [u.component for u in units])
    parents = list(dict.fromkeys(p for s in selected for p in (s.run_id, s.judge_run) if p))
    name = run_id or f"{'-'.join(s.trait for s in selected)}-vectors"
    identity = RunIdentity(KIND, asdict(options), parents=manifest_options["sources"])
    count = LayerCounter(name, sum(len(u.layers) for u in units), report)
    with RunWriter(root, name, identity.to_dict()) as writer:
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
                    writer.discard()  # the remedy is a call with other options, which cannot resume this one
                    raise
                count.advance(unit, s.trait)
            unconverged = Counter(r["method"] for r in rows if r["converged"] is False)
            write_shard(writer, "trait_vectors", rows, json.dumps({"not_converged": unconverged}))
        manifest = publish(
            writer,
            lambda p: stores[0].meta.derive(
                KIND, name, parents, manifest_options | {"not_converged": count_not_converged(writer)}, p
            ),
        )
    for method, n in manifest.option("not_converged").items():
        note(
            f"{method} did not converge in {extraction_methods.STEPS[method]} steps for {n} of {count.total} vectors; the last step's was used. "
            "Which: column converged of trait_vectors"
        )
    try:
        index.reconcile(root)
    except TracesError as e:  # about another run; this one is published
        note(f"the table of all traits' vectors was not updated: {e}")
    return manifest


def write_shard(writer: RunWriter, table: str, rows: list[dict[str, Any]], mark: str) -> None:
    """Write a shard that holds only rows of one table; `mark` is kept in the journal."""
    writer.begin_shard({}, {})
    columns = {name: [r[name] for r in rows] for name in rows[0]}
    writer.put(RecordedBatch([], {}, {}, {table: to_table(table, columns)}))
    writer.end_shard(mark)


def split_into_blocks(trait: int, wanted: dict[str, list[int | None]]) -> Iterator[LayerBlock]:
    """Yield a trait's components and layers, at most `_BLOCK` layers at a time."""
    for component, layers in wanted.items():
        for start in range(0, len(layers), _BLOCK):
            yield LayerBlock(trait, component, tuple(layers[start : start + _BLOCK]))


class LayerCounter:
    """Counts finished layers and reports them."""

    def __init__(self, run_id: str, total: int, report: Callable[[LayerProgress], None]) -> None:
        self._run_id, self._done, self.total, self._report = run_id, 0, total, report

    def advance(self, unit: LayerBlock, trait: str, n: int = 1) -> None:
        """Count `n` more layers of a block, and report."""
        self._done += n
        self._report(LayerProgress(self._run_id, f"{trait}, {unit.component}", self._done, self.total))

    def skip(self, unit: LayerBlock, trait: str) -> None:
        """Count a block that an earlier process has finished."""
        self.advance(unit, trait, len(unit.layers))


def check_options(options: Options) -> None:
    """Check options before anything is read.

    Args:
        options: What `extract` is to be called with.

    Raises:
        NotFoundError: There is no such method, component or filter.
        UsageError: A number is out of range, or a list is empty.
    """
    for method in options.methods:
        if method not in extraction_methods.METHODS:
            raise NotFoundError("method", method, extraction_methods.METHODS)
    for component in options.components or ():
        if component not in COMPONENTS:
            raise NotFoundError("component", component, COMPONENTS)
    if options.filter not in FILTERS:
        raise NotFoundError("filter", options.filter, FILTERS)
    if not options.methods or options.components == () or options.layers == ():
        raise UsageError("Name at least one method, one component and one layer.")
    if not 0 <= options.held_out < 1:
        raise UsageError(f"held-out {options.held_out}: a part of the questions, from 0 to below 1.")
    if options.threshold is not None and not 0 <= options.threshold <= 100:
        raise UsageError(f"threshold {options.threshold:g}: scores are from 0 to 100; none takes all responses.")
    if isinstance(options.layers, str) and options.layers not in ("all", "mid"):
        raise UsageError(f"layers {options.layers!r}: give all, mid, or numbers.")


def _check_same_model(stores: Sequence[TraceStore]) -> None:
    if not stores:
        raise UsageError("Name at least one run of responses.")
    first = stores[0].meta
    seen: dict[str, str] = {}
    for store in stores:
        meta, trait = store.meta, response_activations.trait_name(store)
        if meta.model.space != first.model.space:
            raise UsageError(
                f"Runs '{first.run_id}' and '{meta.run_id}' are of models with different weights ({first.model.name}, "
                f"{meta.model.name}): their vectors cannot be compared. Make a run for each model."
            )
        if trait in seen:
            raise UsageError(f"Runs '{seen[trait]}' and '{meta.run_id}' are both of trait {trait}: take one.")
        seen[trait] = meta.run_id


def _requested_layers(means: ResponseMeans, options: Options) -> dict[str, list[int | None]]:
    """Return the requested layers of each component; raises UsageError for one that the run did not store."""
    components = options.components or tuple(c for c in COMPONENTS if c == "residual" or means.layers(c))
    requested: dict[str, list[int | None]] = {}
    for component in components:
        stored = means.layers(component)
        if not isinstance(options.layers, str):
            layers = [i for i in dict.fromkeys(options.layers) if i is not None or component == "residual"]
        elif options.layers == "mid":
            layers = [means.store.meta.model.stack(means.store.meta.model.side).n_layers // 2]
        else:
            layers = stored
        for layer in [i for i in layers if i not in stored] or ([] if stored else [0]):
            means.vectors(component, layer)  # raises, and says what was stored
        requested[component] = layers
    if not any(requested.values()):
        raise UsageError("Only component residual has the layer embed: attn_out has none.")
    return requested


def _manifest_options(
    root: AnyPath,
    options: Options,
    stores: Sequence[TraceStore],
    selected: Sequence[SelectedResponses],
    held: Sequence[list[int]],
    components: Sequence[str],
) -> dict[str, Any]:
    """Return the options that the manifest keeps; by trait where traits differ."""
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
    """Return the rows of a layer, one a method."""
    pos, neg = training_vectors(means.vectors(component, layer), selected, held)
    rows = []
    for method in dict.fromkeys([*options.methods, "random"]):
        raw, converged = extraction_methods.fit(method, pos, neg, layer_seed(options.seed, layer))
        try:
            measured = extraction_methods.measure(raw, pos, neg)
        except ValueError as e:
            raise UsageError(
                f"{selected.trait}: {method} finds no direction in {component}, layer {layer} of run '{selected.run_id}': {e}."
            ) from None
        rows.append({"trait": selected.trait, "method": method, "component": component, "layer": layer,
                     "n_pos": len(pos), "n_neg": len(neg), "converged": converged, **measured._asdict(),
                     "vector": measured.vector.tolist()})  # fmt: skip
    return rows


def training_vectors(x: Any, selected: SelectedResponses, held: Sequence[int]) -> tuple[Any, Any]:
    """Split training responses by polarity.

    Args:
        x: (n, D), a row a selected response.
        selected: The responses.
        held: The questions to leave out.

    Returns:
        The rows of positive and of negative responses to all other questions.

    Raises:
        UsageError: Fewer than two of either are left.
    """
    train = [q not in set(held) for q in selected.question.tolist()]
    parts = x[train & selected.positive], x[train & ~selected.positive]
    if min(map(len, parts)) < 2:
        raise UsageError(
            f"{selected.trait}: {len(parts[0])} positive and {len(parts[1])} negative responses of run '{selected.run_id}' are left "
            "to make vectors from, and two of each are needed. Lower --threshold or --held-out (traces trait extract --help), or make "
            "more responses."
        )
    return parts


def layer_seed(seed: int, layer: int | None) -> int:
    """Return a layer's own seed, so that neighbouring layers get different random directions."""
    return seed * 10_000 + (0 if layer is None else layer + 1)


def count_not_converged(writer: RunWriter) -> dict[str, int]:
    """Count the fits that did not converge by method, over all shards; methods without any are left out."""
    total: Counter[str] = Counter()
    for shard in writer.done:
        total.update(shard.resume_point_as(dict).get("not_converged", {}))
    return dict(sorted(total.items()))
