"""The progress of everything in `capture`, as a bar: what each kind of work reports, and what of it is shown.

Each function is a context manager that yields what the work calls with its progress. `say` is as in `ProgressBar`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from capture.workers.assignment import assigned_part, tell_progress
from warehouse.progress import ProgressBar

if TYPE_CHECKING:
    from capture.features.train_dictionary import DictionaryProgress
    from capture.jobs.job import Progress
    from capture.training.options import TrainingProgress
    from capture.traits.extract import LayerProgress
    from capture.traits.judge_run import JudgeProgress
    from warehouse.storage.derived_progress import DerivedProgress

Say = Callable[[str], None] | None


@contextmanager
def capture_progress(
    total: int | None = None, say: Say = None, unit: str = "examples"
) -> Iterator[tuple[Callable[[Progress | DerivedProgress], None], Callable[[str], None]]]:
    """Show the progress of a capture, or of what is derived from one.

    Args:
        total: How many examples there are; None: unknown.
        say: Receives lines for the user.
        unit: What is counted, where it is not examples.

    Yields:
        A function to call with the progress so far, and one to call with lines for the user.
    """
    if assigned_part():  # the driver shows it
        yield (lambda p: tell_progress(p.run_id, p.begun, p.tokens, p.resumed_tokens)), say or (lambda _: None)
        return
    start, resuming_said = time.monotonic(), False
    with ProgressBar(unit, total, say) as bar:

        def report(p: Progress | DerivedProgress) -> None:
            nonlocal resuming_said
            new = p.tokens - p.resumed_tokens
            if p.resumed_tokens and new and not resuming_said:
                resuming_said = True
                bar.say(f"continuing after {p.resumed_tokens:,} tokens")
            speed = f"{new / max(time.monotonic() - start, 1e-9):,.0f} tokens/s"
            bar.show(p.begun, label=p.run_id, detail=f"{p.tokens:,} tokens, {speed}")

        yield report, bar.say


@contextmanager
def layer_progress(say: Say = None) -> Iterator[Callable[[LayerProgress], None]]:
    """Show how many layers are done of vectors that are made or evaluated."""
    with ProgressBar("layers", say=say) as bar:
        yield lambda p: bar.show(p.done, p.total, f"{p.run_id}: {p.stage}")


@contextmanager
def pipeline_progress(kind: str, total: int | None, say: Say = None) -> Iterator[Callable[[Any], None]]:
    """Show the progress of a step of a trait's pipeline; `kind` is that of the step."""
    if kind in ("extract", "evaluate"):
        with layer_progress(say) as layers:
            yield layers
    else:
        with capture_progress(total, say) as (report, _):
            yield report


@contextmanager
def judge_progress(say: Say = None) -> Iterator[Callable[[JudgeProgress], None]]:
    """Show how many responses are judged."""
    if assigned_part():
        yield lambda p: tell_progress(p.run_id, p.done)
        return
    begun = False
    with ProgressBar("responses", say=say) as bar:

        def report(p: JudgeProgress) -> None:
            nonlocal begun
            if p.resumed and not begun:
                bar.say(f"continuing after {p.resumed:,} responses")
            begun = True
            without = p.done - p.resumed - p.scored - p.refused
            bar.show(p.done, p.total, p.run_id, f"{without:,} without a score, {p.refused:,} refused")

        yield report


@contextmanager
def training_progress(say: Say = None) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show how many steps of a training are done."""
    with ProgressBar("steps", say=say) as bar:

        def report(p: TrainingProgress) -> None:
            measures = "" if p.loss is None else f"loss {p.loss:.4f}"
            if p.accuracy is not None:
                measures += f", accuracy {p.accuracy:.3f}"
            bar.show(p.step, p.steps, "training", measures)

        yield report


@contextmanager
def dictionary_progress(say: Say = None) -> Iterator[Callable[[DictionaryProgress], None]]:
    """Show how many steps of a dictionary's training are done, and how well it does."""
    resuming_said = False
    with ProgressBar("steps", say=say) as bar:

        def report(p: DictionaryProgress) -> None:
            nonlocal resuming_said
            if p.resumed and not resuming_said:
                resuming_said = True
                bar.say(f"continuing after {p.resumed:,} steps")
            explained = "" if p.explained_variance is None else f", {p.explained_variance:.1%} explained"
            bar.show(p.step, p.steps, "training", f"error {p.loss:.3f}{explained}, {p.dead:,} dead")

        yield report
