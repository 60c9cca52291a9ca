"""`traces ablate` and `traces patch`: what interventions do to a task's metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from capture.cli.options import LoadOptions, PartOptions
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.workers import make_in_parts
from capture.sequences import partition
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import WarehouseOption, dry_run_option, run_option
from warehouse.storage.objects import AnyPath

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task's run, from `traces task prepare`.")]


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of everything that is measured over a task."""

    layers: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Layers of what is named by its kind: numbers, or `all`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "all"
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
        int, typer.Option(min=1, help="The most tokens of a forward pass.", rich_help_panel=Panel.RUNNING)
    ] = 2048


@with_groups(fixed={"revision": None, "dtype": "auto", "device_map": None})
def ablate(
    task: TaskArgument,
    measuring: MeasureOptions,
    loading: LoadOptions,
    part: PartOptions,
    what: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="`heads`, `mlps`, `attns`, a site (`resid.post_mlp`, `v`) for all of its layers and heads, or places: `L12H3,M5`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "heads,mlps",
    kind: Annotated[
        str,
        typer.Option(
            help="What is put in: `resample`, the value of the pair's other prompt; `mean`, the mean by position over other prompts; "
            "`zero`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "resample",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="The run that `mean` is over; by default the task's other prompts.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    positions: Annotated[
        str, typer.Option(help="`all` at once, `last` alone, or `each` by itself.", rich_help_panel=Panel.COMPUTED)
    ] = "all",
    name: Annotated[str | None, run_option("TASK-KIND, as in ioi-resample")] = None,
    dry_run: Annotated[bool, dry_run_option("Say how many interventions there would be; write nothing.")] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Cut heads, MLPs or states out of a model one by one, and see what that does to a task's metric.

    Each intervention runs on the clean prompt of every pair, many in one forward pass and each from the first layer that changes.
    The tables `interventions` and `effects` have a row for each: effect = value - baseline, normalised by how far the clean and
    the corrupted prompt are apart. The same command again continues one that was interrupted.

    Examples:
        traces task prepare indirect_object --model smollm2 --run ioi --n 32
        traces ablate ioi --what heads,mlps --kind resample
        traces sql --query heads_that_matter --set run=ioi-resample
    """
    _check(kind, "kind of ablation", ("zero", "mean", "resample"))
    facts = {"what": what, "kind": kind, "positions": positions, "reference": reference or ""}
    _run(task, facts, measuring, loading, part, name or f"{task}-{kind}", dry_run, warehouse, "heads_that_matter")


@with_groups(fixed={"revision": None, "dtype": "auto", "device_map": None})
def patch(
    task: TaskArgument,
    measuring: MeasureOptions,
    loading: LoadOptions,
    part: PartOptions,
    site: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="`resid.post_mlp`, `resid.post_attn`, `resid.pre_attn`, `attn_out`, `mlp_out`, `heads`, `q`, `k` or `v`, or places: "
            "`L12H3,resid.post_mlp@5`.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "resid.post_mlp",
    direction: Annotated[
        str,
        typer.Option(
            help="`denoise`: the corrupted prompt with the clean one's values; `noise`: the other way round.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "denoise",
    source: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="A run of the same prompts, whose stored values go into the clean ones in place of the pair's.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    positions: Annotated[
        str, typer.Option(help="`each` by itself, `all` at once, or `last` alone.", rich_help_panel=Panel.COMPUTED)
    ] = "each",
    name: Annotated[str | None, run_option("TASK-patch")] = None,
    dry_run: Annotated[bool, dry_run_option("Say how many interventions there would be; write nothing.")] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Put states of one prompt into the other prompt of a pair, and see what that does to a task's metric.

    Normalised, an effect of 1 restores the answer (`denoise`), and -1 destroys it (`noise`). The tables are those of `traces ablate`.
    The same command again continues one that was interrupted.

    Examples:
        traces task prepare indirect_object --model smollm2 --run ioi --n 32
        traces patch ioi --site resid.post_mlp --layers 5,15,25
        traces sql --query effects_by_position --set run=ioi-patch
    """
    facts = {"what": site, "kind": "patch", "direction": direction, "positions": positions, "reference": source or ""}
    _run(task, facts, measuring, loading, part, name or f"{task}-patch", dry_run, warehouse, "effects_by_position")


def _check(value: str, kind: str, known: tuple[str, ...]) -> None:
    from warehouse.errors import NotFoundError

    if value not in known:
        raise NotFoundError(kind, value, known)


def _run(
    task: str,
    facts: dict[str, Any],
    measuring: MeasureOptions,
    loading: LoadOptions,
    part: PartOptions,
    whole: str,
    dry_run: bool,
    warehouse: str | None,
    query: str,
) -> None:
    """Measure, and print what was done."""
    from warehouse.storage import paths
    from warehouse.storage.run_list import check_free, find_run

    root = paths.find_root(warehouse)
    folder = find_run(root, task)
    with needs_capture_extra():
        from capture.api.progress import capture_progress
        from capture.effects import effects_run as job
        from capture.effects.options import Options
        from capture.effects.task_pairs import read_pairs
    options = Options(
        **facts,
        layers=measuring.layers,
        metric=measuring.metric or "",
        batch_tokens=measuring.batch_tokens,
        shard=part.chosen,
    )
    from warehouse.storage.trace_store import TraceStore

    read_pairs(TraceStore(folder))  # refuses what is no task before a model is loaded
    if part.divided and not dry_run:
        manifest = make_in_parts(part, root, whole, loading=loading, unit="pairs")
        made = manifest.counts.rows
        typer.echo(
            f"{whole}: {made['interventions']:,} interventions, {made['effects']:,} effects in {manifest.seconds:.1f} s"
        )
        _show_largest(root, whole, query)
        return
    run_id = partition.part_run_name(whole, part.chosen)
    if not dry_run:
        check_free(root, run_id)
    loaded = loading.load_of_run(folder, measuring.model)
    wanted = job.forecast(loaded, folder, options)
    if dry_run:
        typer.echo(
            f"{wanted.interventions:,} interventions × {wanted.pairs:,} prompts: {wanted.rows:,} rows of effects; nothing is written"
        )
        return
    with stopped_by_signals(), capture_progress(wanted.pairs, say=note) as (report, say):
        manifest = job.run(loaded, folder, options, root=root, run_id=run_id, report=report, note=say)
    rows = manifest.counts.rows["effects"]
    typer.echo(f"{run_id}: {wanted.interventions:,} interventions, {rows:,} effects in {manifest.seconds:.1f} s")
    if part.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {whole}")
    else:
        _show_largest(root, run_id, query)


def _show_largest(root: AnyPath, run_id: str, query: str) -> None:
    """Print the largest mean effects of a run, and how to see more."""
    typer.echo(_largest(root, run_id))
    typer.echo(f"next: traces sql --query {query} --set run={run_id}")


def _largest(root: AnyPath, run_id: str) -> str:
    """Return a line with the largest mean effects of a run."""
    from warehouse.warehouse import Warehouse

    with Warehouse(root) as wh:
        rows = (
            wh.cursor()
            .execute(
                "SELECT split_part(spec, '=', 1), effect, effect_normalised, metric FROM effect_means WHERE run_id = ? "
                "ORDER BY abs(effect) DESC, intervention_id LIMIT 4",
                [run_id],
            )
            .fetchall()
        )
    shown = [f"{place} {effect:+.2f}{'' if part is None else f' ({part:+.0%})'}" for place, effect, part, _ in rows]
    whole = "" if all(part is None for _, _, part, _ in rows) else " (100%: clean - corrupted)"
    return f"largest mean effects on {rows[0][3]}{whole}: {', '.join(shown)}"
