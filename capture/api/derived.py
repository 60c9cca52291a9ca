"""What is made of a run from Python: the logit lens, projections on traits, and the whole pipeline of a trait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from capture.api.arguments import check_loaded, existing_run, find_source_run, in_python_terms, joined
from capture.api.progress import capture_progress, judge_progress, pipeline_progress
from capture.api.runs import screen_note
from capture.sequences import partition
from warehouse.errors import TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from capture.model.loading import Loaded
    from capture.traits.directions import Direction
    from capture.traits.judge_clients import Judge
    from warehouse.storage.manifest import Manifest, ModelInfo


@in_python_terms
def lens(
    source: TraceStore | str,
    *,
    model: Loaded | None = None,
    layers: str | Sequence[int | str] = "all",
    positions: str | Sequence[int] = "all",
    top_k: int = 50,
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Apply the logit lens: what the model would predict if it stopped after each layer, from a run's stored residual stream.

    The model's final norm and unembedding are applied to the stored states; its blocks are not run. The same call again continues
    one that was interrupted.

    Example:
        capture.lens(run, top_k=5).query("FROM logit_lens").df()

    Args:
        source: A run that kept its residual stream, or its name.
        model: The model that it was captured with; None: it is loaded from where it was.
        layers: Layer l is the output of block l: `"0,5,mid"`, `[0, 5]`, `last`, `embed`, or `all`.
        positions: Which tokens: `all`, `last` (of each sequence), `response`, or numbers.
        top_k: How many of the likeliest tokens to keep.
        run: The new run's name; None: the source's, and `-lens`.
        root: The warehouse's folder; None: that of the source, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the sequences that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the table `logit_lens`.

    Raises:
        UsageError: The run has not stored what is needed, or was captured with another model.
        RunExistsError: The new run exists already.
        TracesError: The model cannot be loaded, or predicts no tokens.
    """
    home, folder = find_source_run(source, root)
    run_id = partition.part_run_name(run or f"{paths.run_id_of(folder)}-lens", part)
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.logit_lens import lens_run as job

    options = job.Options(top_k, joined(layers), joined(positions), part)
    job.forecast(folder, options)
    if line := TraceStore(folder).left_out():
        screen_note(line)
    loaded = check_loaded(model) if model is not None else load_captured_model(folder)
    with capture_progress() as (report, _):
        manifest = job.run(loaded, folder, options, root=home, run_id=run_id, report=report)
    return TraceStore(paths.run_dir(home, manifest.run_id))


def load_captured_model(
    folder: AnyPath, load: Callable[[ModelInfo], Loaded] | None = None, remedy: str = "model=…"
) -> Loaded:
    """Load the model that a run was captured with.

    Args:
        folder: The run's folder.
        load: Loads a model by what the run knows of it; None: as `capture.load` does.
        remedy: What the message recommends where the model is not found.

    Returns:
        The model, in the run's dtype.

    Raises:
        UsageError: It is not where it was.
    """
    info = TraceStore(folder).meta.model
    try:
        if load is not None:
            return load(info)
        from capture.api.models import load as load_model

        return load_model(info.name, head="lm", dtype=info.dtype, revision=info.revision)
    except TracesError as e:
        run = paths.run_id_of(folder)
        raise UsageError(f"{e} If the model of run '{run}' lies elsewhere now: {remedy}") from None


@in_python_terms
def project(
    source: TraceStore | str,
    traits: str | Sequence[str],
    *,
    vectors: str | Sequence[str] = (),
    layers: Sequence[int | None] | int = (),
    methods: str | Sequence[str] = (),
    components: str | Sequence[str] = (),
    threshold: float = 0.1,
    dynamics_only: bool = False,
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
) -> TraceStore:
    """Project every token of a run on traits' vectors, from its stored tensors, without a model.

    By default a trait's best vector is taken, as steering or evaluation found it. The same call again continues one that was
    interrupted, and returns the projection that exists already.

    Example:
        capture.project(run, ["sycophantic", "humorous"]).query("FROM trait_projections").df()

    Args:
        source: A run that kept the states the vectors belong to, or its name.
        traits: Traits that have vectors.
        vectors: Runs to take vectors from; by default the newest with vectors of each trait.
        layers: Layers, None for the embedding; by default the best one.
        methods: `mean_diff`, `probe`, …; by default the best one.
        components: `residual`, `attn_out`; by default the best one.
        threshold: Threshold of the commitment point.
        dynamics_only: Keep only a row a response, the table `trait_dynamics`.
        run: The new run's name; None: the source's, and `-traits`.
        root: The warehouse's folder; None: that of the source, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the sequences that this process does.

    Returns:
        The new run, with the tables `trait_projections` and `trait_dynamics`.

    Raises:
        NotFoundError: A run, trait, method, component or layer has no vector.
        UsageError: The vectors are of another model, or the run did not store the states that they belong to.
        RunExistsError: A run of that name exists already.
    """
    home, folder = find_source_run(source, root)
    from capture.traits.directions import Options, choose_directions

    options = Options(
        _names(traits), _names(vectors), (layers,) if isinstance(layers, int) else tuple(layers), _names(methods), _names(components),
        dynamics_only, threshold, part,
    )  # fmt: skip
    with Warehouse(home) as wh:
        name = paths.run_id_of(folder)
        manifest = project_run(wh, name, choose_directions(wh, name, options), options, run, screen_note)
    return TraceStore(paths.run_dir(home, manifest.run_id))


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names as the commands take them: each once, a text being one name."""
    return tuple(dict.fromkeys([names] if isinstance(names, str) else names))


def project_run(
    wh: Warehouse,
    source: str,
    chosen: Sequence[Direction],
    options: Any,
    run: str | None,
    note: Callable[[str], None],
    say: Any = None,
) -> Manifest:
    """Project a run on directions, with the reasons for them and its progress shown.

    Args:
        wh: The warehouse.
        source: The run.
        chosen: What it is projected on, from `choose_directions`.
        options: What they were chosen by.
        run: The new run's name; None: the source's, and `-traits`.
        note: Receives a line on each vector that is chosen, and why.
        say: Receives lines on the progress, as in `ProgressBar`.

    Returns:
        The new run's manifest.
    """
    from capture.traits.project import project as project_on

    if line := wh.cached_run(source).left_out():
        note(line)
    for d in chosen:
        for line in d.lines(wh):
            note(line)
    with capture_progress(wh.cached_run(source).meta.counts.sequences, say) as (report, _):
        return project_on(wh, source, chosen, options, run, report)


def project_on_known_traits(root: AnyPath, run: str, note: Callable[[str], None], say: Any = None) -> Manifest | None:
    """Project a run on every trait that has vectors of its model.

    Args:
        root: The warehouse's folder.
        run: The run.
        note: Receives a line on each vector, and on each trait that the run cannot be projected on.
        say: Receives lines on the progress, as in `ProgressBar`.

    Returns:
        The manifest of the projection; None where there is nothing to project on.
    """
    from capture.traits.directions import Options, choose_directions

    with Warehouse(root) as wh:
        rows = wh.cursor().execute(
            "SELECT DISTINCT v.trait FROM trait_vectors AS v JOIN runs AS r USING (run_id) WHERE r.body_hash = ? ORDER BY ALL",
            [wh.cached_run(run).meta.model.space],
        )
        chosen: list[Direction] = []
        for (trait,) in rows.fetchall():
            try:
                chosen += choose_directions(wh, run, Options((trait,)))
            except UsageError as e:
                note(f"not projected on {trait}: {e}")
        options = Options(tuple(dict.fromkeys(d.trait for d in chosen)))
        return project_run(wh, run, chosen, options, None, note, say) if chosen else None


@in_python_terms
def run_traits(
    model: Loaded,
    traits: str | Sequence[str],
    *,
    n: int = 100,
    judge: str | Judge | None = None,
    threshold: float | None = 50.0,
    filter: str = "pairs",
    coefficients: Sequence[float] = (-4, -2, 0, 2, 4),
    max_new_tokens: int = 64,
    temperature: float = 0.7,
    seed: int = 0,
    projected: Sequence[str | TraceStore] = (),
    root: str | AnyPath | None = None,
) -> dict[str, TraceStore]:
    """Make and try the vectors of traits: respond, judge, extract, evaluate, steer at the best layer, project.

    Every step is a run of its own. Runs that exist are left as they are, so that the same call again continues one that was
    interrupted.

    Example:
        runs = capture.run_traits(model, ["capitals"], n=16, max_new_tokens=12, temperature=0)
        runs["capitals-smollm2-vectors-evaluated"].query("FROM trait_evaluations").df()

    Args:
        model: A decoder. Runs are named after it.
        traits: Definitions: their files, or names of those that come with traces.
        n: Responses of each polarity.
        judge: Who scores responses: `openai:MODEL`, `anthropic:MODEL`, `http://host:port/v1:MODEL`, `local:MODEL`, or an open
            judge; None: nobody, and all responses count. A paid judge is asked without further confirmation.
        threshold: The trait score that tells positive responses from negative ones; None: take all.
        filter: How the threshold is read: `pairs` or `questions`.
        coefficients: Coefficients to try when steering.
        max_new_tokens: The longest response in tokens.
        temperature: How freely tokens are drawn; 0: always the most probable one.
        seed: Of drawing tokens, holding out questions, the methods and the bootstrap.
        projected: Runs whose tokens are projected on the traits' best vectors.
        root: The warehouse's folder; None: `$TRACES_HOME`, else `./runs`.

    Returns:
        The runs by name, in the order of the steps.

    Raises:
        UsageError: No trait is named, an argument is out of range, or a run of responses was made from another definition.
        NotFoundError: There is no such definition, run or judge.
        TracesError: A step fails; what earlier steps made stays.
    """
    loaded, home = check_loaded(model), paths.find_root(root)
    from capture.traits import definition, judge_run, pipeline
    from capture.traits.judge_clients import open_judge

    options = pipeline.Options(n, threshold, filter, tuple(map(float, coefficients)), max_new_tokens, temperature, seed)
    pipeline.check_options(options)
    definitions = [definition.load(name) for name in _names(traits)]
    if not definitions:
        raise UsageError("--traits: name at least one.")
    sources = [r.meta.run_id if isinstance(r, TraceStore) else r for r in projected]
    observer = _Screen()

    def judge_responses(source: str, name: str) -> None:
        assert judge is not None
        client = open_judge(judge, note=screen_note) if isinstance(judge, str) else judge
        with judge_progress() as report:
            judge_run.judge_run(home, source, client, name=name, report=report, note=screen_note)

    pipeline.run_pipeline(
        home, definitions, loaded.name, options, observer,
        load=lambda _info: loaded, judge=judge_responses if judge is not None else None, projected=sources,
    )  # fmt: skip
    steps = pipeline.plan_steps(home, definitions, loaded.name, with_judge=judge is not None)
    names = [*(step.run_id for step in steps), *observer.projections]
    return {name: TraceStore(paths.run_dir(home, name)) for name in names}


class _Screen:
    """Shows a pipeline where somebody looks on."""

    def __init__(self) -> None:
        self.projections: list[str] = []
        """The runs of projections, whose names no plan says."""

    def note(self, line: str) -> None:
        screen_note(line)

    @contextmanager
    def watch(self, kind: str, total: int | None) -> Iterator[Callable[[Any], None]]:
        with pipeline_progress(kind, total) as report:
            yield report

    def finish(self, kind: str, manifest: Manifest) -> None:
        if kind == "project":
            self.projections.append(manifest.run_id)
