"""The commands of `traces capture`, one a kind of run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from capture.cli.data_options import (
    DataOptions,
    MaxLenOption,
    PrependBosOption,
    QuestionOptions,
    SequenceOptions,
)
from capture.cli.options import CaptureOptions, LoadOptions, ModelOption, RunOptions, TopKOption
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.workers import make_in_parts
from capture.sequences import partition
from capture.workers.assignment import assigned_part
from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.errors import RunExistsError
from warehouse.schema import sites
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.data.example import Source
    from capture.jobs.job import Options
    from capture.model.loading import Loaded
    from warehouse.storage.manifest import Manifest

capture_app = App(no_args_is_help=True, help="Run a model over data and keep what happens inside.")


@capture_app.command("next-token")
@with_groups()
def next_token(
    model: ModelOption,
    loading: LoadOptions,
    data: DataOptions,
    sequences: SequenceOptions,
    capture: CaptureOptions,
    target: RunOptions,
    top_k: TopKOption = 5,
) -> None:
    """Record next-token diagnostics at every position, and the tensors behind them.

    Offsets count characters: tokens that share one character (its bytes, in many tokenizers) have the same offsets. The same
    command again continues a capture that was interrupted.

    Examples:
        traces capture next-token --model smollm2 --text my.txt --run first
        traces capture next-token --model smollm2 --data wikitext2 --from validation.txt --limit 500 --capture hidden,resid,qkv,attn
    """
    shared = capture.checked(data.limit, sequences.max_len, target.chosen, data.sample)
    with needs_capture_extra():
        from capture.jobs import next_token as job
    options = job.Options(
        **shared,
        chunk=sequences.chunk,
        stride=sequences.stride,
        prepend_bos=sequences.prepend_bos,
        target_column=sequences.target_column,
        top_k=top_k,
    )
    run_capture(job, options, data, target, model, loading, lambda: loading.load(model, "lm"))


@capture_app.command("encode")
@with_groups(defaults={"capture": "hidden"})
def encode(
    model: ModelOption,
    loading: LoadOptions,
    data: DataOptions,
    sequences: SequenceOptions,
    capture: CaptureOptions,
    target: RunOptions,
) -> None:
    """Record tensors alone, without next-token diagnostics: encoders, and decoders without their head.

    An encoder-decoder is recorded on its encoder's side, and on both sides where targets are given.

    Examples:
        traces capture encode --model minilm --data go_emotions --split validation --capture attn,qkv
    """
    shared = capture.checked(data.limit, sequences.max_len, target.chosen, data.sample)
    with needs_capture_extra():
        from capture.jobs import encode as job
    options = job.Options(
        **shared,
        chunk=sequences.chunk,
        stride=sequences.stride,
        prepend_bos=sequences.prepend_bos,
        target_column=sequences.target_column,
    )
    run_capture(job, options, data, target, model, loading, lambda: loading.load(model, "none"))


@capture_app.command("mcq-prompt")
@with_groups()
def mcq_prompt(
    model: ModelOption,
    loading: LoadOptions,
    data: QuestionOptions,
    capture: CaptureOptions,
    target: RunOptions,
    score: Annotated[
        str,
        typer.Option(
            help="What decides: `letter` (the logit of the choice's letter), `text` (the log-probability of its text), or `byte` "
            "(that by byte). All three are stored.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "letter",
    template: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Another prompt: a text with `{question}` and `{choices}` in it.",
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Ask through the tokenizer's chat template.", rich_help_panel=Panel.READ),
    ] = False,
    max_len: MaxLenOption = "auto",
    prepend_bos: PrependBosOption = "auto",
) -> None:
    """Put multiple-choice questions to a decoder as prompts: what it answers, how sure it is, and the tensors behind that.

    Tensors belong to the prompt; under `--score text` and `byte` to the prompt with each choice, whose number is `seq`.

    Examples:
        traces capture mcq-prompt --model smollm2 --data csqa --split validation --capture attn,qkv,hidden,resid
    """
    shared = capture.checked(data.limit, max_len, target.chosen, data.sample)
    with needs_capture_extra():
        from capture.jobs import mcq_prompt as job
        from capture.sequences.question_prompts import TEMPLATE
    chosen = TEMPLATE if template is None else _read_template(template)
    options = job.Options(**shared, score=score, template=chosen, chat=chat, prepend_bos=prepend_bos)
    run_capture(job, options, data, target, model, loading, lambda: loading.load(model, "lm"))


@capture_app.command("mcq-encoder")
@with_groups()
def mcq_encoder(
    model: ModelOption,
    loading: LoadOptions,
    data: QuestionOptions,
    capture: CaptureOptions,
    target: RunOptions,
    max_len: MaxLenOption = "auto",
) -> None:
    """Put multiple-choice questions to an encoder with a multiple-choice head, the question with each choice as a pair.

    Tensors belong to every pair, `seq` being the choice. `traces finetune mcq` trains such a head.

    Examples:
        traces capture mcq-encoder --model checkpoints/minilm-csqa --data csqa --split validation --capture hidden,resid
    """
    shared = capture.checked(data.limit, max_len, target.chosen, data.sample)
    with needs_capture_extra():
        from capture.jobs import mcq_encoder as job
    run_capture(
        job, job.Options(**shared), data, target, model, loading, lambda: loading.load(model, "multiple-choice")
    )


def _read_template(path: str) -> str:
    """Return the text of a prompt template, without its last line breaks."""
    from capture.data.files import check_not_empty, read_text, user_path

    check_not_empty(template=path)
    return read_text(user_path(path)).rstrip("\n")


class Opens(Protocol):
    """What opens the data of a capture: a group of options."""

    def open(self, root: AnyPath) -> Source:
        """Open the data; `root` is the warehouse's folder, where prepared data sets are."""
        ...


def run_capture(
    job: Any,
    options: Options,
    data: Opens,
    target: RunOptions,
    model: str,
    loading: LoadOptions,
    load: Callable[[], Loaded],
    skip_existing: bool = False,
) -> Manifest | None:
    """Run a capture as every command of `traces capture` does, and say what came of it.

    Args:
        job: The module of the kind of capture.
        options: What the job is to do.
        data: What is read.
        target: Where the run is written.
        model: The model as the user named it.
        loading: How it is loaded, and where it runs.
        load: Loads the model; called once the data is open.
        skip_existing: Whether a run that exists already is no error.

    Returns:
        The run's manifest; None for a dry run, and for a run that exists and is left alone.

    Raises:
        RunExistsError: A run of that name exists, and is not to be skipped.
    """
    from capture.api.runs import run_job
    from warehouse.storage import paths, run_list

    root = paths.find_root(target.warehouse)
    try:
        if target.divided and not target.dry_run:
            manifest = make_in_parts(target, root, target.run, loading=loading, total=options.limit)
            about, length = None, options.max_len
        else:
            run = target.run and partition.part_run_name(target.run, options.shard)
            if run is not None:
                run_list.check_free(root, run)
            source = data.open(root)
            loaded = load()
            if loaded.untrained:
                (note if assigned_part() else typer.echo)(
                    f"{model} has no trained multiple-choice head: {', '.join(loaded.untrained)} are random, and so are its "
                    "answers. Train one: traces finetune mcq"
                )
            if target.dry_run:
                for line in job.forecast(loaded, source, options):
                    typer.echo(line)
                return None
            with stopped_by_signals():
                manifest = run_job(job, loaded, source, options, root=root, run_id=run, say=note)
            about, length = source.description(), options.max_len or loaded.window
    except RunExistsError as e:
        if not skip_existing or assigned_part():
            raise
        typer.echo(f"{e.run_id} exists already: nothing to do")
        return None
    for line in filter(None, (about, *summary_lines(manifest, root, length))):
        typer.echo(line)
    return manifest


def summary_lines(manifest: Manifest, root: AnyPath, length: int | None) -> list[str]:
    """Return what a user should know of a capture that is done, line by line.

    Args:
        manifest: The run's.
        root: The warehouse root.
        length: The length in tokens that texts were cut to; None: the model's own, or no limit.

    Returns:
        Lines, the last of which says what to do next.
    """
    from warehouse.storage import paths

    c = manifest.counts
    perplexity = "" if manifest.perplexity is None else f", perplexity {manifest.perplexity:.2f}"
    lines = [f"{manifest.run_id}: {c.examples:,} examples, {c.tokens:,} tokens in {manifest.seconds:.1f} s{perplexity}"]
    if c.predictions and manifest.mean_loss is None:
        lines.append("its mean loss is infinite: tokens came that the model rules out (next_token, loss = 'infinity')")
    if c.rows["mcq_predictions"]:
        lines += _accuracy_lines(manifest.run_id, root)
    if c.rows.get("task_scores"):
        from capture.api.tasks import score_lines
        from warehouse import TraceStore

        lines += score_lines(TraceStore(paths.run_dir(root, manifest.run_id)))
    if c.truncated:
        see = "--max-len" if c.rows["mcq_predictions"] else "--max-len, --chunk, --stride"
        most = "the model reads" if length is None else f"{length} tokens"
        lines.append(f"{c.truncated:,} texts were longer than {most} and were cut: see {see}")
    if 0 < c.rows.get("labels", 0) <= c.examples and any(s.site == "resid.post_mlp" for s in manifest.sites):
        lines.append(
            'what each layer knows of the labels: traces probe "SELECT run_id, example_id, seq, pos, label AS y FROM labels JOIN tokens '
            f"USING (run_id, example_id) WHERE run_id = '{manifest.run_id}'\" --plot {manifest.run_id}.png"
        )
    if c.altered:
        lines.append(
            f"{c.altered:,} texts were changed by the tokenizer (case, accents or white space) before it cut them into tokens; "
            "offsets are those in the original texts"
        )
    wanted = set(sites.resolve(manifest.option("capture")))
    for stack in filter(None, (manifest.model, manifest.model.encoder)):
        lines += [f"not available: {site}: {why}" for site, why in stack.missing.items() if site in wanted]
    if manifest.option("shard"):
        whole, _, _ = paths.part_of(manifest.run_id) or (manifest.run_id, 0, 0)
        return [*lines, f"next, when all parts are done: traces runs merge {whole}"]
    then = (
        f"traces ablate {manifest.run_id} --what heads"
        if c.rows.get("task_scores")
        else f"traces runs show {manifest.run_id}"
    )
    return [*lines, f"next: {then}"]


def _accuracy_lines(run_id: str, root: AnyPath) -> list[str]:
    """Return how many questions a run answered right, in one line."""
    from warehouse import TraceStore
    from warehouse.analysis.intervals import accuracy_text
    from warehouse.storage import paths

    row = (
        TraceStore(paths.run_dir(root, run_id))
        .query("SELECT count(is_correct), count_if(is_correct), any_value(score) FROM mcq_predictions")
        .fetchone()
    )
    if row is None or not row[0]:
        return ["no question has a key, so that accuracy is unknown"]
    return [f"{accuracy_text(row[1], row[0])}, by {row[2]}"]
