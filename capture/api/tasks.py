"""Captures of tasks from Python, and what a task's run says in a few lines, for commands and Python alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, in_python_terms
from capture.api.capture_options import shared_options
from capture.api.runs import run_job, screen_note
from capture.sequences import partition
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def prepare_task(
    model: Loaded,
    task: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    keep: str = "resid,qkv",
    run: str | None = None,
    root: str | AnyPath | None = None,
    prepend_bos: str = "auto",
    top_k: int = 5,
    index: str | Sequence[str] | None = None,
    attn: str = "auto",
    store_dtype: str = "auto",
    batch_tokens: int = 1024,
    shard_mb: int = 256,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Put the pairs of prompts of a task to a model: how it answers them, and the tensors behind that.

    An example is a pair: `seq` 0 is its clean prompt, `seq` 1 its corrupted one. What influences, ablates or patches starts from
    such a run.

    Example:
        run = capture.prepare_task(model, "indirect_object", n=100, run="names")
        run.query("SELECT metric, avg(clean), avg(corrupted) FROM task_scores GROUP BY metric")

    Args:
        model: A decoder, from `load` or `wrap`.
        task: `greater_than`, `indirect_object` (or `ioi`), `agreement`, `induction`, or a file of pairs with the columns `clean`,
            `corrupted`, `answer` and `wrong`.
        n: The most pairs; None: 200, or all of a file.
        seed: The seed that pairs are drawn with.
        keep: As for `next_token`, and so are the arguments that are not described here.
        run: The new run's name.
        root: The warehouse's folder.
        prepend_bos: Whether the prompts begin with the model's BOS.
        top_k: How many of the most probable tokens to keep at each position.
        index: What is searchable by nearness.
        attn: Whether attention is derived or stored.
        store_dtype: What tensors are kept in.
        batch_tokens: Tokens in a forward pass.
        shard_mb: Size of a tensor file, MB.
        part: The part `i/n` of the run that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The run.

    Raises:
        NotFoundError: There is no such task.
        UsageError: An argument has no such value, or a pair of a file does not fit the model's tokenizer.
        RunExistsError: The run exists already.
        TracesError: The model fails on the prompts.
    """
    shared = shared_options(
        keep=keep, attn=attn, store_dtype=store_dtype, index=index, limit=None, max_len=None, batch_tokens=batch_tokens,
        shard_mb=shard_mb, part=part,
    )  # fmt: skip
    from capture.data.tasks.registry import find_task
    from capture.jobs import task as job

    options = job.Options(**shared, n=n, seed=seed, prepend_bos=prepend_bos, top_k=top_k)
    loaded, folder = check_loaded(model), paths.find_root(root)
    name = run and partition.part_run_name(run, part)
    if (existing := existing_run(folder, name, skip_existing)) is not None:
        return existing
    source = job.open_pairs(loaded, find_task(str(task)), options)
    manifest = run_job(job, loaded, source, options, root=folder, run_id=name)
    store = TraceStore(paths.run_dir(folder, manifest.run_id))
    for line in filter(None, (source.description(), *score_lines(store))):
        screen_note(line)
    return store


def score_lines(run: TraceStore) -> list[str]:
    """Return lines on how a model answers a task: its own metric on both prompts, and where they hardly differ.

    Args:
        run: The task's run.

    Returns:
        One line or two.
    """
    from capture.recording.metrics import LEAST_DIFFERENCE

    ((name, clean, corrupted, right, judged, n),) = run.query(
        "SELECT metric, avg(clean), avg(corrupted), count_if(correct), count(correct), count(*) FROM task_scores "
        "WHERE is_default GROUP BY metric"
    ).fetchall()
    least = LEAST_DIFFERENCE[name]
    share = f"; right sign on {right:,} of {judged:,} clean prompts ({right / judged:.1%})" if judged else ""
    lines = [f"{name} on average: {clean:.3f} clean, {corrupted:.3f} corrupted{share}"]
    query = "SELECT count_if(abs(clean - corrupted) < ?) FROM task_scores WHERE is_default"
    ((close,),) = run.query(query, [least]).fetchall()
    if abs(clean - corrupted) < least:
        lines.append(
            f"clean and corrupted prompts hardly differ (by less than {least} on average): this model does not do the task, and "
            "effects on it say little"
        )
    elif close:
        lines.append(
            f"{close:,} of {n:,} pairs hardly differ (by less than {least}): their effects get no normalised value"
        )
    return lines
