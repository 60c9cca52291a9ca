"""Influence: which source tokens, through which heads, MLPs and the embedding, made the predictions of a run.

Everything but occlusion is computed from what the run has stored and from the model's weights; the model's blocks are not run.

`run` reads a captured run and leaves a run of kind `influence` with the tables `influence_targets`, `logit_parts`, `influence`,
`token_edges` and `identity_errors`; `forecast` says how large that would be. `options` checks what is asked for, `targets` picks the
predictions and their tokens, `layers` takes the model apart, `logit_parts` and `flows` explain, `occlusion` checks by running the
model, `rows` makes the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch

from capture.influences.flows import Edges, follow_ifr, follow_value_norms
from capture.influences.identities import SHARES, IdentityErrors
from capture.influences.layers import take_apart, why_no_flows
from capture.influences.logit_parts import explain_logit
from capture.influences.occlusion import Occluder
from capture.influences.options import Options, check_run
from capture.influences.rows import Explained, make_tables
from capture.influences.states import SequenceStates
from capture.influences.targets import SequenceTargets, TokenChooser, count_targets, group_targets
from capture.interventions.intervene import check_not_held
from capture.jobs.versions import computing_versions
from capture.model.examine import examine
from capture.model.failures import explain_memory_errors
from capture.model.hashes import has_weights
from capture.model.in_memory import in_eval_mode
from capture.model.loading import Loaded
from capture.model.logit_direction import LogitReader
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.storage import paths
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

KIND = "influence"


class Forecast(NamedTuple):
    """What an influence run would explain."""

    predictions: int
    sequences: int


def forecast(folder: AnyPath, options: Options) -> Forecast:
    """Say what would be explained, without loading a model; raises UsageError as `run` does for run and options."""
    store = TraceStore(folder)
    check_run(store)
    return Forecast(*count_targets(store, options))


def run(
    loaded: Loaded,
    folder: AnyPath,
    options: Options,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Explain predictions of a published run, and publish what made them as a run of its own.

    The same call resumes where an earlier one was interrupted.

    Args:
        loaded: The model that the run was captured with.
        folder: The captured run.
        options: What is explained, and how.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every sequence.
        note: Called with lines for the user.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The run has not stored what is needed (the message has the command that stores it) or has no such prediction;
            the model is another, or cannot be taken apart; a token is several.
        RunExistsError: The new run exists already.
        TracesError: The model predicts no tokens.
    """
    store = TraceStore(folder)
    check_run(store)
    count_targets(store, options)
    _check_model(store, loaded)
    check_not_held(loaded.model)
    with in_eval_mode(loaded.model):
        explainer = Explainer(loaded, store, options)
    if explainer.no_flows and not options.measures:
        note(f"{loaded.name}: {explainer.no_flows}; so only the parts of the logit are kept")
    source = paths.run_id_of(folder)
    progress = DerivedProgress(run_id)
    with (
        explain_memory_errors(f"explain predictions of {loaded.name}", "Choose a --device with more of it."),
        in_eval_mode(loaded.model),
        RunWriter(root, run_id, _identity(folder, loaded, options).to_dict()) as writer,
    ):
        for number, shard in enumerate(group_targets(store, options)):
            done, errors = number < len(writer.done), IdentityErrors()
            if not done:
                writer.begin_shard({}, {})
            for sequence in shard:
                progress.begun += 1
                progress.tokens += sequence.positions[-1] + 1
                if done:
                    progress.resumed_tokens = progress.tokens
                else:
                    explained = explainer.explain(sequence, errors)
                    tables = make_tables(source, loaded.tokenizer, explained, "logit" in explainer.measures)
                    writer.put(RecordedBatch([], {}, {}, tables))
                report(progress)
            if not done:
                writer.put(RecordedBatch([], {}, {}, {"identity_errors": errors.table(source)}))
                writer.end_shard(str(number))
        manifest = store.meta.derive
        return publish(writer, lambda published: manifest(KIND, run_id, [source], asdict(options), published))


class Explainer:
    """Explains the predictions of sequences, one sequence after the other."""

    def __init__(self, loaded: Loaded, store: TraceStore, options: Options) -> None:
        """Take the model apart; raises UsageError where that cannot be done, or the run has not stored what it takes."""
        self._store, self._options = store, options
        anatomy = examine(loaded.model)
        self._layers = take_apart(anatomy, store)
        self.no_flows = why_no_flows(self._layers)
        """Why `ifr` and `value-norm` cannot be had; None: they can."""
        if self.no_flows and {"ifr", "value-norm"} & set(options.measures):
            raise UsageError(f"{loaded.name}: {self.no_flows}. Use --measure logit or occlusion.")
        self.measures = options.measures or (("logit",) if self.no_flows else ("logit", "ifr"))
        self._reader = LogitReader(anatomy)
        self._occluder = Occluder(anatomy, self._reader) if "occlusion" in self.measures else None
        self._chooser = TokenChooser(store, options, loaded.tokenizer, self._reader.vocabulary)

    @torch.no_grad()
    def explain(self, sequence: SequenceTargets, errors: IdentityErrors) -> list[Explained]:
        """Explain the predictions of a sequence.

        Args:
            sequence: The sequence and its predictions.
            errors: Counts how exactly the identities hold.

        Returns:
            What was found of each prediction.
        """
        states = SequenceStates(self._store, sequence.example_id, sequence.seq)
        measures, positions = self.measures, sequence.positions
        shares: dict[str, np.ndarray] = {}
        edges: list[Edges] | None = None
        if "ifr" in measures:
            shares["ifr"], edges = follow_ifr(states, self._layers, positions, self._options.least_flow)
        if "value-norm" in measures:
            shares["value-norm"] = follow_value_norms(states, self._layers, positions).shares
        for found in shares.values():
            errors.count(SHARES, found.sum(1), np.ones(len(found)))
        explained = []
        for i, (pos, said) in enumerate(zip(positions, sequence.said, strict=True)):
            row = torch.from_numpy(states.stream("post_mlp", len(self._layers) - 1, pos))
            logits = self._reader.logits(row[None])[0]
            tokens = self._chooser.choose(sequence.example_id, said, logits)
            direction = self._reader.direction(row, logits, *tokens)
            parts = explain_logit(states, self._layers, direction, pos, errors)
            own = {measure: x[i, : pos + 1] for measure, x in shares.items()}
            graph = None if edges is None else edges[i]
            key = (sequence.example_id, sequence.seq, pos)
            explained.append(Explained(*key, tokens, direction.logit, self._reader.quantity, parts, own, graph))
        if self._occluder is not None:
            ids = self._store.encodings(sequence.example_id, sequence.seq)["input_ids"]
            changes = self._occluder.occlude(ids, positions, [e.tokens for e in explained])
            for e, change in zip(explained, changes, strict=True):
                e.shares["occlusion"] = change
        return explained


def _identity(folder: AnyPath, loaded: Loaded, options: Options) -> RunIdentity:
    """Return what must be equal for a second call to resume the first."""
    return RunIdentity(
        KIND,
        {"options": asdict(options), "device": loaded.device, "versions": computing_versions()},
        parents={paths.run_id_of(folder): folder_manifest_hash(folder)},
    )


def _check_model(store: TraceStore, loaded: Loaded) -> None:
    """Raise UsageError for another model; a run captured without the head knows only the weights of the body."""
    m = store.meta.model
    if not has_weights(loaded.model, m.weights_hash):
        raise UsageError(
            f"{loaded.name} has other weights than those that run '{store.meta.run_id}' was captured with ({m.name}, "
            f"{m.dtype}), so that it cannot explain the run's predictions. If that model lies elsewhere now: --model PLACE"
        )
