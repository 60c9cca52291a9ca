"""Sparse dictionaries from Python: a run's states are encoded, and what is active is a run; so is what a model loses by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, find_source_run, in_python_terms
from capture.api.derived import load_captured_model
from capture.api.progress import capture_progress
from capture.api.runs import screen_note
from capture.sequences import partition
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.features.dictionary import Dictionary
    from capture.model.loading import Loaded

    Dictionaries = str | Path | Dictionary | Sequence[str | Path | Dictionary]


@in_python_terms
def encode_features(
    source: TraceStore | str,
    dictionaries: Dictionaries,
    *,
    other_model: bool = False,
    device: str = "auto",
    run: str | None = None,
    root: str | AnyPath | None = None,
    part: str = "",
    skip_existing: bool = False,
) -> TraceStore:
    """Encode a run's stored states with sparse dictionaries: which features are active at which token.

    No model is loaded. The same call again continues one that was interrupted.

    Example:
        run = capture.encode_features("first", "saes/smollm2-15")
        run.query("SELECT example_id, pos, activation FROM feature_tokens WHERE feature = 7 ORDER BY 3 DESC LIMIT 9").df()

    Args:
        source: A run that kept the states that the dictionaries read, or its name.
        dictionaries: Folders in SAELens' format, or what `read_dictionary` made of them; each has a name of its own.
        other_model: Whether they may have been trained on a model of another name.
        device: Where to compute: `auto`, `cpu`, `cuda`, ….
        run: The new run's name; None: the source's, and `-features`.
        root: The warehouse's folder; None: that of the source, else `$TRACES_HOME`, else `./runs`.
        part: The part `i/n` of the sequences that this process does.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the tables `features`, `feature_tokens`, `reconstructions` and `dictionaries`.

    Raises:
        UsageError: A folder is no dictionary, or it is of another site, width or model than the run's.
        RunExistsError: The new run exists already.
    """
    home, folder = find_source_run(source, root)
    run_id = partition.part_run_name(run or f"{paths.run_id_of(folder)}-features", part)
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.features import encode_run as job

    loaded = _read(dictionaries)
    if line := TraceStore(folder).left_out():
        screen_note(line)
    options = job.Options(other_model, device, part)
    with capture_progress() as (report, _):
        manifest = job.run(folder, loaded, options, root=home, run_id=run_id, report=report)
    return TraceStore(paths.run_dir(home, manifest.run_id))


@in_python_terms
def evaluate_features(
    source: TraceStore | str,
    dictionaries: Dictionaries,
    *,
    model: Loaded | None = None,
    sequences: int = 64,
    batch_tokens: int = 2048,
    other_model: bool = False,
    run: str | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Measure how much worse a model predicts when a dictionary stands in the place of its states.

    Each sequence is read as it is, with what the dictionary gives back in the place of every state, and with 0 there. The same call again
    continues one that was interrupted.

    Example:
        capture.evaluate_features("first", "saes/smollm2-15", sequences=32)
        wh.sql("SELECT loss_recovered FROM dictionary_fit").fetchall()

    Args:
        source: The run whose texts are read, or its name; it need not have stored anything.
        dictionaries: Folders in SAELens' format, or what `read_dictionary` made of them; each is measured by itself.
        model: The model that the run was captured with; None: it is loaded from where it was.
        sequences: How many sequences, the first by example.
        batch_tokens: Tokens of a forward pass.
        other_model: Whether the dictionaries may have been trained on a model of another name.
        run: The new run's name; None: the source's, and `-features-evaluation`.
        root: The warehouse's folder; None: that of the source, else `$TRACES_HOME`, else `./runs`.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the table `reconstruction_losses`.

    Raises:
        UsageError: A folder is no dictionary, it is of another site or model than the run's, or the model is another.
        RunExistsError: The new run exists already.
    """
    home, folder = find_source_run(source, root)
    run_id = run or f"{paths.run_id_of(folder)}-features-evaluation"
    if (existing := existing_run(home, run_id, skip_existing)) is not None:
        return existing
    from capture.features import loss_run as job

    chosen = _read(dictionaries)
    options = job.Options(sequences, batch_tokens, other_model)
    loaded = check_loaded(model) if model is not None else load_captured_model(folder)
    total = min(sequences, TraceStore(folder).meta.counts.sequences)
    with capture_progress(total, unit="sequences") as (report, _):
        manifest = job.run(loaded, folder, chosen, options, root=home, run_id=run_id, report=report)
    return TraceStore(paths.run_dir(home, manifest.run_id))


def _read(dictionaries: Dictionaries) -> list[Dictionary]:
    """Read the dictionaries that are given as folders; raises UsageError where one is none."""
    from capture.features.dictionary import Dictionary
    from capture.features.saelens_folder import read_dictionary

    given = [dictionaries] if isinstance(dictionaries, str | Path | Dictionary) else dictionaries
    return [d if isinstance(d, Dictionary) else read_dictionary(d) for d in given]
