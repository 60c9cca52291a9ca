"""Sparse dictionaries from Python: a run's states are encoded, and what is active is a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from capture.api.arguments import existing_run, find_source_run, in_python_terms
from capture.api.progress import capture_progress
from capture.api.runs import screen_note
from capture.sequences import partition
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.features.dictionary import Dictionary


@in_python_terms
def encode_features(
    source: TraceStore | str,
    dictionaries: str | Path | Dictionary | Sequence[str | Path | Dictionary],
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
    from capture.features.dictionary import Dictionary
    from capture.features.saelens_folder import read_dictionary

    given = [dictionaries] if isinstance(dictionaries, str | Path | Dictionary) else dictionaries
    loaded = [d if isinstance(d, Dictionary) else read_dictionary(d) for d in given]
    if line := TraceStore(folder).left_out():
        screen_note(line)
    options = job.Options(other_model, device, part)
    with capture_progress() as (report, _):
        manifest = job.run(folder, loaded, options, root=home, run_id=run_id, report=report)
    return TraceStore(paths.run_dir(home, manifest.run_id))
