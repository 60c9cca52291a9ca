"""The commands of `traces capture`, one a kind of run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture.cli.arguments import Data, Model, Prompts, capture_options
from capture.cli.options import (
    AttnOption,
    BatchTokensOption,
    CaptureOption,
    ChunkOption,
    ConfigOption,
    DataOption,
    DeviceMapOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    FromOption,
    HeadingsOption,
    IndexOption,
    LabelColumnOption,
    LimitOption,
    MaxLenOption,
    ModelOption,
    PrependBosOption,
    QuestionsOption,
    RevisionOption,
    RunOption,
    ShardOfOption,
    ShardOption,
    SplitOption,
    StoreDtypeOption,
    StrideOption,
    TargetColumnOption,
    TextColumnOption,
    TextOption,
    TrustOption,
)
from capture.cli.terminal import needs_capture_extra, note, progress, stopped_by_signals
from capture.sequences import partition
from warehouse.cli.options import WarehouseOption
from warehouse.errors import RunExistsError
from warehouse.schema import sites

if TYPE_CHECKING:
    from capture.jobs.job import Options
    from warehouse.storage.manifest import Manifest

capture_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Run a model over data and keep what happens inside."
)


@capture_app.command("next-token")
def next_token(
    model: ModelOption,
    data: DataOption = None,
    split: SplitOption = "validation",
    from_: FromOption = None,
    config: ConfigOption = None,
    headings: HeadingsOption = False,
    text: TextOption = None,
    text_column: TextColumnOption = "text",
    label_column: LabelColumnOption = None,
    target_column: TargetColumnOption = None,
    limit: LimitOption = None,
    capture: CaptureOption = "none",
    attn: AttnOption = "auto",
    index: IndexOption = None,
    run: RunOption = None,
    max_len: MaxLenOption = "auto",
    chunk: ChunkOption = False,
    stride: StrideOption = None,
    prepend_bos: PrependBosOption = "auto",
    batch_tokens: BatchTokensOption = 1024,
    top_k: Annotated[int, typer.Option(min=1, help="Most probable tokens to keep for each position.")] = 5,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    store_dtype: StoreDtypeOption = "auto",
    shard_mb: ShardOption = 256,
    shard: ShardOfOption = "",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Next-token diagnostics at every position, and the tensors behind them.

    Offsets count characters: the tokens that share one character (its bytes, in many tokenizers) have the same offsets. The same
    command again goes on with a capture that was interrupted.

    Examples: `traces capture next-token --model smollm2 --text my.txt --run first`,
    `traces capture next-token --model smollm2 --data wikitext2 --from validation.txt --limit 500 --capture hidden,resid,qkv,attn`
    """
    shared = capture_options(capture, attn, index, limit, max_len, batch_tokens, store_dtype, shard_mb, shard)
    asked = Model(model, "lm", device, device_map, dtype, revision, trust_remote_code)
    with needs_capture_extra():
        from capture.jobs import next_token as kind
    options = kind.Options(
        **shared, chunk=chunk, stride=stride, prepend_bos=prepend_bos, target_column=target_column, top_k=top_k
    )
    read = Data(data, split, from_, text, text_column, config, headings, label_column)
    run_capture(kind, options, asked, read, run, dry_run, warehouse)


@capture_app.command("encode")
def encode(
    model: ModelOption,
    data: DataOption = None,
    split: SplitOption = "validation",
    from_: FromOption = None,
    config: ConfigOption = None,
    headings: HeadingsOption = False,
    text: TextOption = None,
    text_column: TextColumnOption = "text",
    label_column: LabelColumnOption = None,
    target_column: TargetColumnOption = None,
    limit: LimitOption = None,
    capture: CaptureOption = "hidden",
    attn: AttnOption = "auto",
    index: IndexOption = None,
    run: RunOption = None,
    max_len: MaxLenOption = "auto",
    chunk: ChunkOption = False,
    stride: StrideOption = None,
    prepend_bos: PrependBosOption = "auto",
    batch_tokens: BatchTokensOption = 1024,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    store_dtype: StoreDtypeOption = "auto",
    shard_mb: ShardOption = 256,
    shard: ShardOfOption = "",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """The tensors alone, without next-token diagnostics: of encoders, and of decoders without their head.

    An encoder-decoder is recorded on its encoder's side, and on both where targets are given.

    Example: `traces capture encode --model minilm --data go_emotions --split validation --capture attn,qkv`
    """
    shared = capture_options(capture, attn, index, limit, max_len, batch_tokens, store_dtype, shard_mb, shard)
    asked = Model(model, "none", device, device_map, dtype, revision, trust_remote_code)
    with needs_capture_extra():
        from capture.jobs import encode as kind
    options = kind.Options(**shared, chunk=chunk, stride=stride, prepend_bos=prepend_bos, target_column=target_column)
    read = Data(data, split, from_, text, text_column, config, headings, label_column)
    run_capture(kind, options, asked, read, run, dry_run, warehouse)


@capture_app.command("mcq-prompt")
def mcq_prompt(
    model: ModelOption,
    data: QuestionsOption = "csqa",
    split: SplitOption = "validation",
    from_: FromOption = None,
    limit: LimitOption = None,
    score: Annotated[
        str,
        typer.Option(
            help="What decides: `letter` (the logit of the choice's letter), `text` (the log-probability of its text), or `byte` "
            "(that by byte). All three are stored."
        ),
    ] = "letter",
    template: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Another prompt: a text with `{question}` and `{choices}` in it."),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the tokenizer's chat template.")] = False,
    capture: CaptureOption = "none",
    attn: AttnOption = "auto",
    index: IndexOption = None,
    run: RunOption = None,
    max_len: MaxLenOption = "auto",
    prepend_bos: PrependBosOption = "auto",
    batch_tokens: BatchTokensOption = 1024,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    store_dtype: StoreDtypeOption = "auto",
    shard_mb: ShardOption = 256,
    shard: ShardOfOption = "",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Multiple-choice questions put to a decoder as prompts: what it answers, how sure it is, and the tensors behind that.

    Tensors are of the prompt, or under --score text and byte of the prompt with each choice, `seq` being the choice.

    Example: `traces capture mcq-prompt --model smollm2 --data csqa --split validation --capture attn,qkv,hidden,resid`
    """
    shared = capture_options(capture, attn, index, limit, max_len, batch_tokens, store_dtype, shard_mb, shard)
    asked = Model(model, "lm", device, device_map, dtype, revision, trust_remote_code)
    with needs_capture_extra():
        from capture.jobs import mcq_prompt as kind
        from capture.sequences.question_prompts import TEMPLATE
    chosen = TEMPLATE if template is None else _template(template)
    options = kind.Options(**shared, score=score, template=chosen, chat=chat, prepend_bos=prepend_bos)
    run_capture(kind, options, asked, Data(data, split, from_, questions=True), run, dry_run, warehouse)


@capture_app.command("mcq-encoder")
def mcq_encoder(
    model: ModelOption,
    data: QuestionsOption = "csqa",
    split: SplitOption = "validation",
    from_: FromOption = None,
    limit: LimitOption = None,
    capture: CaptureOption = "none",
    attn: AttnOption = "auto",
    index: IndexOption = None,
    run: RunOption = None,
    max_len: MaxLenOption = "auto",
    batch_tokens: BatchTokensOption = 1024,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
    store_dtype: StoreDtypeOption = "auto",
    shard_mb: ShardOption = 256,
    shard: ShardOfOption = "",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: DryRunOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Multiple-choice questions put to an encoder with a multiple-choice head, the question with each choice as a pair.

    Tensors are of every pair, `seq` being the choice. `traces finetune mcq` trains such a head.

    Example: `traces capture mcq-encoder --model checkpoints/minilm-csqa --data csqa --split validation --capture hidden,resid`
    """
    shared = capture_options(capture, attn, index, limit, max_len, batch_tokens, store_dtype, shard_mb, shard)
    asked = Model(model, "multiple-choice", device, device_map, dtype, revision, trust_remote_code)
    with needs_capture_extra():
        from capture.jobs import mcq_encoder as kind
    options = kind.Options(**shared)
    run_capture(kind, options, asked, Data(data, split, from_, questions=True), run, dry_run, warehouse)


def _template(path: str) -> str:
    """Raises UsageError where the file cannot be read as text."""
    from capture.data.files import check_not_empty, read_text, user_path

    check_not_empty(template=path)
    return read_text(user_path(path)).rstrip("\n")


def run_capture(
    kind: Any,
    options: Options,
    asked: Model,
    data: Data | Prompts,
    run: str | None,
    dry_run: bool,
    warehouse: Path | None,
    skip_existing: bool = False,
) -> None:
    """What the commands of `traces capture` do, `kind` being the module of the job."""
    from warehouse.storage import paths

    root = paths.find_root(warehouse)
    run = run and partition.part_run_name(run, options.shard)
    if run is not None and paths.run_dir(root, paths.check_run_name(run)).exists():
        if skip_existing:
            typer.echo(f"{run} is there already: nothing to do")
            return
        raise RunExistsError(run)
    source = data.open(root)
    loaded = asked.load()
    if loaded.untrained:
        typer.echo(
            f"{asked.name} has no trained multiple-choice head: {', '.join(loaded.untrained)} are random, and so are its "
            "answers. Train one: traces finetune mcq"
        )
    if dry_run:
        for line in kind.forecast(loaded, source, options):
            typer.echo(line)
        return
    try:
        with stopped_by_signals(), progress(partition.Partition(options.shard).count(options.limit)) as report:
            manifest = kind.run(loaded, source, options, root=root, run_id=run, report=report, note=note)
    except RunExistsError as e:
        if not skip_existing:
            raise
        typer.echo(f"{e.run_id} is there already: nothing to do")
        return
    for line in filter(None, (source.description(), *_told(manifest, root, options.max_len or loaded.window))):
        typer.echo(line)


def _told(manifest: Manifest, root: Path, length: int | None) -> list[str]:
    """What a user should know of a capture that is done."""
    from warehouse.storage import paths

    c = manifest.counts
    perplexity = "" if manifest.perplexity is None else f", perplexity {manifest.perplexity:.2f}"
    lines = [f"{manifest.run_id}: {c.examples:,} examples, {c.tokens:,} tokens in {manifest.seconds:.1f} s{perplexity}"]
    if c.predictions and manifest.mean_loss is None:
        lines.append("its mean loss is infinite: tokens came that the model rules out (next_token, loss = 'infinity')")
    if c.rows["mcq_predictions"]:
        lines += _accuracy(manifest.run_id, root)
    if c.truncated:
        see = "--max-len" if c.rows["mcq_predictions"] else "--max-len, --chunk, --stride"
        lines.append(f"{c.truncated:,} texts were longer than {length} tokens and were cut: see {see}")
    if c.altered:
        lines.append(
            f"{c.altered:,} texts were changed by the tokenizer (case, accents or white space) before it cut them into tokens; "
            "offsets are those in the texts as they are"
        )
    asked_for = set(sites.resolve(manifest.option("capture")))
    for stack in filter(None, (manifest.model, manifest.model.encoder)):
        lines += [f"not there: {site}: {why}" for site, why in stack.missing.items() if site in asked_for]
    if manifest.option("shard"):
        whole, _, _ = paths.part_of(manifest.run_id) or (manifest.run_id, 0, 0)
        return [*lines, f"next, when all shards are there: traces runs merge {whole}"]
    return [*lines, f"next: traces runs show {manifest.run_id}"]


def _accuracy(run_id: str, root: Path) -> list[str]:
    from warehouse import TraceStore
    from warehouse.analysis.intervals import accuracy_text
    from warehouse.storage import paths

    row = (
        TraceStore(paths.run_dir(root, run_id))
        .query("SELECT count(is_correct), count_if(is_correct), any_value(score) FROM mcq_predictions")
        .fetchone()
    )
    if row is None or not row[0]:
        return ["no question has a key: how many were right is not known"]
    return [f"{accuracy_text(row[1], row[0])}, by {row[2]}"]
