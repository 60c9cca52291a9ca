"""The logit lens: what the model would predict if it stopped after a layer, for tokens whose residual streams a run has stored.

The states go through the model's own final norm and unembedding (nostalgebraist 2020, "interpreting GPT: the logit lens"); its
blocks are not run. Layer l is the output of block l, and NULL the embedding that the first one reads. At the last layer it is the
model's real distribution.

`run` reads a captured run and leaves a run of kind `lens` with the table `logit_lens`; `forecast` says how large that would be.
`options` checks what is asked for, `positions` picks the tokens, `layer_reader` reads the layers and `rows` makes the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

from capture.jobs.versions import computing_versions
from capture.logit_lens.layer_reader import LayerReader, slice_rows
from capture.logit_lens.options import Options, choose_layers
from capture.logit_lens.positions import count_positions, group_positions, slice_positions
from capture.logit_lens.rows import LensRows
from capture.model.failures import explain_memory_errors
from capture.model.hashes import has_weights
from capture.model.loading import Loaded
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.storage import paths
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

KIND = "lens"

_ROW_BYTES, _TOP_BYTES = 40, 6.7
"""Bytes that a row takes on disk, and that each of its top-k tokens adds, measured on SmolLM2."""


class Forecast(NamedTuple):
    """The size of what a lens would make."""

    layers: int
    positions: int
    bytes: float

    @property
    def rows(self) -> int:
        """Rows of `logit_lens`."""
        return self.layers * self.positions


def forecast(folder: AnyPath, options: Options) -> Forecast:
    """Forecast the size of a run's lens without loading a model; raises UsageError as `run` does for run and options."""
    store = TraceStore(folder)
    layers, n = len(choose_layers(store, options)), count_positions(store, options)
    return Forecast(layers, n, layers * n * (_ROW_BYTES + _TOP_BYTES * options.top_k))


def run(
    loaded: Loaded,
    folder: AnyPath,
    options: Options,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
) -> Manifest:
    """Read a published run through the logit lens, and publish the table `logit_lens` as a run of its own.

    The same call resumes where an earlier one was interrupted.

    Args:
        loaded: The model that the run was captured with.
        folder: The captured run.
        options: What to read.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every slice of positions.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The run has not stored what is needed (the message has the command that stores it) or has no such layer or
            position; the model is another, or its last layer's way to the vocabulary is not known.
        RunExistsError: The new run exists already.
        TracesError: The model predicts no tokens, or what its head makes of a layer is NaN.
    """
    store = TraceStore(folder)
    layers = choose_layers(store, options)
    count_positions(store, options)
    _check_model(store, loaded)
    reader = LayerReader(loaded, store, layers, options.top_k)
    source = paths.run_id_of(folder)
    rows = LensRows(source, loaded.tokenizer, layers, reader.vocabulary)
    progress = DerivedProgress(run_id)
    with (
        explain_memory_errors(f"look through {loaded.name}", "Choose a --device with more of it, or fewer --layers."),
        RunWriter(root, run_id, _identity(folder, loaded, options).to_dict()) as writer,
    ):
        for number, shard in enumerate(group_positions(store, options, len(layers))):
            done = number < len(writer.done)
            if not done:
                writer.begin_shard({}, {})
            for pieces in slice_positions(shard, slice_rows(reader.vocabulary)):
                progress.begun += sum(p.ends for p in pieces)
                progress.tokens += sum(len(p.positions) for p in pieces)
                if done:
                    progress.resumed_tokens = progress.tokens
                else:
                    writer.put(
                        RecordedBatch([], {}, {}, {}, deferred_tables=rows.deferred_tables(pieces, reader(pieces)))
                    )
                report(progress)
            if not done:
                writer.end_shard(str(number))
        manifest = store.meta.derive
        return publish(writer, lambda published: manifest(KIND, run_id, [source], asdict(options), published))


def _identity(folder: AnyPath, loaded: Loaded, options: Options) -> RunIdentity:
    """Return what must be equal for a second call to resume the first."""
    return RunIdentity(
        KIND,
        {"options": asdict(options), "device": loaded.device, "versions": computing_versions()},
        parents={paths.run_id_of(folder): folder_manifest_hash(folder)},
    )


def _check_model(store: TraceStore, loaded: Loaded) -> None:
    """Raise UsageError for another model; a run captured without the head knows only the weights of the body."""
    m = store.meta.model
    if not has_weights(loaded.model, m.weights_hash):
        raise UsageError(
            f"{loaded.name} has other weights than those that run '{store.meta.run_id}' was captured with ({m.name}, "
            f"{m.dtype}), so that it cannot read the run's states. If that model lies elsewhere now: --model PLACE"
        )
