"""Fine-tuning from Python: an encoder learns to answer multiple-choice questions, and the training is a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, in_python_terms
from capture.api.progress import training_progress
from capture.data.example import Source
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def finetune(
    model: Loaded,
    train: Source,
    held_out: Source,
    *,
    out: str | Path,
    epochs: int = 3,
    lr: float = 5e-5,
    batch_size: int = 8,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    limit: int | None = None,
    max_len: int | None = None,
    run: str | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Fine-tune an encoder on multiple-choice questions, and measure it on a split that it has not seen.

    The epoch kept is the one that does best on a tenth of the training questions, set aside for that. The same call again
    continues after the last whole epoch of one that was interrupted.

    Example:
        model = capture.load("minilm", head="multiple-choice")
        splits = [capture.open_dataset("csqa", split=s) for s in ("train", "validation")]
        capture.finetune(model, *splits, out="checkpoints/minilm-csqa")

    Args:
        model: An encoder with a multiple-choice head; it is trained.
        train: The questions to train on.
        held_out: The questions that every epoch is measured on.
        out: The new model's folder.
        epochs: Passes over the training questions.
        lr: Learning rate at the start; it falls linearly to 0.
        batch_size: Questions in a step, each with all its choices.
        seed: Seed for the order of the questions and dropout.
        gradient_checkpointing: Compute activations again instead of keeping them.
        limit: Train on the first questions only.
        max_len: The longest pair in tokens; None: the model's window.
        run: The new run's name; None: one made from model and data.
        root: The warehouse's folder; None: `$TRACES_HOME`, else `./runs`.
        skip_existing: If a run of this name exists, return it as it is, and leave the model untrained.

    Returns:
        The run of the training, with the table `training`: loss and accuracy by step.

    Raises:
        UsageError: The model is not an encoder, the data has no questions with answers, or `out` holds something else.
        RunExistsError: The run exists already.
        TracesError: The training diverged.
    """
    loaded, home = check_loaded(model), paths.find_root(root)
    if (existing := existing_run(home, run, skip_existing)) is not None:
        return existing
    from capture.training.finetune import Options
    from capture.training.finetune import finetune as train_model

    options = Options(epochs, lr, batch_size, seed, gradient_checkpointing, limit, max_len)
    with training_progress() as report:
        manifest = train_model(loaded, train, held_out, options, out=Path(out), root=home, run_id=run, report=report)
    return TraceStore(paths.run_dir(home, manifest.run_id))
