"""Ablation and patching of a task, as runs: what each intervention does to the task's metric, prompt by prompt.

In go a task's run, its model and options; out comes a run of kind `ablation` or `patching` with the tables `interventions` and
`effects`. The same call resumes one that was interrupted. `task_pairs` reads the pairs, `options` lists the interventions,
`measure` runs them. effect = value - baseline, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from capture.effects.measure import Measurer, StoredValues, by_name, check_reference_length
from capture.effects.options import Change, Options, expand
from capture.effects.task_pairs import PromptPair, group_pairs, group_shards, read_pairs
from capture.interventions.intervene import check_not_held
from capture.interventions.reference import (
    PositionMeans,
    check_same_model,
    position_means,
    run_sequences,
    stored_values,
)
from capture.interventions.restart import Restart
from capture.jobs.versions import computing_versions
from capture.model.failures import explain_memory_errors
from capture.model.in_memory import in_eval_mode
from capture.model.loading import Loaded
from capture.sequences import partition
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.storage import paths, run_list
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

ABLATION, PATCHING = "ablation", "patching"

Note = Callable[[str], None]


@dataclass(frozen=True)
class Forecast:
    """The size of what would be measured."""

    interventions: int
    pairs: int
    rows: int
    """Rows of `effects`: a forward pass of one sequence each, batched, from the first layer that changes."""


def kind_of(options: Options) -> str:
    """Return the kind of run that options make."""
    return PATCHING if options.kind == "patch" else ABLATION


def forecast(loaded: Loaded, folder: AnyPath, options: Options) -> Forecast:
    """Count interventions and rows without running the model; raises UsageError as `run` does for run and options."""
    every_pair = read_pairs(TraceStore(folder))
    pairs, changes = _own_pairs(every_pair, options), _list_changes(loaded, every_pair, options)
    return Forecast(len(changes), len(pairs), sum(c.applies(len(p)) for p in pairs for c in changes))


def run(
    loaded: Loaded,
    folder: AnyPath,
    options: Options,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
    note: Note = lambda _: None,
) -> Manifest:
    """Measure what interventions do to a task's metric, and publish it as a run.

    Args:
        loaded: The model that the task was run with.
        folder: The task's run.
        options: What is done.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every group of pairs.
        note: Called with lines for the user.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The run is no task; the model is another, or has no such layer, head or site; the reference run is of another
            model, or has not stored what is put in.
        RunExistsError: The new run exists already.
    """
    check_not_held(loaded.model)
    store, task = TraceStore(folder), paths.run_id_of(folder)
    every_pair = read_pairs(store)
    pairs = _own_pairs(every_pair, options)
    check_same_model(store, loaded, "Run")
    reference = TraceStore(run_list.find_run(root, options.reference)) if options.reference else None
    if reference is not None:
        check_same_model(reference, loaded, "Reference run")
    changes = _list_changes(loaded, every_pair, options)  # the same in every part, so that their ids are
    remedy = f"Lower --batch-tokens (now {options.batch_tokens:,})."
    with explain_memory_errors(f"run {loaded.name}", remedy), in_eval_mode(loaded.model):
        restart = Restart(loaded.anatomy)
        if restart.reason:
            note(f"{loaded.name}: every pass runs in whole, as {restart.reason}")
        means = _find_means(loaded, restart, changes, options, every_pair, reference)
        if means is not None:
            pairs = _with_means(means, pairs, reference is None, note)
        metric = options.metric or store.meta.option("metric")
        stored = None if reference is None else _stored(reference, loaded)
        measurer = Measurer(
            loaded, restart, changes, options, metric, means, reference is None and means is not None, stored
        )
        with RunWriter(root, run_id, _identity(folder, loaded, options, reference).to_dict()) as writer:
            _write(writer, measurer, task, pairs, changes, options, means, report)
            parents = [task] if reference is None else [task, reference.meta.run_id]
            facts = asdict(options) | {"metric": metric}
            derive = store.meta.derive
            return publish(
                writer, lambda staged: derive(kind_of(options), run_id, list(dict.fromkeys(parents)), facts, staged)
            )


def _own_pairs(pairs: Sequence[PromptPair], options: Options) -> list[PromptPair]:
    """Return the pairs of this part; raises UsageError where it has none."""
    groups = list(group_pairs(list(pairs), options.batch_tokens))
    if options.shard and len(groups) < partition.parse_part(options.shard)[1]:
        groups = [[pair] for pair in pairs]  # a small task: or some parts would have nothing to do
    own = [pair for group in partition.take_part(groups, options.shard) for pair in group]
    if not own:
        raise UsageError(f"Part {options.shard} of the task has none of its {len(pairs):,} pairs: use fewer parts.")
    return own


def _list_changes(loaded: Loaded, pairs: Sequence[PromptPair], options: Options) -> list[Change]:
    return expand(loaded.anatomy, options, max(map(len, pairs)))


def _find_means(
    loaded: Loaded,
    restart: Restart,
    changes: Sequence[Change],
    options: Options,
    pairs: Sequence[PromptPair],
    reference: TraceStore | None,
) -> PositionMeans | None:
    """Return what `mean` puts in: means over a run's sequences, or over all of the task's own prompts."""
    if options.kind != "mean":
        return None
    if reference is None:
        sequences = [pair.ids[options.seq] for pair in pairs]
    else:
        sequences = [ids for _, _, ids in run_sequences(reference, loaded.anatomy.main.side)]
    return position_means(loaded, sequences, list(dict.fromkeys(c.key for c in changes)), restart)


def _with_means(means: PositionMeans, pairs: Sequence[PromptPair], own: bool, note: Note) -> list[PromptPair]:
    """Return the pairs for which there are means; says how many have none, and raises UsageError where none has any."""
    known = check_reference_length(means, pairs, own)
    which = "other prompt of the task" if own else "sequence of the reference run"
    if not known:
        raise UsageError(
            f"No {which} is as long as a prompt, so that there is no mean by position: name a --reference run."
        )
    if left := len(pairs) - len(known):
        note(
            f"{left:,} of {len(pairs):,} prompts are left out: no {which} is as long, so that there is no mean to put in"
        )
    return known


def _stored(reference: TraceStore, loaded: Loaded) -> StoredValues:
    return lambda key, example_id, seq: stored_values(reference, loaded.anatomy, key, example_id, seq)


def _write(
    writer: RunWriter,
    measurer: Measurer,
    task: str,
    pairs: Sequence[PromptPair],
    changes: Sequence[Change],
    options: Options,
    means: PositionMeans | None,
    report: Callable[[DerivedProgress], None],
) -> None:
    """Measure every shard that is not on disk yet."""
    progress = DerivedProgress(writer.run_id)
    groups = group_pairs(list(pairs), options.batch_tokens)
    for number, shard in enumerate(group_shards(groups, len(changes))):
        done = number < len(writer.done)
        if not done:
            writer.begin_shard({}, {})
            if number == 0:
                rows = to_table("interventions", _intervention_columns(changes, options, means))
                writer.put(RecordedBatch([], {}, {}, {"interventions": rows}))
        for group in shard:
            if not done:
                for effects in measurer(group):
                    writer.put(RecordedBatch([], {}, {}, {"effects": to_table("effects", by_name(effects, task))}))
            progress.begun += len(group)
            progress.tokens += sum(len(p) * sum(c.applies(len(p)) for c in changes) for p in group)
            if done:
                progress.resumed_tokens = progress.tokens
            report(progress)
        if not done:
            writer.end_shard(str(number))


def _intervention_columns(
    changes: Sequence[Change], options: Options, means: PositionMeans | None
) -> dict[str, list[Any]]:
    """Return the interventions as columns of the table `interventions`."""
    n = len(changes)
    direction = ("denoise" if options.seq else "noise") if options.from_pair else None
    return {
        "intervention_id": list(range(n)),
        "spec": [str(c.intervention) for c in changes],
        "side": [c.key.side for c in changes],
        "site": [c.key.site for c in changes],
        "layer": [c.key.layer for c in changes],
        "head": [c.intervention.head for c in changes],
        "pos": [c.pos for c in changes],
        "kind": [options.kind] * n,
        "direction": [direction] * n,
        "reference_run_id": [options.reference or None] * n,
        "n_reference": [None if means is None else means.n - (not options.reference)] * n,
    }


def _identity(folder: AnyPath, loaded: Loaded, options: Options, reference: TraceStore | None) -> RunIdentity:
    """Return what must be equal for a second call to resume the first."""
    parents = {paths.run_id_of(folder): folder_manifest_hash(folder)}
    if reference is not None:
        parents[reference.meta.run_id] = folder_manifest_hash(reference.path)
    return RunIdentity(
        kind_of(options),
        {"options": asdict(options), "device": loaded.device, "versions": computing_versions()},
        parents=parents,
    )
