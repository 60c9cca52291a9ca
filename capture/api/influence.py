"""Influence from Python: what made the predictions of a run, as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, find_source_run, in_python_terms, joined
from capture.api.derived import load_captured_model
from capture.api.progress import capture_progress
from capture.sequences import partition
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def influence(
    source: TraceStore | str,
    *,
    target: str | int | Sequence[int] = "last",
    token: str | None = None,
    against: str | None = None,
    measures: str | Sequence[str] | None = None,
    model: Loaded | None = None,
    examples: str | Sequence[str] = (),
    limit: int | None = None,
    least_flow: float = 0.01,
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Explain predictions: which source tokens, through which heads, MLPs and the embedding, made them.

    Computed from what the run has stored, and from the model's weights; only the measure `occlusion` runs the model. The same call again
    continues one that was interrupted.

    Example:
        run = capture.next_token(model, ["Anna and Paul met. Paul thanked"], keep="resid,qkv")
        capture.influence(run, token=" Anna", against=" Paul").query("FROM logit_parts ORDER BY logit DESC").df()

    Args:
        source: A run that kept `resid,qkv`, or its name.
        target: Which predictions: `last` (that at the end of each sequence), `response` (each token that the model generated), or
            positions.
        token: The token whose logit is explained, its space with it; None: a task's targets, the chosen letter of a multiple-choice
            question, the generated token, else the likeliest.
        against: The token whose logit is taken away; None: that of the run's own targets, else none.
        measures: `logit`: exact parts of the logit, by head and source token; `ifr`: shares of information flow, with the dependency
            graph; `value-norm`: attention weighted by the norms of what it reads; `occlusion`: what the logit loses without the token.
            None: `logit`, and `ifr` where the model's heads can be told apart.
        model: The model that the run was captured with; None: it is loaded from where it was.
        examples: Ids of the examples to explain, or beginnings of them; by default all.
        limit: The most examples.
        least_flow: The smallest part of a prediction that must pass an edge of its dependency graph for it to be kept.
        run: The new run's name; None: the source's, and `-influence`.
        root: The warehouse's folder; None: that of the source, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the sequences that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the tables `influence_targets`, `logit_parts`, `influence`, `token_edges` and `identity_errors`.

    Raises:
        UsageError: The run has not stored what is needed, was captured with another model, or a token is several.
        NotFoundError: The run does not have an example.
        RunExistsError: The new run exists already.
        TracesError: The model cannot be loaded, or predicts no tokens.
    """
    home, folder = find_source_run(source, root)
    run_id = partition.part_run_name(run or f"{paths.run_id_of(folder)}-influence", part)
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.influences import influence_run as job

    options = job.Options(
        joined(target), token, against, _names(measures or ()), least_flow, _names(examples), limit, part
    )  # fmt: skip
    job.forecast(folder, options)
    loaded = check_loaded(model) if model is not None else load_captured_model(folder)
    with capture_progress() as (report, note):
        manifest = job.run(loaded, folder, options, root=home, run_id=run_id, report=report, note=note)
    return TraceStore(paths.run_dir(home, manifest.run_id))


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names, each once; a text holds them with commas between."""
    listed = names.split(",") if isinstance(names, str) else names
    return tuple(dict.fromkeys(name.strip() for name in listed))
