"""transformers' Trainer as it is used here: it trains, measures every epoch, resumes, and goes back to the epoch that does best.

`train_model` is called by `finetune` and changes the model in place; checkpoints are the Trainer's own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch.utils.data import Subset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from capture.model import loading
from capture.model.body import padding_id
from capture.model.failures import error_sentence, is_memory_error
from capture.training.checkpoints import find_resume_checkpoint
from capture.training.options import Options, Report, TrainingProgress
from capture.training.questions import Questions, collate
from warehouse.errors import UsageError

_LOGS_AN_EPOCH = 10


def train_model(
    loaded: loading.Loaded,
    questions: Questions,
    aside: list[int],
    held: Questions,
    options: Options,
    checkpoints: Path,
    report: Report,
) -> tuple[list[dict[str, float]], int]:
    """Train the model, and go back to the epoch that does best on the questions set aside, if there are any.

    Args:
        loaded: The model, which is changed.
        questions: The training questions.
        aside: Places of those that are set aside: not trained on, but measured every epoch.
        held: The questions held out, measured every epoch.
        options: How to train.
        checkpoints: The folder of the checkpoints; training resumes from the last one.
        report: Called after every step.

    Returns:
        The Trainer's history, and the step that was kept.

    Raises:
        UsageError: The last checkpoint cannot be read.
    """
    trained = sorted(set(range(len(questions))) - set(aside))
    measured: dict[str, Any] = {"held": held} | ({"aside": Subset(questions, aside)} if aside else {})
    last = find_resume_checkpoint(checkpoints)
    if options.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    steps = math.ceil(len(trained) / options.batch_size)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        learning_rate=options.lr,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        seed=options.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=bool(aside),
        metric_for_best_model="eval_aside_accuracy" if aside else None,
        logging_strategy="no",  # _ReportingCallback decides when
        report_to="none",
        disable_tqdm=True,
        use_cpu=loaded.model.device.type == "cpu",
        dataloader_pin_memory=loaded.model.device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
    )
    watch = _ReportingCallback(report, steps)
    trainer = _CountingTrainer(
        model=loaded.model.requires_grad_(True),
        args=arguments,
        train_dataset=Subset(questions, trained),
        eval_dataset=measured,
        data_collator=lambda rows: collate(rows, padding_id(loaded.model)),
        compute_metrics=_accuracy,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except Exception as e:  # reading a damaged checkpoint may raise anything
        if last is None or is_memory_error(e) or watch.stepped:
            raise
        raise UsageError(
            f"{last} cannot be resumed: {error_sentence(e)} Delete it to resume from the one before it, or delete {checkpoints} to "
            "start again."
        ) from e
    state = trainer.state
    return (
        state.log_history,
        state.best_global_step or state.global_step,
    )  # no step is the best without questions set aside


def _accuracy(evaluated: Any) -> dict[str, float]:
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}


class _CountingTrainer(Trainer):
    """Counts the training questions that were answered right, and logs their fraction as accuracy."""

    right = seen = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss as the Trainer does, and count right answers while training."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.right += int((outputs.logits.argmax(-1) == inputs["labels"]).sum())
            self.seen += len(inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kw: Any) -> None:
        """Log as the Trainer does, with the accuracy since the last log."""
        if "loss" in logs and self.seen:
            logs["accuracy"] = self.right / self.seen
            self.right = self.seen = 0
        super().log(logs, *args, **kw)


class _ReportingCallback(TrainerCallback):
    """Reports every step, and logs `_LOGS_AN_EPOCH` times in each epoch, counted from its start, so that resuming changes nothing."""

    stepped = False

    def __init__(self, report: Report, steps: int) -> None:
        self._report, self._steps, self._every = report, steps, max(1, steps // _LOGS_AN_EPOCH)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Decide whether to log, and report the step."""
        self.stepped = True
        done = state.global_step % self._steps  # 0 at the end of an epoch
        control.should_log = done == 0 or (done % self._every == 0 and done + self._every <= self._steps)
        loss = next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)
        accuracy = next(
            (row["eval_held_accuracy"] for row in reversed(state.log_history) if "eval_held_accuracy" in row), None
        )
        self._report(TrainingProgress(state.global_step, state.max_steps, state.epoch or 0.0, loss, accuracy))
