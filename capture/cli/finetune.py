"""The commands of `traces finetune`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.arguments import Data, Model, tokens
from capture.cli.options import (
    DeviceOption,
    FromOption,
    MaxLenOption,
    ModelOption,
    QuestionsOption,
    RevisionOption,
    RunOption,
    TrustOption,
)
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from warehouse.cli.options import WarehouseOption
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from capture.training.finetune import TrainingProgress
    from warehouse.storage.manifest import Manifest

finetune_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Train a model's head on a data set."
)


@finetune_app.callback()
def several() -> None:
    """Train a model on a data set, as a run of the warehouse."""


@finetune_app.command("mcq")
def mcq(
    model: ModelOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the trained model goes.", show_default=False)
    ],
    data: QuestionsOption = "csqa",
    split: Annotated[str, typer.Option("--split", help="The split to train on.")] = "train",
    held_out: Annotated[
        str, typer.Option("--eval-split", help="The split that each epoch is judged on; it chooses nothing.")
    ] = "validation",
    from_: FromOption = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Train on the first N questions only.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training questions.")] = 3,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate at the start; it falls linearly to 0.")] = 5e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions to a step, each with all its choices.")] = 8,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations again instead of keeping them.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the new head, the order of the questions and dropout.")] = 0,
    max_len: MaxLenOption = "auto",
    run: RunOption = None,
    device: DeviceOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Fine-tune an encoder on multiple-choice questions, and judge it on a split that it has not seen.

    The epoch kept is the one that does best on a tenth of the training questions, set aside for that; where that would be fewer
    than 20, all are trained on and the last epoch is kept.

    The same command again goes on after the last whole epoch of one that was interrupted. Loss and accuracy by step are a run of
    the warehouse, the parent of captures made from the model.

    Example: `traces finetune mcq --model minilm --data csqa --epochs 2 --lr 2e-5 --batch-size 8 --out checkpoints/minilm-csqa`
    """
    from warehouse.storage import paths

    root = paths.find_root(warehouse)
    if from_ is not None and not Path(from_).is_dir():
        raise UsageError(f"--from {from_}: name the folder that has both splits, {split} and {held_out}.")
    chosen = tokens(max_len)
    train, held = (Data(data, s, from_, questions=True).open(root) for s in (split, held_out))
    loaded = Model(model, "multiple-choice", device, None, "float32", revision, trust_remote_code).load(seed=seed)
    with needs_capture_extra():
        from capture.training.finetune import Options, finetune
    options = Options(epochs, lr, batch_size, seed, gradient_checkpointing, limit, chosen)
    with stopped_by_signals(), _progress() as report:
        manifest = finetune(loaded, train, held, options, out=out, root=root, run_id=run, report=report)
    c = manifest.counts
    typer.echo(f"{manifest.run_id}: {c.examples:,} questions, {options.epochs} epochs in {manifest.seconds:.1f} s")
    for line in _told(manifest, held_out, root):
        typer.echo(line)
    typer.echo(f"next: traces capture mcq-encoder --model {out} --data {data}")
    typer.echo(f"loss and accuracy: traces sql --query training_curve --set run={manifest.run_id}")


def _told(manifest: Manifest, split: str, root: Path) -> list[str]:
    """Which epoch was kept and why, and how many questions of the split it answers right."""
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


@contextmanager
def _progress() -> Iterator[Callable[[TrainingProgress], None]]:
    """A progress bar on a terminal, a line now and then elsewhere; on standard error."""
    import time

    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    bar = bars.Progress(
        bars.TextColumn("training"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("steps {task.fields[told]}"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    said = time.monotonic()
    with bar:
        task = bar.add_task("training", total=None, told="")

        def report(s: TrainingProgress) -> None:
            nonlocal said
            told = "" if s.loss is None else f"loss {s.loss:.4f}"
            if s.accuracy is not None:
                told += f", accuracy {s.accuracy:.3f}"
            bar.update(task, completed=s.step, total=s.steps, told=told)
            if not console.is_terminal and time.monotonic() - said > 10:
                said = time.monotonic()
                note(f"step {s.step} of {s.steps} {told}")

        yield report
