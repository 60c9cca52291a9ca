"""Try a circuit on pairs that it was not found on: the metric with its edges alone, as a run of kind `circuit-evaluation`.

In go a circuit of a run and the tasks to try it on; out comes the table `circuit_values`: for each pair, size, selection and kind of
ablation the metric with only the circuit's edges as they are, with all but those, and with as many random ones. `full_value` is the metric
of the model as it is, `none_value` that with every edge ablated. `circuit_curve` and the other views make faithfulness of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from capture.circuits.found_circuit import FoundCircuit
from capture.circuits.options import EvaluateOptions
from capture.circuits.pairs import PairReader, ReadPairs, Units, read_units
from capture.edges.edge_graph import EdgeGraph
from capture.edges.edge_model import Ablation, EdgeModel
from capture.edges.edge_proof import examine_edges
from capture.edges.masked_pass import masked_states
from capture.effects.task_pairs import CORRUPTED, PromptPair, read_pairs
from capture.interventions.intervene import check_not_held
from capture.interventions.reference import check_same_model, position_means
from capture.jobs.versions import computing_versions
from capture.model.failures import explain_memory_errors
from capture.model.in_memory import in_eval_mode
from capture.model.loading import Loaded
from capture.sequences import partition
from warehouse.analysis.circuit_selection import number_of_share, order_edges, prune_edges, random_edges
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.storage import paths
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

KIND = "circuit-evaluation"

Report = Callable[[DerivedProgress], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Forecast:
    """The size of what would be done."""

    pairs: int
    passes: int
    """Edge-masked passes of each pair."""
    steps: int
    """What progress counts: each pair once a mask and kind of ablation, two of which may be one pass."""


@dataclass(frozen=True)
class TriedTask:
    """A task that a circuit is tried on."""

    store: TraceStore
    pairs: Sequence[PromptPair]
    """Those that the circuit was not found on."""
    every_pair: Sequence[PromptPair]
    metric: str

    @property
    def run_id(self) -> str:
        """The task's run."""
        return paths.run_id_of(self.store.path)

    @cached_property
    def units(self) -> Units:
        """What a resample draws."""
        return read_units(self.store)


@dataclass(frozen=True)
class Mask:
    """Edges that are left as they are, under the keys of `circuit_values`."""

    selection: str
    size: float
    variant: str
    draw: int
    n_asked: int
    keep: np.ndarray
    """(E,) booleans."""


def choose_tasks(circuit: FoundCircuit, folders: Sequence[AnyPath], options: EvaluateOptions) -> list[TriedTask]:
    """Choose the pairs of each task that a circuit is tried on, without a model.

    Args:
        circuit: The circuit.
        folders: The tasks' runs.
        options: What is asked for.

    Returns:
        The tasks.

    Raises:
        UsageError: A run is no task, is of another model than the circuit, or has no pair that the circuit was not found on.
    """
    known, tasks = circuit.found_on(), []
    circuit.level(options.level)
    for folder in folders:
        store = TraceStore(folder)
        every_pair = read_pairs(store)
        model, own = store.meta.model, circuit.store.meta.model
        if own.weights_hash not in ("", model.weights_hash):  # none: imported, without its model
            raise UsageError(
                f"Circuit '{circuit.place}' is of {own.name}, and task '{store.meta.run_id}' of {model.name}, with other weights: prepare "
                "the task with the circuit's model."
            )
        left = [pair for pair in every_pair if pair.example_id not in known]
        if not left:
            raise UsageError(
                f"Circuit '{circuit.place}' was found on all {len(every_pair):,} pairs of task '{store.meta.run_id}', and none are left to "
                "try it on: name another task, or find it on fewer (traces circuit discover --share .5)."
            )
        pairs = list(partition.take_part(left, options.shard))
        if not pairs:
            raise UsageError(f"Part {options.shard} has none of the {len(left):,} pairs: use fewer parts.")
        found_by = circuit.facts["metric"] if circuit.facts["source_run_id"] == store.meta.run_id else None
        metric = options.metric or found_by or store.meta.option("metric")
        tasks.append(TriedTask(store, pairs, every_pair, metric))
    return tasks


def forecast(loaded: Loaded, circuit: FoundCircuit, tasks: Sequence[TriedTask], options: EvaluateOptions) -> Forecast:
    """Count pairs and passes without running; raises UsageError as `run` does for circuit, model and options."""
    with (
        explain_memory_errors(f"look for circuits in {loaded.name}", "Choose a --device with more of it."),
        in_eval_mode(loaded.model),
    ):
        graph = examine_edges(loaded.anatomy).graph
    masks = make_masks(circuit, graph, options)
    once, pairs = len({mask.keep.tobytes() for mask in masks}), sum(len(task.pairs) for task in tasks)
    return Forecast(pairs, once * len(options.ablations), pairs * len(masks) * len(options.ablations))


def run(
    loaded: Loaded,
    circuit: FoundCircuit,
    tasks: Sequence[TriedTask],
    options: EvaluateOptions,
    *,
    root: AnyPath,
    run_id: str,
    report: Report = lambda _: None,
    note: Note = lambda _: None,
) -> Manifest:
    """Try a circuit on tasks, and publish what the metric is as a run.

    Args:
        loaded: The model that the circuit was found in.
        circuit: The circuit.
        tasks: What it is tried on, from `choose_tasks`.
        options: How.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every group of pairs, for each mask.
        note: Called with lines for the user.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The model is another, or one whose edges cannot be told apart.
        RunExistsError: The new run exists already.
    """
    check_not_held(loaded.model)
    for task in tasks:
        check_same_model(task.store, loaded, "Task")
    remedy = f"Lower --batch-tokens{'' if options.batch_tokens is None else f' (now {options.batch_tokens:,})'}."
    with explain_memory_errors(f"try a circuit of {loaded.name}", remedy), in_eval_mode(loaded.model):
        model = examine_edges(loaded.anatomy)
        masks = make_masks(circuit, model.graph, options, note)
        stores = [circuit.store, *(task.store for task in tasks)]
        identity = RunIdentity(
            KIND,
            {
                "options": asdict(options),
                "tasks": [task.run_id for task in tasks],
                "device": loaded.device,
                "versions": computing_versions(),
            },
            parents={paths.run_id_of(store.path): folder_manifest_hash(store.path) for store in stores},
        )
        with RunWriter(root, run_id, identity.to_dict()) as writer:
            evaluator = _Evaluator(writer, loaded, model, circuit, masks, options, report)
            for task in tasks:
                evaluator.evaluate(task)
            parents = list(dict.fromkeys(paths.run_id_of(store.path) for store in stores))
            facts, derive = asdict(options), tasks[0].store.meta.derive
            return publish(writer, lambda staged: derive(KIND, run_id, parents, facts, staged))


def make_masks(
    circuit: FoundCircuit, graph: EdgeGraph, options: EvaluateOptions, note: Note = lambda _: None
) -> list[Mask]:
    """Choose the edges of a circuit at every size, of its complement, and of random circuits of as many.

    Args:
        circuit: The circuit.
        graph: The model's graph.
        options: Sizes, selections and variants.
        note: Called with lines for the user.

    Returns:
        A mask for each.

    Raises:
        UsageError: The circuit is of another model.
    """
    level = circuit.level(options.level)
    scores = circuit.scores(graph, level)
    sizes, total = options.sizes, len(scores.values)
    if scores.in_graph is not None:
        sizes = (int(scores.in_graph.sum()) / total,)
        note(
            f"{circuit.place} has no scores, but a list of its {level}s: it is tried at the size that it has, {sizes[0]:.4g}"
        )
    masks = []
    for selection in options.selections:
        order = _order(graph, scores.values, selection, level)
        for size in sizes:
            n = number_of_share(size, total)
            keep, n_kept = _keep(graph, order[:n], level)
            masks.append(Mask(selection, size, "circuit", 0, n, keep))
            if options.complement:
                masks.append(Mask(selection, size, "complement", 0, n, ~keep))
            for draw in range(options.random):
                drawn = random_edges(n_kept, total, draw)
                masks.append(
                    Mask(selection, size, "random", draw, n, drawn if level == "edge" else graph.edges_of_nodes(drawn))
                )
    return masks


def _order(graph: EdgeGraph, scores: np.ndarray, selection: str, level: str) -> np.ndarray:
    """Return edges, or nodes, by their places, the best first."""
    if level == "edge":
        return order_edges(scores, selection, graph.edge_nodes, graph.edge_sinks, graph.feeds)
    order: np.ndarray = np.argsort(scores if selection == "signed" else -np.abs(scores), kind="stable")
    return order


def _keep(graph: EdgeGraph, taken: np.ndarray, level: str) -> tuple[np.ndarray, int]:
    """Return the edges of a circuit, (E,) booleans without dangling ones, and how many edges, or nodes that they leave, they are."""
    chosen = np.zeros(graph.n_edges if level == "edge" else len(graph.nodes), dtype=bool)
    chosen[taken] = True
    edges = chosen if level == "edge" else graph.edges_of_nodes(chosen)
    keep = prune_edges(edges, graph.edge_nodes, graph.edge_sinks, graph.feeds)
    return keep, int(keep.sum()) if level == "edge" else len(np.unique(graph.edge_nodes[keep]))


class _Evaluator:
    """One run: tries every mask on one group of pairs after the other, and writes shards."""

    def __init__(
        self,
        writer: RunWriter,
        loaded: Loaded,
        model: EdgeModel,
        circuit: FoundCircuit,
        masks: Sequence[Mask],
        options: EvaluateOptions,
        report: Report,
    ) -> None:
        self._writer, self._loaded, self._model, self._circuit = writer, loaded, model, circuit
        self._masks, self._options, self._report = masks, options, report
        self._progress = DerivedProgress(writer.run_id)
        self._shards = 0

    def evaluate(self, task: TriedTask) -> None:
        """Write the shards of a task that are not on disk yet, one for each group of pairs: it takes as many passes as there are masks."""
        reader = PairReader(self._model, task.metric, self._options.batch_tokens, backward=False)
        ablations = {kind: self._ablation(kind, task) for kind in self._options.ablations}
        n_rows = len(self._masks) * len(ablations)
        for group in reader.groups(task.pairs):
            if self._shards < len(self._writer.done):
                self._progress.resumed_tokens += n_rows * sum(map(len, group))
                self._tell(group, n_rows)
            else:
                self._writer.begin_shard({}, {})
                for rows in self._rows(task, reader, group, ablations):
                    values = to_table("circuit_values", rows)
                    self._writer.put(RecordedBatch([], {}, {}, {"circuit_values": values}))
                    self._tell(group)
                self._writer.end_shard(str(self._shards))
            self._shards += 1

    def _tell(self, group: Sequence[PromptPair], steps: int = 1) -> None:
        """Report that a group has been tried with a mask, or with several."""
        self._progress.begun += steps * len(group)
        self._progress.tokens += steps * sum(map(len, group))
        self._report(self._progress)

    def _ablation(self, kind: str, task: TriedTask) -> Ablation | None:
        """Return what edges outside of a circuit carry; None: the corrupted prompt's values."""
        if kind == "resample":
            return None
        if kind == "zero":
            return self._model.ablation(kind)
        prompts = [pair.ids[CORRUPTED] for pair in reversed(task.every_pair)]  # the longest count, where there are many
        means = position_means(self._loaded, prompts, self._model.written_keys, self._model.restart)
        return self._model.ablation(kind, means)

    def _rows(
        self, task: TriedTask, reader: PairReader, group: Sequence[PromptPair], ablations: Mapping[str, Ablation | None]
    ) -> Iterator[dict[str, list[Any]]]:
        """Yield the rows of every mask, as columns."""
        read, n, graph = reader.read(group), len(group), self._model.graph
        full = reader.value(read, read.states.clean_last)
        same = {
            "circuit_run_id": [self._circuit.run_id] * n,
            "circuit": [self._circuit.name] * n,
            "source_run_id": [task.run_id] * n,
            "level": [self._circuit.level(self._options.level)] * n,
            "metric": [task.metric] * n,
            "example_id": [pair.example_id for pair in group],
            "held_out": [True] * n,
            "unit": task.units.of_pairs(group),
            "full_value": full.tolist(),
        }
        for kind, ablated in ablations.items():
            known: dict[bytes, np.ndarray] = {}  # masks of several sizes and variants may be one

            def value(
                keep: np.ndarray, ablated: Ablation | None = ablated, known: dict[bytes, np.ndarray] = known
            ) -> np.ndarray:
                key = keep.tobytes()
                if key not in known:
                    known[key] = self._value(reader, read, keep, ablated)
                return known[key]

            none = value(np.zeros(graph.n_edges, dtype=bool))
            for mask in self._masks:
                yield same | {
                    "selection": [mask.selection] * n,
                    "ablation": [kind] * n,
                    "variant": [mask.variant] * n,
                    "draw": [mask.draw] * n,
                    "size": [mask.size] * n,
                    "n_asked": [mask.n_asked] * n,
                    "n_edges": [int(mask.keep.sum())] * n,
                    "value": value(mask.keep).tolist(),
                    "none_value": none.tolist(),
                }

    def _value(self, reader: PairReader, read: ReadPairs, keep: np.ndarray, ablated: Ablation | None) -> np.ndarray:
        """Return the metric of pairs with only some edges kept."""
        graph = self._model.graph
        if ablated is None and not prune_edges(keep, graph.edge_nodes, graph.edge_sinks, graph.feeds).any():
            return reader.value(read, read.states.corrupted_last)  # few random edges make no path to the logits
        return reader.value(read, masked_states(self._model, read.states, keep, ablated))
