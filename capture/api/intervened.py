"""Captures under interventions from Python: the texts of a run are read again while the model is changed, as a run beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, find_source_run, in_python_terms
from capture.api.progress import capture_progress
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.data.example import Source
    from capture.jobs.intervened import Options
    from capture.model.loading import Loaded

_READING = ("max_len", "chunk", "stride", "prepend_bos", "top_k", "attn", "batch_tokens", "store_dtype")
"""Options of the unchanged run that the new one is read with, so that tokens and rows are the same."""


@in_python_terms
def next_token_under(
    model: Loaded,
    clean: TraceStore | str,
    *what: str,
    examples: Sequence[str] | None = None,
    keep: str | None = None,
    run: str | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Read the texts of a next-token run again while interventions change the model.

    The new run, of kind `intervened`, has the same examples and tokens; its options say what was changed, and `clean` is its first parent.

    Example:
        clean = capture.next_token(model, ["The lamp is lit."], keep="resid,qkv", run="lamp")
        cut = capture.next_token_under(model, clean, "L12H3=zero", run="lamp-without-L12H3")
        cut.tokens["loss"] - clean.tokens["loss"]

    Args:
        model: The model that the run was captured with.
        clean: The run, or its name.
        *what: Interventions, as for `intervene`, but of traits' vectors that are added: `L12H3=zero`, `M5=mean:RUN`,
            `resid.post_mlp@15=clamp:FOLDER#7*0`.
        examples: Which examples to read, by example_id; None: all.
        keep: The tensors to store, as for `next_token`; None: those of `clean`.
        run: The new run's name; None: one made from model and data.
        root: The warehouse's folder; None: that of `clean`, else `$TRACES_HOME`, else `./runs`.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run.

    Raises:
        UsageError: An intervention does not fit the model, or the run is of another model or kind, or not of texts of the user's own.
        NotFoundError: There is no such run, example, site or kind of intervention.
        RunExistsError: The run exists already.
    """
    loaded = check_loaded(model)
    home, folder = find_source_run(clean, root)
    if (existing := existing_run(home, run, skip_existing)) is not None:
        return existing
    from capture.features.feature_edits import find_feature
    from capture.jobs import intervened as job

    source, options = plan_intervened(TraceStore(folder), what, examples, keep)
    start, _ = job.define_kind(home, find_feature)
    with capture_progress(len(examples) if examples is not None else None) as (report, note):
        manifest = start(loaded, source, options, root=home, run_id=run, report=report, note=note)
    return TraceStore(paths.run_dir(home, manifest.run_id))


def plan_intervened(
    clean: TraceStore, what: Sequence[str], examples: Sequence[str] | None = None, keep: str | None = None
) -> tuple[Source, Options]:
    """Return what is read, and how, where a run's texts are read again under interventions.

    Args:
        clean: The unchanged run.
        what: The interventions.
        examples: Which examples, by example_id; None: all.
        keep: The tensors to store; None: those of the run.

    Returns:
        The texts, whose examples have the ids that they have in the run, and the job's options.

    Raises:
        UsageError: The texts are a data set's, whose ids do not follow from the text.
        NotFoundError: The run has no such example.
    """
    from capture.data.memory import open_texts
    from capture.features.saelens_folder import read_dictionary
    from capture.interventions.intervention import parse_intervention
    from capture.jobs.intervened import Options

    texts = dict(clean.query("SELECT example_id, text FROM examples WHERE n_seqs > 0 ORDER BY idx").fetchall())
    if missing := [e for e in examples or () if e not in texts]:
        raise NotFoundError("example", missing[0], list(texts)[:5], f"(of run '{clean.meta.run_id}')")
    chosen = {e: texts[e] for e in texts if examples is None or e in examples}
    source = open_texts(list(chosen.values()))
    if [x.example_id for x in source.read()] != list(chosen):
        raise UsageError(
            f"The examples of run '{clean.meta.run_id}' are not told apart by their texts alone, as those of a data set are not: read "
            "texts of your own under interventions."
        )
    known = clean.meta.options
    folders = {x.source.rpartition("#")[0] for x in map(parse_intervention, what) if x.of_feature}
    options = Options(
        capture=known["capture"] if keep is None else keep,
        **{name: known[name] for name in _READING if name in known},
        clean_run=clean.meta.run_id,
        interventions=tuple(what),
        dictionaries={folder: read_dictionary(folder).weights_hash for folder in sorted(folders)},
    )
    return source, options
