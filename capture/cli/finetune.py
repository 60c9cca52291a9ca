"""The commands of `traces finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.data_options import FromOption, MaxLenOption, QuestionOptions
from capture.cli.options import LoadOptions, ModelOption, RunOption
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.values import parse_max_len
from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import WarehouseOption
from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from warehouse.storage.manifest import Manifest

finetune_app = App(no_args_is_help=True, help="Train a model's head on a data set.")


@finetune_app.callback()
def finetune_commands() -> None:
    """Train a model on a data set, as a run of the warehouse."""


@finetune_app.command("mcq")
@with_groups(fixed={"dtype": "float32", "device_map": None})
def mcq(
    model: ModelOption,
    loading: LoadOptions,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The folder for the trained model.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ],
    data: Annotated[
        str,
        typer.Option("--data", help="A data set of multiple-choice questions: `csqa`.", rich_help_panel=Panel.READ),
    ] = "csqa",
    split: Annotated[str, typer.Option("--split", help="The split to train on.", rich_help_panel=Panel.READ)] = "train",
    held_out: Annotated[
        str,
        typer.Option(
            "--eval-split",
            help="The split on which each epoch is measured; it decides nothing.",
            rich_help_panel=Panel.READ,
        ),
    ] = "validation",
    from_: FromOption = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Train on the first N questions only.", rich_help_panel=Panel.READ),
    ] = None,
    max_len: MaxLenOption = "auto",
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the training questions.", rich_help_panel=Panel.COMPUTED)
    ] = 3,
    lr: Annotated[
        float,
        typer.Option(min=0, help="Learning rate at the start; it falls linearly to 0.", rich_help_panel=Panel.COMPUTED),
    ] = 5e-5,
    batch_size: Annotated[
        int,
        typer.Option(min=1, help="Questions in a step, each with all its choices.", rich_help_panel=Panel.COMPUTED),
    ] = 8,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed for the new head, the order of the questions and dropout.", rich_help_panel=Panel.COMPUTED
        ),
    ] = 0,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Compute activations again instead of keeping them.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = False,
    run: RunOption = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Fine-tune an encoder on multiple-choice questions, and measure it on a split that it has not seen.

    The epoch kept is the one that does best on a tenth of the training questions, set aside for that. Where that tenth would be
    fewer than 20, all are trained on and the last epoch is kept.

    The same command again continues after the last whole epoch of one that was interrupted. Loss and accuracy by step are a run
    of the warehouse, the parent of captures made from the model.

    Examples:
        traces finetune mcq --model minilm --data csqa --epochs 2 --lr 2e-5 --batch-size 8 --out checkpoints/minilm-csqa

    Raises:
        UsageError: `--from` names no folder.
        RunExistsError: The run exists already.
    """
    from warehouse.storage import paths, run_list

    root = paths.find_root(warehouse)
    if from_ is not None and not Path(from_).is_dir():
        raise UsageError(f"--from {from_}: name the folder that has both splits, {split} and {held_out}.")
    length = parse_max_len(max_len)
    if run is not None:
        run_list.check_free(root, run)
    train, held = (QuestionOptions(data=data, split=s, from_=from_).open(root) for s in (split, held_out))
    loaded = loading.load(model, "multiple-choice", seed=seed)
    with needs_capture_extra():
        from capture.api.progress import training_progress
        from capture.training.finetune import Options, finetune
    options = Options(epochs, lr, batch_size, seed, gradient_checkpointing, limit, length)
    with stopped_by_signals(), training_progress(note) as report:
        manifest = finetune(loaded, train, held, options, out=out, root=root, run_id=run, report=report)
    c = manifest.counts
    typer.echo(f"{manifest.run_id}: {c.examples:,} questions, {options.epochs} epochs in {manifest.seconds:.1f} s")
    for line in _summary_lines(manifest, held_out, root):
        typer.echo(line)
    typer.echo(f"next: traces capture mcq-encoder --model {out} --data {data}")
    typer.echo(f"loss and accuracy: traces sql --query training_curve --set run={manifest.run_id}")


def _summary_lines(manifest: Manifest, split: str, root: AnyPath) -> list[str]:
    """Return which epoch was kept and why, and how many questions of the split it answers right."""
    from capture.training.finetune import SET_ASIDE
    from warehouse import TraceStore
    from warehouse.analysis.intervals import accuracy_text
    from warehouse.storage import paths

    step, aside, n, epochs = (manifest.option(name) for name in ("kept_step", "set_aside", "held_out", "epochs"))
    rows = TraceStore(paths.run_dir(root, manifest.run_id)).query(
        f"SELECT split = '{SET_ASIDE}', epoch, accuracy FROM training WHERE step = {step} AND split <> 'train' ORDER BY 1"
    )
    (_, epoch, accuracy), *chosen = rows.fetchall()
    if chosen:
        why = f"the best of {epochs} on {aside:,} training questions set aside ({chosen[0][2]:.1%} of them right)"
    elif epochs == 1:
        why = "the only one"
    else:
        why = f"the last: a tenth of {manifest.counts.examples:,} training questions is too few to choose by"
    return [f"kept: epoch {epoch:.0f}, {why}", f"{split}: {accuracy_text(round(accuracy * n), n)}"]
