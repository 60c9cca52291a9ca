"""`traces trait extract` and `evaluate`: vectors from a trait's responses, and how well they separate responses that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.arguments import split_list
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from warehouse.cli.options import FormatOption, WarehouseOption
from warehouse.cli.output import Format, write
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from capture.traits.extract import LayerProgress
    from warehouse.warehouse import Warehouse

TraitsOption = Annotated[
    str | None, typer.Option("--trait", help="The trait, or several: `sycophantic,humorous`.", show_default=False)
]
OfModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Whose, where runs of several models have the trait.", show_default=False),
]
ThresholdOption = Annotated[
    str,
    typer.Option(
        help="The trait score that tells positive responses from negative ones, as --filter reads it; `none`: take all."
    ),
]
FilterOption = Annotated[
    str,
    typer.Option(
        "--filter",
        help="How the threshold t is read. `pairs`, as published with persona vectors: a positive response of t or more and its "
        "negative twin below 100 - t, or neither; `questions`: each by itself, t or more and below t.",
    ),
]


def extract(
    trait: TraitsOption = None,
    responses: Annotated[
        str | None,
        typer.Option(
            metavar="RUN,…", help="Runs of responses; the newest of each trait if left out.", show_default=False
        ),
    ] = None,
    model: OfModelOption = None,
    methods: Annotated[
        str,
        typer.Option(help="How: `mean_diff`, `probe`, `ica`, `gradient`. `random` is always added, to compare with."),
    ] = "mean_diff,probe,ica,gradient",
    layers: Annotated[
        str, typer.Option(help="`all`, `mid`, or some, as in `0,5`; `embed` is the input of the first.")
    ] = "all",
    components: Annotated[
        str | None,
        typer.Option(
            help="`residual`, `attn_out` or both; both, where the run has them, if left out.", show_default=False
        ),
    ] = None,
    threshold: ThresholdOption = "50",
    filter: FilterOption = "pairs",
    held_out: Annotated[
        float, typer.Option(min=0, max=0.99, help="Part of the questions that no vector is made from.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="Of which questions are held out, and of what the methods draw.")] = 0,
    run: Annotated[
        str | None, typer.Option("--run", help="The new run's name; TRAIT-vectors if left out.", show_default=False)
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Make a trait's vectors, one a method and layer, from the responses that show it and those that do not: the table `trait_vectors`.

    Responses count by their newest judge: by default a positive one that scores the threshold t or more, if the negative one to the same
    question, from the same pair of instructions, scores below 100 - t, and both have a coherence of at least 50. Makes a run of its own;
    the same command again goes on where it was interrupted. Layer l is the output of block l.

    Example: `traces trait extract --trait sycophantic`, then `traces trait evaluate --trait sycophantic`
    """
    with needs_capture_extra():
        from capture.traits.extract import Options
        from capture.traits.extract import extract as made
    from warehouse.storage import paths
    from warehouse.warehouse import Warehouse as Opened

    options = Options(
        methods=split_list(methods),
        components=None if components is None else split_list(components),
        layers=_layers(layers),
        threshold=score_threshold(threshold),
        filter=filter,
        held_out=held_out,
        seed=seed,
    )
    root = paths.find_root(warehouse)
    with Opened(root) as wh:
        runs = _responses_runs(wh, split_list(trait or ""), split_list(responses or ""), model)
    with stopped_by_signals(), _bar() as report:
        manifest = made(root, runs, options, run, report, note)
    for name, questions in manifest.option("held_out_questions").items():
        note(
            f"{name}: from the responses in {manifest.options['responses_run'][name]}; {len(questions)} questions held out"
        )
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['trait_vectors']:,} vectors in {manifest.seconds:.1f} s")
    typer.echo(f"next: traces trait evaluate --vectors {manifest.run_id}")


def evaluate(
    trait: TraitsOption = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="The run of vectors; the newest of the trait if left out.", show_default=False
        ),
    ] = None,
    model: OfModelOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw accuracy and effect size by layer: .svg, .png or .pdf.", show_default=False
        ),
    ] = None,
    random: Annotated[int, typer.Option(min=1, help="Random directions a layer, to compare with.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the random directions and of the bootstrap.")] = 0,
    run: Annotated[
        str | None, typer.Option("--run", help="The new run's name; VECTORS-evaluated if left out.", show_default=False)
    ] = None,
    fmt: FormatOption = Format.table,
    warehouse: WarehouseOption = None,
) -> None:
    """Judge a trait's vectors on the questions that they were not made from, against random directions: the table `trait_evaluations`.

    Prints the best layer of each method, by effect size (Cohen's d) in a cross-validation on the questions that the vectors were made
    from: the numbers of the others are then of one vector, not the largest of many. Intervals are 95 %, over questions. An evaluation
    that is there already is shown again. Every layer: `traces sql --query trait_separation`.

    Example: `traces trait evaluate --trait sycophantic --plot sycophantic.svg`
    """
    with needs_capture_extra():
        from capture.traits import evaluate as job
        from capture.traits.best_vector import find_best_vector, weak_vector_warnings
        from capture.traits.latest_run import find_latest_run
    from warehouse.storage import paths
    from warehouse.storage.paths import find_run
    from warehouse.storage.trace_store import TraceStore
    from warehouse.warehouse import Warehouse as Opened

    root = paths.find_root(warehouse)
    traits = split_list(trait or "")
    if vectors is None:
        if len(traits) != 1:
            raise UsageError("Say which: --trait with one trait, or --vectors RUN.")
        with Opened(root) as wh:
            vectors = find_latest_run(wh, "trait-vectors", traits[0], model)
    elif model is not None:
        raise UsageError("--model says whose vectors are meant where none are named: leave out it or --vectors.")
    there = job.open_vectors_run(root, vectors).meta.option("traits")
    for t in traits:
        if t not in there:
            raise NotFoundError("trait", t, there, f"(run '{vectors}')")
    name = run or f"{vectors}-evaluated"
    options = job.Options(random=random, seed=seed)
    if job.is_published(root, name, vectors, options):
        note(f"{name} is there already")
    else:
        with stopped_by_signals(), _bar() as report:
            job.evaluate(root, vectors, name, options, report, note)
    store = TraceStore(find_run(root, name))
    if plot is not None:
        job.plot(store, str(plot))
    write(store.query(job.BEST_LAYERS_SQL), fmt, None)
    with Opened(root) as wh:
        for t in store.meta.option("traits"):
            if found := find_best_vector(wh, vectors, t):
                layer = "embed" if found.layer is None else found.layer
                note(f"{t}: {found.method}, {found.component}, layer {layer} is {found.reason}")
                for line in weak_vector_warnings(wh, vectors, t, found.method, found.component, [found.layer]):
                    note(line)
    note(f"{name}: every layer with traces sql --query trait_separation --set run={name}")


def _responses_runs(wh: Warehouse, traits: tuple[str, ...], runs: tuple[str, ...], model: str | None) -> list[str]:
    """The runs named, or the newest of each trait. Raises UsageError where neither is named, or they do not fit each other."""
    from capture.traits.latest_run import find_latest_run
    from capture.traits.response_activations import open_responses_run, trait_name

    if not traits and not runs:
        raise UsageError("Say which: --trait with the traits, or --responses with their runs.")
    if not runs:
        return [find_latest_run(wh, "trait-responses", t, model) for t in traits]
    if model is not None:
        raise UsageError("--model says whose responses are meant where none are named: leave out it or --responses.")
    found = {r: trait_name(open_responses_run(wh.root, r)) for r in runs}
    for run, name in found.items():
        if traits and name not in traits:
            raise UsageError(f"Run '{run}' has the responses of trait {name}, not of {' or '.join(traits)}.")
    if missing := [t for t in traits if t not in found.values()]:
        raise UsageError(f"No run of those has responses of trait {' or '.join(missing)}: {', '.join(runs)}.")
    return list(runs)


def _layers(text: str) -> str | tuple[int | None, ...]:
    if text in ("all", "mid"):
        return text
    try:
        return tuple(None if name == "embed" else int(name) for name in split_list(text))
    except ValueError:
        raise UsageError(
            f"--layers {text}: write all, mid, or layers as in 0,5; embed is the input of the first."
        ) from None


def score_threshold(text: str) -> float | None:
    """None: `none`. Raises UsageError for what is no score."""
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise UsageError(f"--threshold {text}: write a score from 0 to 100, or none.") from None


@contextmanager
def _bar() -> Iterator[Callable[[LayerProgress], None]]:
    """Layers done, on a terminal; on standard error."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("layers"),
        bars.TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)

        def report(step: LayerProgress) -> None:
            bar.update(task, completed=step.done, total=step.total, description=f"{step.run_id}: {step.stage}")

        yield report
