"""The commands of `traces trait`: from a trait's definition to its vector, and from the vector to every token of every run."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.asked import listed
from capture.judge_cli import ConcurrencyOption, JudgeOption, PriceOption, TimeoutOption, YesOption
from capture.options import ShardOfOption
from warehouse.cli import FormatOption, RunArgument, WarehouseOption, app
from warehouse.errors import TracesError
from warehouse.output import Format, ReportFormat

trait_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Traits: definitions, responses, vectors, projections."
)
app.add_typer(trait_app, name="trait")


@trait_app.command("init")
def init(name: Annotated[str, typer.Argument(metavar="NAME", help="The trait: `sarcasm`.")]) -> None:
    """Print a new definition to fill in: five pairs of instructions, twenty questions and a judging prompt.

    What is to be written is marked TODO; `traces trait check` says what is left. Example: `traces trait init sarcasm > sarcasm.json`
    """
    from capture.traits.definition import template

    typer.echo(template(name))


@trait_app.command("check")
def check(
    definition: Annotated[
        str, typer.Argument(metavar="FILE", help="A definition, or the name of one that comes along.")
    ],
    fmt: Annotated[ReportFormat, typer.Option("--format", "-f", help="How to print the report.")] = ReportFormat.table,
) -> None:
    """Say what is missing in a trait's definition, and what makes it a weak one.

    Exit code 1 where it cannot be used, 0 where it can, warnings or not. Example: `traces trait check sarcasm.json`
    """
    import json

    from capture.traits import definition as definitions

    errors: list[definitions.Problem] = []
    found: list[definitions.Problem] = []
    told = ""
    try:
        d = definitions.load(definition)
        found = definitions.warnings(d)
        told = f"{d.name}: {len(d.instruction)} pairs, {len(d.questions)} questions"
    except definitions.DefinitionError as e:
        errors = found = e.problems
    if fmt is ReportFormat.json:
        typer.echo(json.dumps([p._asdict() for p in found], indent=1, ensure_ascii=False))
    elif fmt is ReportFormat.tsv:
        for line in (("level", "place", "text"), *found):
            typer.echo("\t".join(line))
    else:
        for p in found:
            typer.echo(f"{p.level:<8} {p}")
        if told:
            typer.echo(f"{told}; {len(found) or 'no'} warning{'' if len(found) == 1 else 's'}")
    if errors:
        raise TracesError(f"{definition} cannot be used: {len(errors)} error{'' if len(errors) == 1 else 's'}.")


@trait_app.command("judge")
def judge(
    run: RunArgument,
    judge: JudgeOption,
    concurrency: ConcurrencyOption = 20,
    name: Annotated[str | None, typer.Option("--run", help="The new run's name; RUN-judged if left out.")] = None,
    price: PriceOption = None,
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be asked, and what it may cost.")
    ] = False,
    timeout: TimeoutOption = 60.0,
    shard: ShardOfOption = "",
    fmt: FormatOption = Format.table,
    warehouse: WarehouseOption = None,
) -> None:
    """Have a judge score every response of a run for its trait and its coherence, 0 to 100: the table `judgements`.

    Makes a run of its own; the same command again goes on where it was interrupted. Keys come from `OPENAI_API_KEY`,
    `ANTHROPIC_API_KEY`, and `JUDGE_API_KEY` for other servers that want one, in the environment or in a file `.env`. The view
    `judged_responses` has the scores beside the responses.

    Example: `traces trait judge humorous-responses --judge openai:gpt-4.1-mini --price 0.40,1.60`
    """
    from capture.judge_cli import judged
    from warehouse import layout
    from warehouse.catalog import Warehouse
    from warehouse.output import write
    from warehouse.quoting import sql_text

    root = layout.find_root(warehouse)
    manifest = judged(
        root,
        run,
        name,
        judge,
        concurrency=concurrency,
        timeout=timeout,
        price=price,
        yes=yes,
        dry_run=dry_run,
        shard=shard,
    )
    if manifest is None:
        return
    with Warehouse(root) as wh:
        answer = wh.sql(
            "SELECT r.trait, r.polarity, r.layer, r.coefficient, count(*) AS n, round(avg(j.trait_score), 1) AS trait_score, "
            "round(avg(j.coherence_score), 1) AS coherence_score, count_if(j.refused) AS refused, "
            "count_if(j.trait_score IS NULL AND NOT j.refused) AS without_score "
            "FROM judgements AS j JOIN responses AS r "
            "ON r.run_id = j.source_run_id AND r.example_id = j.example_id AND r.seq = j.seq "
            f"WHERE j.run_id = {sql_text(manifest.run_id)} GROUP BY ALL ORDER BY ALL"
        )
        write(answer, fmt, None)
    typer.echo(
        f"{manifest.run_id}: {manifest.counts.rows['judgements']:,} judgements in {manifest.seconds:.1f} s", err=True
    )


@trait_app.command("project")
def project(
    trait: Annotated[str, typer.Option("--trait", help="The traits, as in `sycophantic,humorous`.")],
    run: Annotated[str, typer.Option("--run", help="The run whose tokens are projected.")],
    vectors: Annotated[
        str | None,
        typer.Option(help="Runs to take vectors from; for each trait the newest that has any.", show_default=False),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Layers, as in `5,10`, or `embed`; the best one if left out.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="`mean_diff`, `probe`, …; the best one if left out.", show_default=False),
    ] = None,
    component: Annotated[
        str | None,
        typer.Option(help="`residual`, `attn_out` or both; the best one if left out.", show_default=False),
    ] = None,
    dynamics_only: Annotated[
        bool, typer.Option("--dynamics-only", help="Only a row a response: the table `trait_dynamics`.")
    ] = False,
    threshold: Annotated[float, typer.Option(min=0, help="Of the commitment point.")] = 0.1,
    name: Annotated[str | None, typer.Option("--name", help="The new run's name; RUN-traits if left out.")] = None,
    shard: ShardOfOption = "",
    warehouse: WarehouseOption = None,
) -> None:
    """Project every token of a run on traits' vectors, from its stored tensors: the tables `trait_projections` and `trait_dynamics`.

    Needs no model. Makes a run of its own; the same command again goes on where it was interrupted. Where nothing else is asked, a
    trait's best vector is taken, by steering or by evaluation, one of the residual stream before any of attn_out (view `trait_best`);
    which, why, and whether it is better than a random direction is said. The formulas are in docs/traits.md.

    Example: `traces trait project --trait sycophantic,humorous --run wt2`, then `traces sql --run trait_by_token --set run=wt2`
    """
    from capture.console import needs_capture_extra, note, progress, stopped_by_signals
    from warehouse.catalog import Warehouse

    with needs_capture_extra():
        from capture.traits import directions
        from capture.traits.best import doubts
        from capture.traits.project import project as projected

    options = directions.Options(
        listed(trait), listed(vectors), directions.layers(listed(layer)), listed(method), listed(component),
        dynamics_only, threshold, shard,
    )  # fmt: skip
    with Warehouse(warehouse) as wh:
        chosen = directions.directions(wh, run, options)
        for d in chosen:
            note(f"{d.trait}: {d.method}, {d.component}, layer {d.layer_name}, of run {d.vectors_run_id} ({d.why})")
            for line in doubts(wh, d.vectors_run_id, d.trait, d.method, d.component, [d.layer]):
                note(line)
        with stopped_by_signals(), progress(wh.opened(run).meta.counts.sequences) as report:
            manifest = projected(wh, run, chosen, options, name, report)
    rows = manifest.counts.rows
    typer.echo(
        f"{manifest.run_id}: {rows['trait_projections']:,} projections, {rows['trait_dynamics']:,} responses' dynamics "
        f"in {manifest.seconds:.1f} s"
    )
    if rows["trait_projections"]:
        typer.echo(f"next: traces sql --run trait_by_token --set run={run}")
