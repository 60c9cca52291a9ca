"""`traces trait extract` and `evaluate`: vectors from a trait's responses, and how well they separate responses that they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.values import parse_threshold, split_list
from warehouse.cli.option_groups import Panel
from warehouse.cli.options import FormatOption, WarehouseOption, run_option
from warehouse.cli.output import Format, write
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from warehouse.storage.manifest import Manifest
    from warehouse.warehouse import Warehouse

OfModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Which model's, if runs of several models have the trait.",
        show_default=False,
        rich_help_panel=Panel.READ,
    ),
]
ThresholdOption = Annotated[
    str,
    typer.Option(
        "--threshold",
        help="The trait score that tells positive responses from negative ones, as --filter reads it; `none`: take all.",
        rich_help_panel=Panel.COMPUTED,
    ),
]
FilterOption = Annotated[
    str,
    typer.Option(
        "--filter",
        help="How the threshold t is read. `pairs`, as published with persona vectors: a positive response of t or more and its "
        "negative twin below 100 - t, or neither; `questions`: each by itself, t or more and below t.",
        rich_help_panel=Panel.COMPUTED,
    ),
]


def extract(
    traits: Annotated[
        str | None,
        typer.Option(
            "--traits",
            metavar="A,B,…",
            help="The traits: `sycophantic,humorous`.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    responses: Annotated[
        str | None,
        typer.Option(
            metavar="RUN,…",
            help="Runs of responses; by default the newest of each trait.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    model: OfModelOption = None,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Methods: `mean_diff`, `probe`, `ica`, `gradient`. `random` is always added, to compare with.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "mean_diff,probe,ica,gradient",
    layers: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="`all`, `mid`, or some, as in `0,5`; `embed` is the input of the first.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "all",
    components: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="`residual`, `attn_out` or both; by default all that the runs have.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    threshold: ThresholdOption = "50",
    filter: FilterOption = "pairs",
    held_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.99,
            help="Fraction of the questions that no vector is made from.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 0.25,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed for holding out questions, and for methods that draw numbers.", rich_help_panel=Panel.COMPUTED
        ),
    ] = 0,
    run: Annotated[
        str | None,
        run_option("TRAIT-vectors"),
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Make traits' vectors, one a method and layer, from responses that show the trait and those that do not: the table `trait_vectors`.

    Responses count by their newest judge. By default a positive one that scores the threshold t or more counts if the negative
    one to the same question, from the same pair of instructions, scores below 100 - t, and both have a coherence of at least 50.
    The result is a run of its own; the same command again continues one that was interrupted. Layer l is the output of block l.

    Examples:
        traces trait extract --traits sycophantic
        traces trait evaluate --trait sycophantic
    """
    with needs_capture_extra():
        from capture.api.progress import layer_progress
        from capture.traits.extract import Options
        from capture.traits.extract import extract as extract_vectors
    from warehouse.storage import paths
    from warehouse.warehouse import Warehouse as OpenWarehouse

    options = Options(
        methods=split_list(methods),
        components=None if components is None else split_list(components),
        layers=_parse_layers(layers),
        threshold=parse_threshold(threshold),
        filter=filter,
        held_out=held_out,
        seed=seed,
    )
    root = paths.find_root(warehouse)
    with OpenWarehouse(root) as wh:
        runs = _responses_runs(wh, split_list(traits), split_list(responses), model)
    with stopped_by_signals(), layer_progress(note) as report:
        manifest = extract_vectors(root, runs, options, run, report, note)
    show_vectors(manifest)
    typer.echo(f"next: traces trait evaluate --vectors {manifest.run_id}")


def show_vectors(manifest: Manifest) -> None:
    """Print a line about a run of vectors, and note which questions were held out.

    Args:
        manifest: The run's manifest.
    """
    for name, questions in manifest.option("held_out_questions").items():
        note(
            f"{name}: from the responses in {manifest.options['responses_run'][name]}; {len(questions)} questions held out"
        )
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['trait_vectors']:,} vectors in {manifest.seconds:.1f} s")


def evaluate(
    trait: Annotated[
        str | None, typer.Option("--trait", help="The trait.", show_default=False, rich_help_panel=Panel.READ)
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="The run with the vectors; by default the newest of the trait.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    model: OfModelOption = None,
    random: Annotated[
        int,
        typer.Option(min=1, help="How many random directions a layer to compare with.", rich_help_panel=Panel.COMPUTED),
    ] = 20,
    seed: Annotated[
        int,
        typer.Option(help="Seed for the random directions and the bootstrap.", rich_help_panel=Panel.COMPUTED),
    ] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw accuracy and effect size by layer: .svg, .png or .pdf.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = None,
    run: Annotated[
        str | None,
        run_option("VECTORS-evaluated"),
    ] = None,
    warehouse: WarehouseOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Test traits' vectors on questions that they were not made from, against random directions: the table `trait_evaluations`.

    Prints the best layer of each method, by effect size (Cohen's d) in a cross-validation on the questions that the vectors were
    made from: the other numbers are then those of one vector, not the largest of many. Intervals are 95 %, over questions. An
    evaluation that exists already is shown again. Every layer: `traces sql --query trait_separation`.

    Examples:
        traces trait evaluate --trait sycophantic --plot sycophantic.svg

    Raises:
        UsageError: Neither a trait nor a run is named, or options contradict each other.
        NotFoundError: The run has no vectors of the trait.
    """
    with needs_capture_extra():
        from capture.traits import evaluate as job
        from capture.traits.latest_run import find_latest_run
    from warehouse.storage import paths
    from warehouse.storage.run_list import find_run
    from warehouse.storage.trace_store import TraceStore
    from warehouse.warehouse import Warehouse as OpenWarehouse

    root = paths.find_root(warehouse)
    if vectors is None:
        if trait is None:
            raise UsageError("Say which vectors: --trait NAME, or --vectors RUN.")
        with OpenWarehouse(root) as wh:
            vectors = find_latest_run(wh, "trait-vectors", trait, model)
    elif model is not None:
        raise UsageError("--model chooses among runs, and --vectors names one: leave out one of the two.")
    available = job.open_vectors_run(root, vectors).meta.option("traits")
    if trait is not None and trait not in available:
        raise NotFoundError("trait", trait, available, f"(run '{vectors}')")
    name = run or job.default_run_name(vectors)
    options = job.Options(random=random, seed=seed)
    if job.is_published(root, name, vectors, options):
        note(f"{name} exists already")
    else:
        from capture.api.progress import layer_progress

        with stopped_by_signals(), layer_progress(note) as report:
            job.evaluate(root, vectors, name, options, report, note)
    if plot is not None:
        job.plot(TraceStore(find_run(root, name)), str(plot))
    show_evaluation(root, name, fmt)


def show_evaluation(root: AnyPath, name: str, fmt: Format) -> None:
    """Print an evaluation's best layers, and note each trait's best vector.

    Args:
        root: The warehouse root.
        name: The run of the evaluation.
        fmt: How the table is printed.
    """
    from capture.traits.best_vector import find_best_vector, weak_vector_warnings
    from capture.traits.evaluate import BEST_LAYERS_SQL
    from warehouse.storage.run_list import find_run
    from warehouse.storage.trace_store import TraceStore
    from warehouse.warehouse import Warehouse as OpenWarehouse

    store = TraceStore(find_run(root, name))
    vectors = store.meta.option("vectors_run")
    write(store.query(BEST_LAYERS_SQL), fmt, None)
    with OpenWarehouse(root) as wh:
        for t in store.meta.option("traits"):
            if best := find_best_vector(wh, vectors, t):
                layer = "embed" if best.layer is None else best.layer
                note(f"{t}: {best.method}, {best.component}, layer {layer} is {best.reason}")
                for line in weak_vector_warnings(wh, vectors, t, best.method, best.component, [best.layer]):
                    note(line)
    note(f"{name}: every layer with traces sql --query trait_separation --set run={name}")


def _responses_runs(wh: Warehouse, traits: tuple[str, ...], runs: tuple[str, ...], model: str | None) -> list[str]:
    """Return the runs named, or the newest of each trait.

    Raises:
        UsageError: Neither runs nor traits are named, or they do not fit each other.
    """
    from capture.traits.latest_run import find_latest_run
    from capture.traits.response_activations import open_responses_run, trait_name

    if not traits and not runs:
        raise UsageError("Say which responses: --traits with the traits, or --responses with their runs.")
    if not runs:
        return [find_latest_run(wh, "trait-responses", t, model) for t in traits]
    if model is not None:
        raise UsageError("--model chooses among runs, and --responses names them: leave out one of the two.")
    trait_by_run = {run: trait_name(open_responses_run(wh.root, run)) for run in runs}
    for run, trait in trait_by_run.items():
        if traits and trait not in traits:
            raise UsageError(f"Run '{run}' has the responses of trait {trait}, not of {' or '.join(traits)}.")
    if missing := [t for t in traits if t not in trait_by_run.values()]:
        raise UsageError(f"No run of those has responses of trait {' or '.join(missing)}: {', '.join(runs)}.")
    return list(runs)


def _parse_layers(text: str) -> str | tuple[int | None, ...]:
    """Return the value of `--layers`: `all`, `mid`, or numbers, None being the embedding."""
    if text in ("all", "mid"):
        return text
    try:
        return tuple(None if name == "embed" else int(name) for name in split_list(text))
    except ValueError:
        raise UsageError(
            f"--layers {text}: write all, mid, or layers as in 0,5; embed is the input of the first."
        ) from None
