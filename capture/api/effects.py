"""Ablation and patching from Python: what interventions do to a task's metric, as a run of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capture.api.arguments import check_loaded, existing_run, find_source_run, in_python_terms, joined
from capture.api.derived import load_captured_model
from capture.api.progress import capture_progress
from capture.sequences import partition
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.model.loading import Loaded


@in_python_terms
def ablate(
    task: TraceStore | str,
    *,
    what: str | Sequence[str] = "heads,mlps",
    kind: str = "resample",
    reference: TraceStore | str | None = None,
    positions: str = "all",
    layers: str | Sequence[int] = "all",
    metric: str | None = None,
    model: Loaded | None = None,
    batch_tokens: int = 2048,
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Cut heads, MLPs or states out of a model one by one, and see what that does to a task's metric.

    Every intervention runs on the clean prompt of every pair, many in one forward pass and each from the first layer that changes.
    The same call again continues one that was interrupted.

    Example:
        run = capture.ablate("ioi", what="heads", kind="resample")
        Warehouse().sql(f"FROM effect_means WHERE run_id = '{run.meta.run_id}' ORDER BY effect LIMIT 5").df()

    Args:
        task: A task's run, from `prepare_task`, or its name.
        what: `heads`, `mlps`, `attns`, a site for all of its layers and heads (`resid.post_mlp`, `v`), or places such as `L12H3,M5`.
        kind: `resample` puts in the value of the pair's other prompt, `mean` the mean by position over the task's other prompts or over
            a reference run, `zero` zeros.
        reference: The run that means are over.
        positions: `all` at once, `last` alone, or `each` by itself.
        layers: Layers that `heads` and the like are of; `all`, `"0,5"` or `[0, 5]`.
        metric: `logit_diff`, `prob_diff`, `logprob` or `kl`; None: the task's own.
        model: The model that the task was run with; None: it is loaded from where it was.
        batch_tokens: The most tokens of a forward pass.
        run: The new run's name; None: the task's, and the kind: `ioi-resample`.
        root: The warehouse's folder; None: that of the task, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the prompts that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the tables `interventions` and `effects`.

    Raises:
        UsageError: The run is no task, the model has no such head, layer or site, or the reference is of another model.
        NotFoundError: There is no such run, site, kind or metric.
        RunExistsError: The new run exists already.
    """
    facts = {"what": joined(what), "kind": kind, "positions": positions, "layers": joined(layers)}
    return _measure(
        task,
        facts,
        kind,
        metric,
        reference,
        model,
        batch_tokens,
        run,
        root,
        part,
        skip_existing,
        ("zero", "mean", "resample"),
    )


@in_python_terms
def patch(
    task: TraceStore | str,
    *,
    site: str | Sequence[str] = "resid.post_mlp",
    direction: str = "denoise",
    source: TraceStore | str | None = None,
    positions: str = "each",
    layers: str | Sequence[int] = "all",
    metric: str | None = None,
    model: Loaded | None = None,
    batch_tokens: int = 2048,
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Put states of one prompt into the other prompt of a pair, and see what that does to a task's metric.

    The same call again continues one that was interrupted.

    Example:
        run = capture.patch("ioi", site="resid.post_mlp", direction="denoise")
        Warehouse().sql(f"FROM effect_means WHERE run_id = '{run.meta.run_id}' ORDER BY layer, pos").df()

    Args:
        task: A task's run, from `prepare_task`, or its name.
        site: `resid.post_mlp`, `resid.post_attn`, `resid.pre_attn`, `resid.embed`, `attn_out`, `mlp_out`, `heads`, `q`, `k` or `v`, in all
            layers and heads, or places such as `L12H3` or `resid.post_mlp@5`; several with commas.
        direction: `denoise`: the corrupted prompt runs with the clean one's values, and an effect of 1 (normalised) restores the answer;
            `noise`: the other way round, and -1 destroys it.
        source: A run of the same prompts; its stored values go into the clean prompts then, in place of the pair's.
        positions: `each` by itself, `all` at once, or `last` alone.
        layers: Which layers; `all`, `"0,5"` or `[0, 5]`.
        metric: `logit_diff`, `prob_diff`, `logprob` or `kl`; None: the task's own.
        model: The model that the task was run with; None: it is loaded from where it was.
        batch_tokens: The most tokens of a forward pass.
        run: The new run's name; None: the task's, and `-patch`.
        root: The warehouse's folder; None: that of the task, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the prompts that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the tables `interventions` and `effects`.

    Raises:
        UsageError: The run is no task, the model has no such head, layer or site, or the source has not stored it.
        NotFoundError: There is no such run, site, direction or metric.
        RunExistsError: The new run exists already.
    """
    facts = {"what": joined(site), "direction": direction, "positions": positions, "layers": joined(layers)}
    return _measure(
        task, facts, "patch", metric, source, model, batch_tokens, run, root, part, skip_existing, ("patch",)
    )


def _measure(
    task: TraceStore | str,
    facts: dict[str, Any],
    kind: str,
    metric: str | None,
    reference: TraceStore | str | None,
    model: Loaded | None,
    batch_tokens: int,
    run: str | None,
    root: str | AnyPath | None,
    part: str,
    skip_existing: bool,
    kinds: tuple[str, ...],
) -> TraceStore:
    home, folder = find_source_run(task, root)
    run_id = partition.part_run_name(run or f"{paths.run_id_of(folder)}-{kind}", part)
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.effects import effects_run as job
    from capture.effects.options import Options
    from warehouse.errors import NotFoundError

    if kind not in kinds:
        raise NotFoundError("kind of ablation", kind, kinds)
    named = reference.meta.run_id if isinstance(reference, TraceStore) else reference or ""
    options = Options(
        **facts | {"kind": kind}, metric=metric or "", reference=named, batch_tokens=batch_tokens, shard=part
    )
    loaded = check_loaded(model) if model is not None else load_captured_model(folder)
    forecast = job.forecast(loaded, folder, options)
    with capture_progress(forecast.pairs) as (report, note):
        manifest = job.run(loaded, folder, options, root=home, run_id=run_id, report=report, note=note)
    return TraceStore(paths.run_dir(home, manifest.run_id))
