"""Compare two models by two runs of the same texts, token by token, from what the runs have stored.

`run` reads two captured runs and leaves a run of kind `comparison` with the table `comparisons`; `forecast` says how large that would
be. `run_pair` checks what the two must have in common, `shared_tokens` finds the tokens that both read after the same text,
`predictor` and `divergence` compare what is predicted after them, and `predictions` makes the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from capture.comparisons.predictions import PredictionRows, why_not_comparable
from capture.comparisons.predictor import Predictor
from capture.comparisons.run_pair import RunPair, last_state_key, open_pair
from capture.comparisons.shared_tokens import count_shared, group_shared
from capture.jobs.versions import computing_versions
from capture.model.failures import explain_memory_errors
from capture.model.loading import Loaded
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter

KIND = "comparison"

_ROW_BYTES = 35
"""Bytes that a row of `comparisons` takes on disk, measured on SmolLM2."""

LoadModel = Callable[[int], Loaded]
"""Loads the model of the first run (0) or of the other (1)."""


class Forecast(NamedTuple):
    """The size of what a comparison would make."""

    sequences: int
    tokens: int

    @property
    def bytes(self) -> float:
        """Bytes on disk, about."""
        return self.tokens * _ROW_BYTES


def forecast(a: AnyPath, b: AnyPath) -> Forecast:
    """Forecast the size of a comparison without loading a model; raises UsageError as `run` does for the two runs."""
    pair = open_pair(a, b)
    if _may_share_vocabulary(pair):
        for store in pair.stores:
            last_state_key(store)
    else:
        _check_losses(pair)
    return Forecast(*count_shared(pair))


def run(
    a: AnyPath,
    b: AnyPath,
    load: LoadModel,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Compare two published runs, and publish the comparison as a run of its own.

    The same call resumes where an earlier one was interrupted.

    Args:
        a: The folder of the first run.
        b: That of the other.
        load: Loads their models; not called where their predictions cannot be compared anyway.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every shard.
        note: Called with lines for the user.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: A run has not stored what is needed (the message has the command that stores it), the two are one or have no
            token in common, or a model is another than that of its run.
        RunExistsError: The new run exists already.
        TracesError: A model predicts no tokens, or what its head makes of a state is NaN.
    """
    forecast(a, b)
    pair = open_pair(a, b)
    with explain_memory_errors("compare two models", "Choose a --device with more of it."):
        predictors, devices = _open_predictors(pair, load, note)
        identity = RunIdentity(
            KIND,
            {"devices": devices, "versions": computing_versions(), "predictions": predictors is not None},
            parents={
                name: folder_manifest_hash(store.path) for name, store in zip(pair.names, pair.stores, strict=True)
            },
        )
        rows = PredictionRows(pair.names, predictors)
        progress = DerivedProgress(run_id)
        with RunWriter(root, run_id, identity.to_dict()) as writer:
            for number, shard in enumerate(group_shared(pair)):
                done = number < len(writer.done)
                progress.begun += len(shard)
                progress.tokens += sum(len(s.positions) for s in shard)
                if done:
                    progress.resumed_tokens = progress.tokens
                else:
                    writer.begin_shard({}, {})
                    writer.put(RecordedBatch([], {}, {}, {"comparisons": rows.table(shard)}))
                    writer.end_shard(str(number))
                report(progress)
            options = {"predictions": predictors is not None}
            derive = pair.a.meta.derive
            return publish(writer, lambda published: derive(KIND, run_id, list(pair.names), options, published))


def _open_predictors(
    pair: RunPair, load: LoadModel, note: Callable[[str], None]
) -> tuple[tuple[Predictor, Predictor] | None, list[str]]:
    """Open what predicts after the states of both runs, and say on which devices; None where that cannot be compared."""
    why: str | None = "their models have other vocabularies"
    if _may_share_vocabulary(pair):
        loaded = [load(side) for side in (0, 1)]
        options = ("--model", "--other-model")
        a, b = (Predictor(*of) for of in zip(loaded, pair.stores, options, strict=True))
        why = why_not_comparable(a, b)
        if why is None:
            return (a, b), [x.device for x in loaded]
    _check_losses(pair)
    note(
        f"'{pair.names[0]}' and '{pair.names[1]}': {why}, so that only losses are compared, by spans of text that both cut alike"
    )
    return None, []


def _may_share_vocabulary(pair: RunPair) -> bool:
    """Tell whether both models may predict the same tokens, as far as the runs know."""
    return pair.same_tokenizer or pair.a.meta.model.vocab_size == pair.b.meta.model.vocab_size


def _check_losses(pair: RunPair) -> None:
    """Raise UsageError for a run without losses, where those are all that can be compared."""
    for store in pair.stores:
        if not store.meta.counts.rows.get("next_token"):
            raise UsageError(
                f"Run '{store.meta.run_id}' has no losses, and the other's tokenizer has another vocabulary, so that nothing else of "
                "their predictions can be compared. Capture it again: traces capture next-token …"
            )
