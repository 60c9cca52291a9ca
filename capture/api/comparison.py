"""Comparing two runs from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, find_source_run, in_python_terms, joined
from capture.api.derived import load_captured_model
from capture.api.progress import capture_progress
from capture.api.runs import screen_note
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def compare(
    a: TraceStore | str,
    b: TraceStore | str,
    *,
    model: Loaded | None = None,
    other_model: Loaded | None = None,
    what: str | Sequence[str] = "",
    layers: str | Sequence[int | str] = "all",
    tokens: int = 2048,
    pairs: str = "same",
    directions: int = 5,
    seed: int = 0,
    run: str | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Compare two models by two runs of the same texts: a base and a fine-tuned model, two checkpoints, two precisions.

    Nothing is run through the models' blocks: their heads read the last states that the runs have stored. The same call again
    continues one that was interrupted.

    Example:
        capture.compare("base", "tuned").query("FROM comparisons ORDER BY kl DESC LIMIT 10").df()

    Args:
        a: A captured run, or its name.
        b: A run of the same texts by another model, in the same warehouse.
        model: The model of `a`; None: it is loaded from where it was.
        other_model: The model of `b`.
        what: `predictions` (KL, top-1 and losses, token by token), `layers` (how alike states are), `directions` (along which they
            moved), `heads` (how attention changed); empty: all that the two runs have stored enough for.
        layers: Which layers' states and heads are compared: `"0,5,mid"`, `[0, 5]`, `last`, `embed`, or `all` that are stored.
        tokens: How many tokens layers, directions and heads are compared over.
        pairs: Which pairs of layers Procrustes compares: `same` numbers, `all`, or `none`; CKA compares all.
        directions: How many directions of each layer are kept.
        seed: Of the tokens that are drawn.
        run: The new run's name; None: both names with a hyphen between them.
        root: The warehouse's folder; None: that of `a`, else `$TRACES_HOME`, else `./runs`.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the tables `comparisons`, `layer_similarity`, `moved_directions` and `head_changes`.

    Raises:
        UsageError: A run has not stored what is needed, the two have no text in common, or a model is not that of its run.
        RunExistsError: The new run exists already.
        TracesError: A model cannot be loaded, or predicts no tokens.
    """
    home, first = find_source_run(a, root)
    _, second = find_source_run(b, home)
    folders, models = (first, second), (model, other_model)
    run_id = run or f"{paths.run_id_of(first)}-{paths.run_id_of(second)}"
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.comparisons import compare_run as job

    options = job.Options(joined(what), joined(layers), tokens, pairs, directions, seed)
    wanted = job.forecast(*folders, options)
    for folder in folders:
        if line := TraceStore(folder).left_out():
            screen_note(line)

    def load(side: int) -> Loaded:
        given, option = models[side], ("model=…", "other_model=…")[side]
        return check_loaded(given) if given is not None else load_captured_model(folders[side], remedy=option)

    with capture_progress(wanted.sequences, unit="sequences") as (report, _):
        manifest = job.run(*folders, load, options, root=home, run_id=run_id, report=report, note=screen_note)
    return TraceStore(paths.run_dir(home, manifest.run_id))
