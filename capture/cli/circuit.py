"""`traces circuit`: which edges of a model carry a task, and whether they do on other pairs too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from capture.cli.circuit_files import export_circuit, import_circuit
from capture.cli.circuit_report import show_circuit, show_evaluation
from capture.cli.options import LoadOptions, PartOptions
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.workers import make_in_parts
from capture.sequences import partition
from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import WarehouseOption, dry_run_option, run_option

circuit_app = App(
    no_args_is_help=True, help="Find which edges of a model carry a task, and see whether they hold on other pairs."
)


@dataclass(frozen=True, kw_only=True)
class CircuitOptions:
    """Options of both runs of circuits."""

    level: Annotated[
        str | None,
        typer.Option(help="`edge`, or `node` for nodes alone.", show_default=False, rich_help_panel=Panel.COMPUTED),
    ] = None
    metric: Annotated[
        str | None,
        typer.Option(
            help="`logit_diff`, `prob_diff`, `logprob` or `kl`; by default the task's own.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Where the task's model lies now, if not where it was; it must have the same weights.",
            rich_help_panel=Panel.READ,
        ),
    ] = None
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most tokens of a batch of pairs, both prompts counted; by default as many as 1 GB takes.",
            show_default=False,
            rich_help_panel=Panel.RUNNING,
        ),
    ] = None


@circuit_app.command("discover")
@with_groups(fixed={"revision": None, "dtype": "auto", "device_map": None})
def discover(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task's run, from `traces task prepare`.")],
    finding: CircuitOptions,
    loading: LoadOptions,
    part: PartOptions,
    method: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="`eap-ig`: gradients averaged on the way from the corrupted to the clean embedding; `eap`: one, on the clean prompt; "
            "`gim`: one modified backward pass; `exact`: patching, of nodes unless --level edge; `random`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "eap-ig",
    steps: Annotated[
        int, typer.Option(min=1, help="Gradients that `eap-ig` averages.", rich_help_panel=Panel.COMPUTED)
    ] = 5,
    share: Annotated[
        float,
        typer.Option(
            help="The part of the pairs that it is found on; the others are held out, for `evaluate`.",
            rich_help_panel=Panel.READ,
        ),
    ] = 0.5,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Chooses those pairs, the resamples, and what is random.", rich_help_panel=Panel.COMPUTED
        ),
    ] = 0,
    resamples: Annotated[
        int,
        typer.Option(min=1, help="Resamples of the bootstrap that intervals are from.", rich_help_panel=Panel.COMPUTED),
    ] = 100,
    verify: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Patch the N strongest edges of the first method, and N random ones: their `exact_effect`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 0,
    name: Annotated[str | None, run_option("TASK-circuit")] = None,
    dry_run: Annotated[
        bool, dry_run_option("Say how many edges there are and what it would cost; write nothing.")
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Find which edges of a model carry a task: a score of every edge and node, with its interval.

    A score estimates what the metric would lose or gain if the edge carried the corrupted prompt's value: below 0 it helps. Scores rank
    edges; what a cut really does is `exact_effect`, by `--verify`, or `traces ablate`. Pairs are divided by chance: on one half circuits
    are found, the other half `traces circuit evaluate` tries them on. The same command again continues one that was interrupted.

    Examples:
        traces task prepare indirect_object --model smollm2 --run ioi --n 48
        traces circuit discover ioi
        traces circuit evaluate ioi-circuit
    """
    from warehouse.storage import paths, run_list
    from warehouse.warehouse import Warehouse

    root = paths.find_root(warehouse)
    folder = run_list.find_run(root, task)
    with needs_capture_extra():
        from capture.api.circuits import split_names
        from capture.api.progress import capture_progress
        from capture.circuits import discover_run as job
        from capture.circuits.options import DiscoverOptions
    options = DiscoverOptions(
        methods=split_names(method),
        steps=steps,
        level=finding.level or "",
        metric=finding.metric or "",
        share=share,
        seed=seed,
        resamples=resamples,
        verify=verify,
        batch_tokens=finding.batch_tokens,
        shard=part.chosen,
    )
    job.check_task(folder, options)
    whole = name or f"{task}-circuit"
    run_id = partition.part_run_name(whole, part.chosen)
    if part.divided and not dry_run:
        manifest, held_out = make_in_parts(part, root, whole, loading=loading, unit="pairs"), share < 1
    else:
        if not dry_run:
            run_list.check_free(root, run_id)
        loaded = loading.load_of_run(folder, finding.model)
        wanted = job.forecast(loaded, folder, options)
        typer.echo(
            f"{wanted.pairs:,} of {wanted.of_pairs:,} pairs × {wanted.edges:,} edges, {wanted.nodes:,} nodes: about as much as "
            f"{wanted.passes:,} forward passes of one prompt"
        )
        if dry_run:
            typer.echo("nothing is written")
            return
        held_out = wanted.pairs < wanted.of_pairs
        with stopped_by_signals(), capture_progress(wanted.steps, note, "pairs") as (report, say):
            manifest = job.run(loaded, folder, options, root=root, run_id=run_id, report=report, note=say)
    typer.echo(f"{run_id}: {', '.join(options.methods)} in {manifest.seconds:.1f} s")
    if part.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {whole}")
        return
    first = options.methods[0]
    if not part.divided:  # else there is one of each part, and the circuit is their mean
        with Warehouse(root) as wh:
            show_circuit(wh, run_id, first)
    circuit = run_id if len([m for m in options.methods if m != "random"]) == 1 else f"{run_id}/{first}"
    on = "" if held_out else " TASK  (another task: it was found on all pairs of this one)"
    typer.echo(f"next: traces circuit evaluate {circuit}{on}")


@circuit_app.command("evaluate")
@with_groups(fixed={"revision": None, "dtype": "auto", "device_map": None})
def evaluate(
    circuit: Annotated[
        str,
        typer.Argument(
            metavar="CIRCUIT",
            help="RUN, or RUN/NAME where it has several: a method, or `ensemble`, the mean of the methods' ranks.",
        ),
    ],
    trying: CircuitOptions,
    loading: LoadOptions,
    part: PartOptions,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK]…",
            help="Tasks' runs to try it on; by default its own task's pairs that it was not found on.",
            show_default=False,
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(metavar="A,B,…", help="Shares of all edges.", rich_help_panel=Panel.COMPUTED)
    ] = ".001,.002,.005,.01,.02,.05,.1,.2,.5,1",
    selection: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="`abs`: the largest scores by size; `signed`: the most negative, which is what helps; `greedy`: from the logits upwards.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "abs",
    ablation: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="What all other edges carry: `resample`, the corrupted prompt's values; `mean`, the mean by position over the task's "
            "corrupted prompts; `zero`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "resample",
    random: Annotated[
        int, typer.Option(min=0, help="Draws of random circuits of each size.", rich_help_panel=Panel.COMPUTED)
    ] = 3,
    complement: Annotated[
        bool,
        typer.Option(
            "--complement/--no-complement", help="Try all edges but the circuit's too.", rich_help_panel=Panel.COMPUTED
        ),
    ] = True,
    name: Annotated[str | None, run_option("CIRCUIT-eval")] = None,
    dry_run: Annotated[bool, dry_run_option("Say how many passes there would be; write nothing.")] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Try a circuit on pairs that it was not found on: how much of the task its edges alone do, at several sizes.

    Faithfulness is (metric with the circuit alone - metric with every edge ablated) / (metric of the model - metric with every edge
    ablated), a ratio of means over the pairs: 1 is all of it. Beside it stand what all other edges do, and what as many random ones do.
    The same command again continues one that was interrupted.

    Examples:
        traces circuit evaluate ioi-circuit
        traces circuit evaluate ioi-circuit names --ablation resample,mean --run elsewhere
        traces sql --query circuit_holds --set run=elsewhere
    """
    from warehouse.storage import paths, run_list
    from warehouse.warehouse import Warehouse

    root = paths.find_root(warehouse)
    with needs_capture_extra():
        from capture.api.circuits import evaluation_name, split_names, task_folders
        from capture.api.progress import capture_progress
        from capture.circuits import evaluate_run as job
        from capture.circuits.found_circuit import find_circuit
        from capture.circuits.options import EvaluateOptions, parse_sizes
    options = EvaluateOptions(
        circuit=circuit,
        sizes=parse_sizes(sizes),
        selections=split_names(selection),
        ablations=split_names(ablation),
        level=trying.level or "",
        metric=trying.metric or "",
        random=random,
        complement=complement,
        batch_tokens=trying.batch_tokens,
        shard=part.chosen,
    )
    whole = name or evaluation_name(circuit)
    run_id = partition.part_run_name(whole, part.chosen)
    with Warehouse(root) as wh:
        found = find_circuit(wh, circuit)
        chosen = job.choose_tasks(found, task_folders(found, tasks or [], root), options)
        if part.divided and not dry_run:
            manifest = make_in_parts(part, root, whole, loading=loading, unit="passes")
        else:
            if not dry_run:
                run_list.check_free(root, run_id)
            loaded = loading.load_of_run(chosen[0].store.path, trying.model)
            wanted = job.forecast(loaded, found, chosen, options)
            typer.echo(f"{wanted.pairs:,} held-out pairs × {wanted.passes:,} edge-masked passes")
            if dry_run:
                typer.echo("nothing is written")
                return
            with stopped_by_signals(), capture_progress(wanted.steps, note, "passes") as (report, say):
                manifest = job.run(loaded, found, chosen, options, root=root, run_id=run_id, report=report, note=say)
    typer.echo(f"{run_id}: {found.place} in {manifest.seconds:.1f} s")
    if part.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {whole}")
        return
    with Warehouse(root) as wh:
        show_evaluation(wh, run_id)
    typer.echo(f"next: traces plot curve {run_id}")
    typer.echo(f"next: traces sql --query circuit_holds --set run={run_id}")


circuit_app.command("export")(export_circuit)
circuit_app.command("import")(import_circuit)
