"""Encode a run's stored states with sparse dictionaries: which features are active at which token. No model is loaded.

States are read a few sequences at a time, in the order of their examples, and encoded and decoded there; only features that are active
are kept. The result is a run of kind `features` with the tables `features` and `feature_tokens`, which have the same rows in two orders, and
`reconstructions` and `dictionaries`. `fit` says which tensors a dictionary is applied to, `state_encoder` applies it, `feature_rows` makes the
rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from capture.features.dictionary import Dictionary
from capture.features.feature_rows import FeatureRows
from capture.features.fit import fit
from capture.features.state_encoder import EncodedTokens, StateEncoder
from capture.jobs.in_order import in_order
from capture.jobs.job import check_option_values
from capture.jobs.versions import computing_versions
from capture.model.failures import explain_memory_errors
from capture.model.loading import find_device
from capture.model.torch_threads import torch_in_threads
from capture.sequences import partition
from warehouse.catalog.publish import publish
from warehouse.errors import UncertainResultWarning, UsageError
from warehouse.storage import paths
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.grouping import group_by_size
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

KIND = "features"

_PIECE_TOKENS = 2048
"""Tokens that are encoded at once, unless one sequence has more: their activations are 32 MB with 4,096 features."""
_SHARD_ROWS = 1 << 20
"""Active features after which a shard ends, where an interrupted encoding can resume: about 12 MB on disk."""


@dataclass(frozen=True)
class Options:
    """How a run is encoded."""

    other_model: bool = False
    """Whether dictionaries may have been trained on a model of another name."""
    device: str = "auto"
    shard: str = ""
    """`i/n`: every n-th sequence, starting with the i-th."""

    def __post_init__(self) -> None:
        """Raise UsageError for a part that is none."""
        check_option_values(self)


def run(
    folder: AnyPath,
    dictionaries: Sequence[Dictionary],
    options: Options,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
) -> Manifest:
    """Encode the stored states of a published run, and publish what is active as a run of its own.

    The same call resumes where an earlier one was interrupted. Warns (UncertainResultWarning) where a dictionary was trained on texts with a
    token before them, and the run's have none, or the other way about.

    Args:
        folder: The captured run.
        dictionaries: What it is encoded with.
        options: How.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every piece of sequences.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: A dictionary does not fit the run, as `fit` says.
        RunExistsError: The new run exists already.
    """
    store, device = TraceStore(folder), find_device(options.device)
    fitted = fit(store, dictionaries, other_model=options.other_model)
    for f in fitted:
        _check_beginnings(store, f.dictionary)
    everything = sorted(store.slices(fitted[0].read), key=lambda s: (s.example_id, s.seq))
    sequences = list(partition.take_part(everything, options.shard))
    if not sequences:
        raise UsageError(
            f"Run '{store.meta.run_id}' has no tokens to encode{' in this part' if options.shard else ''}."
        )
    said = {
        "dictionaries": {f.dictionary.name: f.dictionary.weights_hash for f in fitted},
        **asdict(options),
        "device": str(device),
        "versions": computing_versions(),
    }
    source = paths.run_id_of(folder)
    identity = RunIdentity(KIND, said, parents={source: folder_manifest_hash(folder)})
    progress = DerivedProgress(run_id)
    with (
        explain_memory_errors(f"encode run '{source}'", "Choose a --device with more of it."),
        RunWriter(root, run_id, identity.to_dict()) as writer,
    ):
        progress.begun = int(writer.done[-1].resume_point) if writer.done else 0
        progress.tokens = progress.resumed_tokens = sum(s.n_rows for s in sequences[: progress.begun])
        encoder, rows = StateEncoder(store, fitted, everything, device), FeatureRows(source, fitted)
        pieces = group_by_size(sequences[progress.begun :], lambda s: s.n_rows, _PIECE_TOKENS)
        shard: list[EncodedTokens] = []
        with torch_in_threads(device) as threads:
            for encoded in in_order(encoder, pieces, threads):
                shard.append(encoded)
                progress.begun += len(encoded.sequences)
                progress.tokens += len(encoded)
                report(progress)
                if sum(e.n_active for e in shard) >= _SHARD_ROWS or progress.begun == len(sequences):
                    writer.begin_shard({}, {})
                    writer.put(RecordedBatch([], {}, {}, {}, deferred_tables=partial(rows.tables, shard)))
                    writer.end_shard(str(progress.begun))
                    shard = []
        return publish(writer, lambda staged: store.meta.derive(KIND, run_id, [source], said, staged))


def _check_beginnings(store: TraceStore, dictionary: Dictionary) -> None:
    """Warn where the run's texts begin otherwise than those that a dictionary was trained on."""
    if dictionary.prepend_bos is None:
        return
    [(begins,)] = store.query(
        "SELECT coalesce(bool_and(is_special), false) FROM tokens WHERE pos = 0 AND side = ?", [store.meta.model.side]
    ).fetchall()
    if begins != dictionary.prepend_bos:
        theirs, ours = ("with", "without") if dictionary.prepend_bos else ("without", "with")
        warnings.warn(
            f"{dictionary.name} was trained on texts {theirs} a token before them, and run '{store.meta.run_id}' was captured "
            f"{ours} one: its features may mean less here.",
            UncertainResultWarning,
            stacklevel=2,
        )
