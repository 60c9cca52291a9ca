"""`traces trait judge`: have a judge score the responses of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.judge_options import AskingOptions, JudgeOption
from capture.cli.options import PartOptions
from warehouse.cli.option_groups import with_groups
from warehouse.cli.options import FormatOption, RunArgument, WarehouseOption, dry_run_option, run_option
from warehouse.cli.output import Format


@with_groups()
def judge(
    run: RunArgument,
    judge: JudgeOption,
    asking: AskingOptions,
    part: PartOptions,
    name: Annotated[
        str | None,
        run_option("RUN-judged"),
    ] = None,
    dry_run: Annotated[
        bool,
        dry_run_option("Only say what would be asked, and what it may cost."),
    ] = False,
    warehouse: WarehouseOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Have a judge score every response of a run for its trait and its coherence, 0 to 100: the table `judgements`.

    The result is a run of its own; the same command again continues one that was interrupted. Keys come from `OPENAI_API_KEY`,
    `ANTHROPIC_API_KEY`, and `JUDGE_API_KEY` for other servers that want one, in the environment or in a file `.env`. The view
    `judged_responses` has the scores beside the responses.

    Examples:
        traces trait judge humorous-responses --judge openai:gpt-4.1-mini --price 0.40,1.60
    """
    from capture.cli.judge_options import judge_responses
    from warehouse.cli.output import write
    from warehouse.schema.quoting import sql_text
    from warehouse.storage import paths
    from warehouse.warehouse import Warehouse

    root = paths.find_root(warehouse)
    manifest = judge_responses(root, run, name, judge, asking, dry_run=dry_run, part=part)
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
