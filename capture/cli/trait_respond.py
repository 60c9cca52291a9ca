"""`traces trait respond` and `steer`: a model answers a trait's questions, as it is asked to or with the trait's vector added."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture.cli.arguments import Model, capture_options
from capture.cli.judge_options import (
    JUDGE_HELP,
    ConcurrencyOption,
    PriceOption,
    TimeoutOption,
    YesOption,
    check_judge,
    judged,
)
from capture.cli.options import (
    MODEL_HELP,
    BatchTokensOption,
    CaptureOption,
    DeviceMapOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    MaxNewTokensOption,
    ModelOption,
    RevisionOption,
    RunOption,
    SampleTopKOption,
    SeedOption,
    ShardOfOption,
    SkipExistingOption,
    TemperatureOption,
    TopPOption,
    TrustOption,
)
from capture.cli.terminal import needs_capture_extra, note, progress, stopped_by_signals
from capture.sequences import partition
from warehouse.cli.options import FormatOption, WarehouseOption
from warehouse.cli.output import Format
from warehouse.errors import RunExistsError, UsageError

if TYPE_CHECKING:
    from capture.traits.steer import SteeringChoice
    from warehouse.storage.manifest import Manifest

MaybeJudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="JUDGE", help=f"{JUDGE_HELP} Nobody if left out: see traces trait judge.", show_default=False
    ),
]
DefinitionOption = Annotated[
    str,
    typer.Option(
        "--trait", metavar="FILE", help="A definition, or the name of one that comes along.", show_default=False
    ),
]
VectorsOption = Annotated[
    str | None,
    typer.Option("--vectors", metavar="RUN", help="Whose vectors; the newest with some of the trait if left out."),
]


def respond(
    trait: DefinitionOption,
    model: ModelOption,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Responses of each polarity.")] = 100,
    judge: MaybeJudgeOption = None,
    max_new_tokens: MaxNewTokensOption = 64,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 1.0,
    sample_top_k: SampleTopKOption = 0,
    seed: SeedOption = 0,
    capture: CaptureOption = "means",
    run: RunOption = None,
    skip_existing: SkipExistingOption = False,
    batch_tokens: BatchTokensOption = 4096,
    shard: ShardOfOption = "",
    concurrency: ConcurrencyOption = 20,
    price: PriceOption = None,
    yes: YesOption = False,
    timeout: TimeoutOption = 60.0,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """A model answers a trait's questions, asked to show the trait (`pos`) and asked not to (`neg`); a judge says how it did.

    Kept of each response are the means over its tokens at every layer (`--capture means`), which vectors are made from.
    The same command again goes on where it was interrupted.

    Example: `traces trait respond --trait sarcasm --model smollm2 --n 100 --judge openai:gpt-4.1-mini`
    """
    _check_judged_later(judge, shard)
    shared = capture_options(capture, "auto", ["none"], None, "auto", batch_tokens, "auto", 256, shard)
    asked = Model(model, "lm", device, device_map, dtype, revision, trust_remote_code)
    with needs_capture_extra():
        from capture.traits import definition
        from capture.traits import respond as kind
    found = definition.load(trait)
    options = kind.Options(
        **shared, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, sample_top_k=sample_top_k, seed=seed,
        trait=found.model_dump(), n=n,
    )  # fmt: skip
    name = partition.part_run_name(run or f"{found.name}-{model_stem(model)}-responses", shard)
    source = kind.source(found, n)
    if judge is not None and not dry_run:
        check_judge(judge, price=price, yes=yes)
    manifest = generated(
        kind.run, kind.forecast, source, options, asked, name, warehouse, dry_run, skip_existing, judge is not None
    )
    if manifest is None:
        return
    typer.echo(
        f"{name}: {manifest.counts.sequences:,} responses, {manifest.counts.tokens:,} tokens in {manifest.seconds:.1f} s"
    )
    if shard:
        typer.echo(f"next, when all shards are there: traces runs merge {name.rpartition('.shard-')[0]}")
    elif judge is not None:
        _judge(name, judge, concurrency, price, yes, timeout, device, warehouse)
        typer.echo(f"next: traces trait extract --trait {found.name}")
    else:
        typer.echo(
            f"next: traces trait judge {name} --judge …, or traces trait extract --trait {found.name} --threshold none"
        )


def steer(
    trait: Annotated[str, typer.Option("--trait", help="A trait that has vectors.", show_default=False)],
    coefficients: Annotated[
        str,
        typer.Option(help="How much is added, in distances between the means of the two polarities along the vector."),
    ] = "-4,-2,0,2,4",
    layers: Annotated[str, typer.Option(help="`mid`, `best` (as traces trait evaluate found), or numbers.")] = "mid",
    vectors: VectorsOption = None,
    method: Annotated[
        str, typer.Option(help="Whose vector: `mean_diff`, `probe`, `ica`, `gradient` or `random`.")
    ] = "mean_diff",
    component: Annotated[str, typer.Option(help="`residual` or `attn_out`.")] = "residual",
    questions: Annotated[
        int | None, typer.Option("--n", "-n", min=1, help="So many questions; all that were held out if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"Where the same model lies now. {MODEL_HELP}", show_default=False),
    ] = None,
    judge: MaybeJudgeOption = None,
    max_new_tokens: MaxNewTokensOption = 64,
    temperature: TemperatureOption = 0.7,
    seed: SeedOption = 0,
    capture: CaptureOption = "means",
    run: RunOption = None,
    skip_existing: SkipExistingOption = False,
    batch_tokens: BatchTokensOption = 4096,
    shard: ShardOfOption = "",
    concurrency: ConcurrencyOption = 20,
    price: PriceOption = None,
    yes: YesOption = False,
    timeout: TimeoutOption = 60.0,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    fmt: FormatOption = Format.table,
    warehouse: WarehouseOption = None,
) -> None:
    """Add a trait's vector to what a block gives while the model answers: does it change the text, and is it still coherent?

    Asked are questions that no vector was made from. The same command again goes on where it was interrupted.

    Example: `traces trait steer --trait sarcasm --coefficients -4,-2,0,2,4 --layers mid --judge openai:gpt-4.1-mini`
    """
    from warehouse.storage import paths

    _check_judged_later(judge, shard)
    shared = capture_options(capture, "auto", ["none"], None, "auto", batch_tokens, "auto", 256, shard)
    wanted = layers if layers in ("mid", "best") else [int(x) for x in numbers("--layers", layers)]
    added = tuple(numbers("--coefficients", coefficients))
    root = paths.find_root(warehouse)
    with needs_capture_extra():
        from capture.traits import steer as kind
    chosen = kind.choose_vectors(root, trait, vectors, method, component, wanted)
    _check_best(wanted, method, component, chosen)
    _tell(root, trait, chosen)
    if judge is not None and not dry_run:
        check_judge(judge, price=price, yes=yes)
    m = chosen.model
    revision = m.revision if model in (None, m.name) else None
    asked = Model(model or m.name, "lm", device, device_map, m.dtype, revision, trust_remote_code)
    options = kind.Options(
        **shared, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        trait=chosen.trait, vectors_run=chosen.vectors_run, vectors_hash=chosen.vectors_hash,
        method=chosen.method, component=chosen.component, layers=tuple(chosen.vectors), coefficients=added,
        questions=tuple(chosen.questions[:questions]),
    )  # fmt: skip
    name = partition.part_run_name(run or f"{chosen.vectors_run}-steered", shard)
    run_kind, forecast = kind.for_kind(chosen.vectors, m.space)
    manifest = generated(
        run_kind, forecast, kind.source(options), options, asked, name, warehouse, dry_run, skip_existing, judge is not None
    )  # fmt: skip
    if manifest is None:
        return
    if shard:
        typer.echo(f"next, when all shards are there: traces runs merge {name.rpartition('.shard-')[0]}")
        return
    if judge is not None:
        _judge(name, judge, concurrency, price, yes, timeout, device, warehouse)
    show_effects(root, name, fmt)


def show_effects(root: Path, run: str, fmt: Format) -> None:
    """A steered run's table: what each coefficient did."""
    from warehouse.cli.output import write
    from warehouse.schema.quoting import sql_text
    from warehouse.warehouse import Warehouse

    with Warehouse(root) as wh:
        answer = wh.sql(
            "SELECT layer, coefficient, n, round(trait_score, 1) AS trait_score, round(coherence_score, 1) AS coherence_score "
            f"FROM steering_effects WHERE run_id = {sql_text(run)} ORDER BY layer, coefficient"
        )
        write(answer, fmt, None)


def generated(
    run_kind: Any,
    forecast: Any,
    source: Any,
    options: Any,
    asked: Model,
    name: str,
    warehouse: Path | None,
    dry_run: bool,
    skip_existing: bool,
    to_judge: bool,
) -> Manifest | None:
    """Runs a job that generates; None: it was only to say what it would do, or the run was there and is left as it is. One that
    is there from the same options, and is to be judged and was not, is what it would have made.
    """
    from warehouse.storage import paths
    from warehouse.storage.manifest import Manifest

    options.sampling.check()
    root = paths.find_root(warehouse)
    folder = paths.run_dir(root, paths.check_run_name(name))
    if folder.exists():
        if to_judge and not dry_run and not paths.run_dir(root, f"{name}-judged").exists():
            there, wanted = Manifest.read(folder), json.loads(json.dumps(asdict(options)))
            if {
                k: v for k, v in there.options.items() if k in wanted
            } == wanted:  # beside them are facts that the job found
                note(f"{name} is there already: going on with its judge")
                return there
        if not skip_existing:
            raise RunExistsError(name)
        typer.echo(f"{name} is there already: nothing to do")
        return None
    loaded = asked.load()
    if dry_run:
        for line in forecast(loaded, source, options):
            typer.echo(line)
        return None
    with stopped_by_signals(), progress(None) as report:
        made: Manifest = run_kind(loaded, source, options, root=root, run_id=name, report=report, note=note)
    return made


def _check_judged_later(judge: str | None, shard: str) -> None:
    """Judgements name the run that they are of, and that is the one that shards become."""
    if judge is not None and shard:
        raise UsageError("--judge and --shard don't go together: merge the shards, then traces trait judge RUN.")


def _judge(
    run: str,
    judge: str,
    concurrency: int,
    price: str | None,
    yes: bool,
    timeout: float,
    device: str,
    warehouse: Path | None,
) -> None:
    from warehouse.storage import paths

    root = paths.find_root(warehouse)
    found = judged(
        root, run, None, judge, concurrency=concurrency, timeout=timeout, price=price, yes=yes, device=device
    )
    if found is not None:
        typer.echo(f"{found.run_id}: {found.counts.rows['judgements']:,} judgements in {found.seconds:.1f} s")


def _check_best(wanted: str | list[int], method: str, component: str, chosen: SteeringChoice) -> None:
    """`best` is a layer of a method and a component. Raises UsageError where others were asked for."""
    for option, asked, usual, best in (
        ("--method", method, "mean_diff", chosen.method), ("--component", component, "residual", chosen.component),
    ):  # fmt: skip
        if wanted == "best" and asked not in (usual, best):
            raise UsageError(
                f"{option} {asked}: the best vector of {chosen.trait['name']} is of {best}. Leave it out, or name its --layers."
            )


def _tell(root: Path, trait: str, chosen: SteeringChoice) -> None:
    """Says what a trait is steered by, and why, and where that is not known to be better than a random direction."""
    from capture.traits.best_vector import weak_vector_warnings
    from warehouse.warehouse import Warehouse

    layers = ", ".join(map(str, chosen.vectors))
    note(f"{trait}: {chosen.method}, {chosen.component}, layer {layers}, of run {chosen.vectors_run} ({chosen.reason})")
    with Warehouse(root) as wh:
        for line in weak_vector_warnings(wh, chosen.vectors_run, trait, chosen.method, chosen.component, list(chosen.vectors)):
            note(line)


def numbers(option: str, text: str) -> list[float]:
    """Each once. Raises UsageError for what is no list of numbers."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise UsageError(f"{option} {text}: use numbers with commas between them.")
    found = list({f"{x:g}": x for x in found}.values())  # an example is known by its coefficient as it is written
    if option == "--layers" and any(x != int(x) or x < 0 for x in found):
        raise UsageError(f"--layers {text}: use mid, best, or numbers from 0 up.")
    return found


def model_stem(model: str) -> str:
    """A model in the name of a run: `smollm2`."""
    from warehouse.storage import paths

    return paths.sql_name(Path(model).name.removesuffix(".gguf")).replace("_", "-")
