"""`traces trait run`: from definitions to vectors that were tried, one command after the other, each leaving a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.arguments import split_list
from capture.cli.judge_options import ConcurrencyOption, PriceOption, TimeoutOption, YesOption, check_judge, judged
from capture.cli.options import (
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    MaxNewTokensOption,
    ModelOption,
    RevisionOption,
    SeedOption,
    TemperatureOption,
    TrustOption,
)
from capture.cli.terminal import needs_capture_extra, note
from capture.cli.trait_project import project
from capture.cli.trait_respond import MaybeJudgeOption, model_stem, numbers, respond, steer
from capture.cli.trait_vectors import FilterOption, ThresholdOption, evaluate, extract, score_threshold
from warehouse.cli.options import FormatOption, WarehouseOption
from warehouse.cli.output import Format
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from capture.traits.definition import Definition


def run(
    traits: Annotated[
        str,
        typer.Option(
            "--traits", metavar="A,B", help="Definitions, or names of those that come along.", show_default=False
        ),
    ],
    model: ModelOption,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Responses of each polarity.")] = 100,
    judge: MaybeJudgeOption = None,
    threshold: ThresholdOption = "50",
    filter: FilterOption = "pairs",
    coefficients: Annotated[str, typer.Option(help="What is tried by steering at the best layer.")] = "-4,-2,0,2,4",
    projected: Annotated[
        str,
        typer.Option("--project", metavar="RUN,…", help="Runs whose tokens are projected on the traits' best vectors."),
    ] = "",
    max_new_tokens: MaxNewTokensOption = 64,
    temperature: TemperatureOption = 0.7,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = 20,
    price: PriceOption = None,
    yes: YesOption = False,
    timeout: TimeoutOption = 60.0,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which steps are done and which are left.")] = False,
    fmt: FormatOption = Format.table,
    warehouse: WarehouseOption = None,
) -> None:
    """Respond, judge, extract, evaluate, steer at the best layer, project: for several traits, one after the other.

    Every step is a run of its own (`sarcasm-smollm2-responses`, `sarcasm-smollm2-vectors`, …). Those that are there are left as
    they are, so that the same command goes on where it was interrupted. Without a judge all responses count.

    Example: `traces trait run --traits sarcasm,formality --model smollm2 --judge openai:gpt-4.1-mini`
    """
    from warehouse.storage import paths
    from warehouse.storage.paths import find_run

    root = paths.find_root(warehouse)
    sources = split_list(projected)
    for source in sources:
        find_run(root, source)
    numbers("--coefficients", coefficients)
    with needs_capture_extra():
        from capture.traits import definition
        from capture.traits import extract as vectors_job
    vectors_job.check_options(vectors_job.Options(threshold=score_threshold(threshold), filter=filter))
    if judge is not None and not dry_run:
        check_judge(judge, price=price, yes=yes)
    found = {name: definition.load(name) for name in split_list(traits)}
    if not found:
        raise UsageError("--traits: name at least one.")
    vectors_of = []

    def left(name: str) -> bool:
        there = (paths.run_dir(root, name) / paths.MANIFEST).is_file()
        if there or dry_run:
            (typer.echo if dry_run else note)(f"{name}: {'there' if there else 'to be made'}")
        return not there and not dry_run

    def score(name: str) -> None:
        if judge is not None and left(f"{name}-judged"):
            judged(
                root, name, f"{name}-judged", judge, concurrency=concurrency, timeout=timeout, price=price, yes=yes, device=device
            )  # fmt: skip

    for path, d in found.items():
        base = f"{d.name}-{model_stem(model)}"
        responses, vectors = f"{base}-responses", f"{base}-vectors"
        vectors_of.append(vectors)
        if left(responses):
            respond(
                trait=path, model=model, n=n, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, run=responses,
                device=device, device_map=device_map, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code,
                warehouse=root,
            )  # fmt: skip
        _check(root, responses, d)
        score(responses)
        if left(vectors):
            extract(
                responses=responses, threshold=threshold if judge else "none", filter=filter, seed=seed, run=vectors, warehouse=root,
            )  # fmt: skip
        if left(f"{vectors}-evaluated"):
            evaluate(vectors=vectors, seed=seed, fmt=fmt, warehouse=root)
        if left(f"{vectors}-steered"):
            steer(
                trait=d.name, vectors=vectors, layers="best", coefficients=coefficients, model=model,
                max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, device=device, device_map=device_map,
                trust_remote_code=trust_remote_code, fmt=fmt, warehouse=root,
            )  # fmt: skip
        score(f"{vectors}-steered")
    for source in sources:
        if dry_run:
            typer.echo(f"{source}: projected, if it is not yet")
        else:  # which finds out for itself whether this very projection is there: its name does not tell
            project(
                trait=",".join(d.name for d in found.values()), run=source, vectors=",".join(vectors_of), warehouse=root
            )


def _check(root: Path, run: str, definition: Definition) -> None:
    """Raises UsageError where a run of that name is there, of another definition: what follows would be of that one."""
    from warehouse.storage import paths
    from warehouse.storage.manifest import Manifest

    folder = paths.run_dir(root, run)
    if folder.is_dir() and Manifest.read(folder).options.get("trait") != definition.model_dump():
        raise UsageError(
            f"Run '{run}' is there, and was made from another definition of {definition.name}. Delete it and what was made from "
            f"it (traces runs rm {run}), or give the definition another name."
        )
