"""`traces trait run`: from definitions to vectors that were tried, one command after the other, each leaving a run of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.judge_options import JudgeOptions, check_judge, judge_responses
from capture.cli.options import LoadOptions, ModelOption, SamplingOptions
from capture.cli.terminal import needs_capture_extra, note
from capture.cli.trait_project import project
from capture.cli.trait_respond import model_stem, respond, steer
from capture.cli.trait_vectors import FilterOption, ThresholdOption, evaluate, extract
from capture.cli.values import parse_numbers, parse_threshold, split_list
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import FormatOption, WarehouseOption
from warehouse.cli.output import Format
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from capture.traits.definition import Definition


@with_groups(defaults={"max_new_tokens": 64}, fixed={"top_p": 1.0, "sample_top_k": 0})
def run(
    traits: Annotated[
        str,
        typer.Option(
            "--traits",
            metavar="A,B,…",
            help="Definitions, or names of those that come with traces.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ],
    model: ModelOption,
    loading: LoadOptions,
    sampling: SamplingOptions,
    asking: JudgeOptions,
    n: Annotated[
        int,
        typer.Option("--n", "-n", min=1, help="Responses of each polarity.", rich_help_panel=Panel.RESPONSES),
    ] = 100,
    threshold: ThresholdOption = "50",
    filter: FilterOption = "pairs",
    coefficients: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Coefficients to try when steering at the best layer.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "-4,-2,0,2,4",
    projected: Annotated[
        str,
        typer.Option(
            "--project",
            metavar="RUN,…",
            help="Runs whose tokens are projected on the traits' best vectors.",
            rich_help_panel=Panel.READ,
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say which steps are done and which are left.", rich_help_panel=Panel.GENERAL),
    ] = False,
    warehouse: WarehouseOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Respond, judge, extract, evaluate, steer at the best layer, project: for several traits, one after the other.

    Every step is a run of its own (`sarcasm-smollm2-responses`, `sarcasm-smollm2-vectors`, …). Runs that exist are left as they
    are, so that the same command again continues one that was interrupted. Without a judge all responses count.

    Examples:
        traces trait run --traits sarcasm,formality --model smollm2 --judge openai:gpt-4.1-mini

    Raises:
        UsageError: No trait is named.
    """
    from warehouse.storage import paths
    from warehouse.storage.paths import find_run

    root = paths.find_root(warehouse)
    sources = split_list(projected)
    for source in sources:
        find_run(root, source)
    parse_numbers("--coefficients", coefficients)
    with needs_capture_extra():
        from capture.traits import definition as definitions
        from capture.traits import extract as vectors_job
    vectors_job.check_options(vectors_job.Options(threshold=parse_threshold(threshold), filter=filter))
    if asking.judge is not None and not dry_run:
        check_judge(asking.judge, asking)
    by_path = {path: definitions.load(path) for path in split_list(traits)}
    if not by_path:
        raise UsageError("--traits: name at least one.")
    vectors_runs = []
    answering = {k: v for k, v in asdict(sampling).items() if k not in ("top_p", "sample_top_k")}
    placing = {k: getattr(loading, k) for k in ("device", "device_map", "trust_remote_code")}

    def is_left(name: str) -> bool:
        exists = (paths.run_dir(root, name) / paths.MANIFEST).is_file()
        if exists or dry_run:
            (typer.echo if dry_run else note)(f"{name}: {'done' if exists else 'to do'}")
        return not exists and not dry_run

    def score(name: str) -> None:
        if asking.judge is not None and is_left(f"{name}-judged"):
            judge_responses(root, name, f"{name}-judged", asking.judge, asking, device=loading.device)

    for path, definition in by_path.items():
        base = f"{definition.name}-{model_stem(model)}"
        responses, vectors = f"{base}-responses", f"{base}-vectors"
        vectors_runs.append(vectors)
        if is_left(responses):
            respond(trait=path, model=model, n=n, run=responses, warehouse=root, **asdict(loading), **answering)
        _check_definition(root, responses, definition)
        score(responses)
        if is_left(vectors):
            extract(
                responses=responses, threshold=threshold if asking.judge else "none", filter=filter, seed=sampling.seed,
                run=vectors, warehouse=root,
            )  # fmt: skip
        if is_left(f"{vectors}-evaluated"):
            evaluate(vectors=vectors, seed=sampling.seed, fmt=fmt, warehouse=root)
        if is_left(f"{vectors}-steered"):
            steer(
                trait=definition.name, vectors=vectors, layers="best", coefficients=coefficients, model=model, fmt=fmt,
                warehouse=root, **placing, **answering,
            )  # fmt: skip
        score(f"{vectors}-steered")
    for source in sources:
        if dry_run:
            typer.echo(f"{source}: projected, if it is not yet")
        else:  # which finds out for itself whether this very projection exists: its name does not say
            project(
                run=source,
                traits=",".join(d.name for d in by_path.values()),
                vectors=",".join(vectors_runs),
                warehouse=root,
            )


def _check_definition(root: Path, run: str, definition: Definition) -> None:
    """Raise UsageError if a run of that name was made from another definition: what follows would belong to that one."""
    from warehouse.storage import paths
    from warehouse.storage.manifest import Manifest

    folder = paths.run_dir(root, run)
    if folder.is_dir() and Manifest.read(folder).options.get("trait") != definition.model_dump():
        raise UsageError(
            f"Run '{run}' was made from another definition of {definition.name}. Delete it and what was made from it (traces "
            f"runs rm {run}), or give the definition another name."
        )
