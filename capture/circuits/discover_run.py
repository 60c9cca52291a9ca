"""Find which edges carry a task: scores of every node and edge over one part of its pairs, with intervals, as a run of kind `circuit`.

In go a task's run, its model and options; out come the tables `circuits`, `circuit_nodes`, `circuit_edges` and `circuit_node_scores`.
Every group of pairs is read once, and each method scores it; the scores go into running sums, so that memory does not grow with the pairs,
and the same call goes on from the sums of the last shard. `scorers` has the methods, `tally` the sums, `circuit_rows` the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from capture.circuits.circuit_rows import edge_rows, node_rows, pair_rows, shape_columns
from capture.circuits.options import EXACT, DiscoverOptions
from capture.circuits.pairs import PairReader, ReadPairs, read_units, split_pairs
from capture.circuits.scorers import MASKED, Scorer, Scores, make_scorers, patch_edges
from capture.circuits.tally import RunningSums, Summary, Tally, Weights
from capture.edges.edge_model import EdgeModel
from capture.edges.edge_proof import examine_edges
from capture.effects.task_pairs import PromptPair, read_pairs
from capture.interventions.intervene import check_not_held
from capture.interventions.reference import check_same_model
from capture.jobs.versions import computing_versions
from capture.model.failures import explain_memory_errors
from capture.model.in_memory import in_eval_mode
from capture.model.loading import Loaded
from capture.sequences import partition
from warehouse.analysis.circuit_selection import random_edges
from warehouse.catalog.publish import publish
from warehouse.errors import TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.grouping import group_by_size
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

KIND = "circuit"
FIRST_EDGES, FIRST_NODES = 0.01, 0.1
"""The share of the edges, and of the nodes, that selection_frequency is of."""

_SHARD_ROWS = 1 << 13
"""Rows of `circuit_node_scores` in a shard, unless one group has more."""

Report = Callable[[DerivedProgress], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Forecast:
    """The size of what would be done."""

    pairs: int
    of_pairs: int
    steps: int
    """What progress counts: each pair once a method, and once more where edges are patched."""
    edges: int
    nodes: int
    passes: int
    """About as many as this many forward passes of one prompt would cost."""


def check_task(folder: AnyPath, options: DiscoverOptions) -> None:
    """Refuse, without a model, a run that is no task, and a part without pairs; raises UsageError."""
    _own_pairs(read_pairs(TraceStore(folder)), options)


def forecast(loaded: Loaded, folder: AnyPath, options: DiscoverOptions) -> Forecast:
    """Count pairs, edges and passes without scoring; raises UsageError as `run` does for run, model and options."""
    store = TraceStore(folder)
    every_pair = read_pairs(store)
    pairs = _own_pairs(every_pair, options)
    with (
        explain_memory_errors(f"look for circuits in {loaded.name}", "Choose a --device with more of it."),
        in_eval_mode(loaded.model),
    ):
        reader = _reader(examine_edges(loaded.anatomy), store, options)
        passes = sum(scorer.passes for scorer in make_scorers(loaded, reader, options))
    passes += MASKED * 2 * options.verify
    graph, steps = reader.model.graph, len(pairs) * (len(options.methods) + bool(options.verify))
    return Forecast(len(pairs), len(every_pair), steps, graph.n_edges, len(graph.nodes), round(passes * len(pairs)))


def run(
    loaded: Loaded,
    folder: AnyPath,
    options: DiscoverOptions,
    *,
    root: AnyPath,
    run_id: str,
    report: Report = lambda _: None,
    note: Note = lambda _: None,
) -> Manifest:
    """Score the nodes and edges of a model for a task, and publish them as a run.

    Args:
        loaded: The model that the task was run with.
        folder: The task's run.
        options: How circuits are found.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every group of pairs, by each method.
        note: Called with lines for the user.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The run is no task; the model is another, or one whose edges cannot be told apart or scored.
        RunExistsError: The new run exists already.
    """
    check_not_held(loaded.model)
    store, task = TraceStore(folder), paths.run_id_of(folder)
    pairs = _own_pairs(read_pairs(store), options)
    check_same_model(store, loaded, "Run")
    remedy = f"Lower --batch-tokens{'' if options.batch_tokens is None else f' (now {options.batch_tokens:,})'}."
    with explain_memory_errors(f"find circuits of {loaded.name}", remedy), in_eval_mode(loaded.model):
        reader = _reader(examine_edges(loaded.anatomy), store, options)
        for line in reader.model.notes:
            note(line)
        scorers = make_scorers(loaded, reader, options)
        identity = RunIdentity(
            KIND,
            {"options": asdict(options), "device": loaded.device, "versions": computing_versions()},
            parents={task: folder_manifest_hash(folder)},
        )
        with RunWriter(root, run_id, identity.to_dict()) as writer:
            finder = _Finder(writer, reader, scorers, options, store, report)
            finder.find(pairs)
            facts = asdict(options) | {"metric": reader.metric}
            derive = store.meta.derive
            return publish(writer, lambda staged: derive(KIND, run_id, [task], facts, staged))


def _own_pairs(every_pair: Sequence[PromptPair], options: DiscoverOptions) -> list[PromptPair]:
    """Return the pairs that this part finds circuits on; raises UsageError where it has none."""
    found, _ = split_pairs(every_pair, options.share, options.seed)
    own = list(partition.take_part(found, options.shard))
    if not own:
        raise UsageError(f"Part {options.shard} has none of the {len(found):,} pairs: use fewer parts.")
    return own


def _reader(model: EdgeModel, store: TraceStore, options: DiscoverOptions) -> PairReader:
    return PairReader(model, options.metric or store.meta.option("metric"), options.batch_tokens, backward=True)


class _Finder:
    """One run: its running sums, and the shards that are written of them."""

    def __init__(
        self,
        writer: RunWriter,
        reader: PairReader,
        scorers: Sequence[Scorer],
        options: DiscoverOptions,
        store: TraceStore,
        report: Report,
    ) -> None:
        self._writer, self._reader, self._scorers, self._options = writer, reader, scorers, options
        self._store, self._units, self._graph = store, read_units(store), reader.model.graph
        self._weights = Weights(options.resamples, options.seed)
        sizes = {scorer.method: self._graph.n_edges if scorer.level == "edge" else None for scorer in scorers}
        self._sums = RunningSums(len(self._graph.nodes), sizes, options.resamples)
        self._report, self._progress = report, DerivedProgress(writer.run_id)
        self._shards = 0

    def find(self, pairs: Sequence[PromptPair]) -> None:
        """Write every shard that is not on disk yet: scores, then the edges that are patched, then what follows from both."""
        if self._writer.sums is not None:
            self._sums.load(self._writer.sums)
        groups = list(self._reader.groups(pairs))
        n_rows = len(self._graph.nodes) * len(self._scorers)
        shards = list(group_by_size(groups, lambda group: len(group) * n_rows, _SHARD_ROWS))
        for shard in shards:
            self._do(shard, self._score, len(self._scorers))
        if self._options.verify:
            edges = self._strongest(pairs)
            for shard in shards:
                self._do(shard, lambda group: self._patch(group, edges), 1)
        if self._shards == len(self._writer.done):
            self._writer.begin_shard({}, {})
            self._put_circuits(pairs)
            self._writer.end_shard("tables", self._sums.save)

    def _do(
        self, shard: Sequence[Sequence[PromptPair]], work: Callable[[Sequence[PromptPair]], None], steps: int
    ) -> None:
        """Do one shard, unless an earlier process has; `work` tells its progress that many times."""
        done = self._shards < len(self._writer.done)
        if not done:
            self._writer.begin_shard({}, {})
        for group in shard:
            if not done:
                work(group)
            else:
                self._progress.resumed_tokens += 2 * steps * sum(map(len, group))
                self._tell(group, steps)
        if not done:
            self._writer.end_shard(str(self._shards), self._sums.save)
        self._shards += 1

    def _tell(self, group: Sequence[PromptPair], steps: int = 1) -> None:
        """Report that a group has been done by a method, or by several."""
        self._progress.begun += steps * len(group)
        self._progress.tokens += 2 * steps * sum(map(len, group))
        self._report(self._progress)

    def _score(self, group: Sequence[PromptPair]) -> None:
        read = self._reader.read(group)
        weights = self._weights(self._units.of_pairs(group))
        self._sums.add("weights", weights.sum(1, dtype=np.float64))
        for name, last in (("clean", read.states.clean_last), ("corrupted", read.states.corrupted_last)):
            self._sums.add(name, self._reader.value(read, last).sum())
        examples = [pair.example_id for pair in group]
        for scorer in self._scorers:
            found = scorer.score(read)
            self._check_finite(scorer, found)
            self._sums.nodes[scorer.method].add(found.nodes, weights)
            if found.edges is not None:
                self._sums.edges[scorer.method].add(found.edges, weights)
            if scorer.method == "eap-ig":
                self._sums.add("gap", found.gap)
            self._put({"circuit_node_scores": pair_rows(self._name(scorer), self._graph, examples, found.nodes)})
            self._tell(group)

    def _check_finite(self, scorer: Scorer, found: Scores) -> None:
        """Raise TracesError where a score is no number: the model's dtype does not hold it."""
        if not all(np.isfinite(scores).all() for scores in (found.nodes, found.edges) if scores is not None):
            raise TracesError(
                f"{scorer.method}: a score is infinite or no number, which {self._store.meta.model.dtype} does not hold. Prepare the task "
                "again, with --dtype float32."
            )

    def _strongest(self, pairs: Sequence[PromptPair]) -> np.ndarray:
        """Return the edges that are patched: the strongest of the first method, and as many random ones of the others."""
        n = self._options.verify
        rank = self._summary(self._sums.edges[self._scorers[0].method], FIRST_EDGES, pairs).rank
        rest = np.flatnonzero(rank > n)
        drawn = rest[random_edges(min(n, len(rest)), len(rest), self._options.seed)]
        return np.concatenate([np.flatnonzero(rank <= n), drawn])

    def _patch(self, group: Sequence[PromptPair], edges: np.ndarray) -> None:
        read: ReadPairs = self._reader.read(group)
        effects = np.full(self._graph.n_edges, np.nan)
        effects[edges] = patch_edges(self._reader, read, edges.tolist()).sum(0)
        self._sums.add("patched", effects)
        self._tell(group)

    # -- what follows ------------------------------------------------------------------------------------------------

    def _put_circuits(self, pairs: Sequence[PromptPair]) -> None:
        """Write the rows of every circuit; what was patched is a fact of an edge or node, and stands with each circuit's score."""
        nodes = {m: self._summary(tally, FIRST_NODES, pairs) for m, tally in self._sums.nodes.items()}
        edges = {m: self._summary(tally, FIRST_EDGES, pairs) for m, tally in self._sums.edges.items()}
        exact_nodes, exact_edges = (x[EXACT].score if EXACT in x else None for x in (nodes, edges))
        if exact_edges is None and self._options.verify:
            exact_edges = self._sums.numbers["patched"] / len(pairs)
        for scorer in self._scorers:
            name, of_edges = self._name(scorer), edges.get(scorer.method)
            tables = {
                "circuits": to_table("circuits", self._circuit(scorer, pairs, nodes[scorer.method], of_edges)),
                "circuit_nodes": node_rows(name, self._graph, nodes[scorer.method], exact_nodes),
            }
            if of_edges is not None:
                tables["circuit_edges"] = edge_rows(name, self._graph, of_edges, exact_edges)
            self._put(tables)

    def _circuit(
        self, scorer: Scorer, pairs: Sequence[PromptPair], nodes: Summary, edges: Summary | None
    ) -> dict[str, list[Any]]:
        """Return the row of `circuits`."""
        examples = [pair.example_id for pair in pairs]
        templates = {t for e in examples if (t := self._units.templates[e]) is not None}
        numbers, ig = self._sums.numbers, scorer.method == "eap-ig"
        change = abs(float(numbers["corrupted"] - numbers["clean"]))
        row = {
            "circuit": self._name(scorer),
            "source_run_id": paths.run_id_of(self._store.path),
            "task": self._store.meta.option("task"),
            "corruption": " | ".join(sorted({self._units.corruptions[e] for e in examples})),
            "metric": self._reader.metric,
            "method": scorer.method,
            "steps": self._options.steps if ig else None,
            "level": scorer.level,
            "ablation": "resample",
            **shape_columns(self._graph),
            "n_examples": len(pairs),
            "n_templates": len(templates) or None,
            "n_resamples": None if nodes.low is None else self._options.resamples,
            "unit": None if nodes.low is None else self._units.name,
            "n_selected_edges": None if edges is None or edges.low is None else edges.n_first,
            "n_selected_nodes": None if nodes.low is None else nodes.n_first,
            "clean": float(numbers["clean"]) / len(pairs),
            "corrupted": float(numbers["corrupted"]) / len(pairs),
            "completeness_error": abs(float(numbers["gap"])) / change if ig and change else None,
            "seed": self._options.seed,
        }
        return {name: [value] for name, value in row.items()}

    def _summary(self, tally: Tally, share: float, pairs: Sequence[PromptPair]) -> Summary:
        n_units = len(set(self._units.of_pairs(pairs)))
        return tally.summary(len(pairs), self._sums.numbers["weights"], n_units, share)

    def _name(self, scorer: Scorer) -> str:
        """Return the circuit's name: that of a part of the pairs says which."""
        return f"{scorer.method} {self._options.shard}".rstrip()

    def _put(self, tables: Mapping[str, pa.Table]) -> None:
        self._writer.put(RecordedBatch([], {}, {}, tables))
