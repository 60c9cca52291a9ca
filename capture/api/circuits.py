"""Circuits from Python: found on one part of a task's pairs, and tried on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, find_source_run, in_python_terms, joined
from capture.api.derived import load_captured_model
from capture.api.progress import capture_progress
from capture.sequences import partition
from warehouse.errors import UsageError
from warehouse.storage import paths, run_list
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.circuits.found_circuit import FoundCircuit
    from capture.model.loading import Loaded


@in_python_terms
def discover_circuit(
    task: TraceStore | str,
    *,
    method: str | Sequence[str] = "eap-ig",
    steps: int = 5,
    level: str | None = None,
    metric: str | None = None,
    share: float = 0.5,
    seed: int = 0,
    resamples: int = 100,
    verify: int = 0,
    model: Loaded | None = None,
    batch_tokens: int | None = None,
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Find which edges of a model carry a task: a score of every edge and node, with its interval.

    The same call again continues one that was interrupted.

    Example:
        run = capture.discover_circuit("ioi", method="eap-ig,random")
        run.query("FROM circuit_edges WHERE circuit = 'eap-ig' ORDER BY rank LIMIT 10").df()

    Args:
        task: A task's run, from `prepare_task`, or its name.
        method: `eap-ig`, `eap`, `gim`, `exact` (patching) or `random`; several with commas.
        steps: Gradients that `eap-ig` averages.
        level: `edge`, or `node` for nodes alone; None: `edge`, of `exact` `node`.
        metric: `logit_diff`, `prob_diff`, `logprob` or `kl`; None: the task's own.
        share: The part of the pairs that it is found on; the others are held out, for `evaluate_circuit`.
        seed: Chooses those pairs, the resamples, and what is random.
        resamples: Resamples of the bootstrap.
        verify: How many of the strongest edges of the first method are patched, and as many random ones: their `exact_effect`.
        model: The model that the task was run with; None: it is loaded from where it was.
        batch_tokens: The most tokens of a batch of pairs, both prompts counted; None: as many as there is memory for.
        run: The new run's name; None: the task's, and `-circuit`.
        root: The warehouse's folder; None: that of the task, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the pairs that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the tables `circuits`, `circuit_nodes`, `circuit_edges` and `circuit_node_scores`.

    Raises:
        UsageError: The run is no task, or the model is another, or one whose edges cannot be scored.
        NotFoundError: There is no such run, method, level or metric.
        RunExistsError: The new run exists already.
    """
    home, folder = find_source_run(task, root)
    run_id = partition.part_run_name(run or f"{paths.run_id_of(folder)}-circuit", part)
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.circuits import discover_run as job
    from capture.circuits.options import DiscoverOptions

    options = DiscoverOptions(
        split_names(method), steps, level or "", metric or "", share, seed, resamples, verify, batch_tokens, part
    )
    job.check_task(folder, options)
    loaded = check_loaded(model) if model is not None else load_captured_model(folder)
    steps = job.forecast(loaded, folder, options).steps
    with capture_progress(steps, unit="pairs") as (report, note):
        manifest = job.run(loaded, folder, options, root=home, run_id=run_id, report=report, note=note)
    return TraceStore(paths.run_dir(home, manifest.run_id))


@in_python_terms
def evaluate_circuit(
    circuit: TraceStore | str,
    tasks: TraceStore | str | Sequence[TraceStore | str] = (),
    *,
    sizes: str | float | Sequence[float] | None = None,
    selection: str | Sequence[str] = "abs",
    ablation: str | Sequence[str] = "resample",
    level: str | None = None,
    metric: str | None = None,
    random: int = 3,
    complement: bool = True,
    model: Loaded | None = None,
    batch_tokens: int | None = None,
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Try a circuit on pairs that it was not found on: how much of the task its edges alone do, at several sizes.

    The same call again continues one that was interrupted.

    Example:
        capture.evaluate_circuit("ioi-circuit/eap-ig", run="held-out")
        warehouse.Warehouse().ask("circuit_holds", run="held-out").df()

    Args:
        circuit: A run with a circuit, or its name; with the circuit's behind a / where it has several: `"ioi-circuit/eap-ig"`, or
            `"ioi-circuit/ensemble"` for the mean of the ranks of its methods.
        tasks: Tasks' runs to try it on; by default its own task's pairs that it was not found on.
        sizes: Shares of all edges: `".001,.01,1"`, a number or several; None: ten from .001 to 1.
        selection: `abs`: the largest scores by size; `signed`: the most negative, which is what helps; `greedy`: from the logits upwards;
            several with commas.
        ablation: What all other edges carry: `resample`, the corrupted prompt's values; `mean`, the mean by position over the task's
            corrupted prompts; `zero`; several with commas.
        level: `edge`, or `node` to choose whole nodes; None: edges, where they have scores.
        metric: `logit_diff`, `prob_diff`, `logprob` or `kl`; None: that which the circuit was found by, of another task its own.
        random: Draws of random circuits of each size.
        complement: Whether to try all edges but the circuit's too.
        model: The model that the circuit is of; None: it is loaded from where the tasks had it.
        batch_tokens: The most tokens of a batch of pairs, both prompts counted; None: as many as there is memory for.
        run: The new run's name; None: the circuit's, and `-eval`.
        root: The warehouse's folder; None: that of an open run, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the pairs that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the table `circuit_values`; the views `circuit_curve` and `circuit_scores` are made of it.

    Raises:
        UsageError: The run has no such circuit, a task has no pair left to try it on, or the model is another.
        NotFoundError: There is no such run, circuit, selection, kind of ablation or metric.
        RunExistsError: The new run exists already.
    """
    name = circuit.meta.run_id if isinstance(circuit, TraceStore) else circuit
    if not isinstance(name, str):
        raise UsageError(f"Name a circuit, or give a TraceStore, not a {type(name).__name__}.")
    home = circuit.path.absolute().parent if isinstance(circuit, TraceStore) and root is None else paths.find_root(root)
    run_id = partition.part_run_name(run or evaluation_name(name), part)
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.circuits import evaluate_run as job
    from capture.circuits.found_circuit import find_circuit
    from capture.circuits.options import SIZES, EvaluateOptions, parse_sizes
    from warehouse.warehouse import Warehouse

    given = SIZES if sizes is None else parse_sizes(joined(sizes))
    options = EvaluateOptions(
        name, given, split_names(selection), split_names(ablation), level or "", metric or "", random, complement, batch_tokens, part
    )  # fmt: skip
    with Warehouse(home) as wh:
        found = find_circuit(wh, name)
        named = [tasks] if isinstance(tasks, TraceStore | str) else list(tasks)
        chosen = job.choose_tasks(found, task_folders(found, named, home), options)
        loaded = check_loaded(model) if model is not None else load_captured_model(chosen[0].store.path)
        n = job.forecast(loaded, found, chosen, options).steps
        with capture_progress(n, unit="passes") as (report, note):
            manifest = job.run(loaded, found, chosen, options, root=home, run_id=run_id, report=report, note=note)
    return TraceStore(paths.run_dir(home, manifest.run_id))


def evaluation_name(circuit: str) -> str:
    """Return the name of the run that tries a circuit, where none is given."""
    return f"{circuit.replace('/', '-').replace(' ', '-')}-eval"


def split_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names that are written with commas, or as a list."""
    return tuple(word.strip() for word in joined(names).split(",") if word.strip())


def task_folders(circuit: FoundCircuit, named: Sequence[TraceStore | str], root: AnyPath) -> list[AnyPath]:
    """Find the tasks that a circuit is tried on.

    Args:
        circuit: The circuit.
        named: The tasks' runs; none: its own task.
        root: The warehouse's folder.

    Returns:
        The runs' folders.

    Raises:
        UsageError: None is named, and the circuit has none of its own; or one is named twice.
        NotFoundError: There is no such run.
    """
    if not named:
        own = circuit.facts["source_run_id"]
        if own is None:
            raise UsageError(
                f"Circuit '{circuit.place}' was read from a file, and has no task of its own: name one to try it on."
            )
        named = [own]
    folders = [task.path if isinstance(task, TraceStore) else run_list.find_run(root, task) for task in named]
    if twice := [folder for i, folder in enumerate(folders) if folder in folders[:i]]:
        raise UsageError(f"Task '{paths.run_id_of(twice[0])}' is named twice.")
    return folders
