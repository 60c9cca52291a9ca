"""How much worse does a model predict when a dictionary stands in the place of its states?

Each sequence is read once as it is, and from the dictionary's layer on twice more: with what the dictionary gives back in the place of every
state, and with 0 there. Their losses are what "loss recovered" is made of (Gao et al. 2024, "Scaling and evaluating sparse autoencoders",
section 4.1; Bricken et al. 2023, "Towards Monosemanticity"). The result is a run of kind `features-evaluation` with the table
`reconstruction_losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capture.features.dictionary import Dictionary
from capture.features.fit import Fitted, fit
from capture.interventions.intervene import check_not_held
from capture.interventions.reference import check_same_model, output_factor, pad
from capture.interventions.restart import Passed, Restart
from capture.interventions.site_edits import Edit, check_editable
from capture.jobs.job import check_option_values
from capture.jobs.versions import computing_versions
from capture.model.body import padding_id
from capture.model.failures import explain_memory_errors
from capture.model.in_memory import in_eval_mode
from capture.model.lm_head import LMHead
from capture.model.loading import Loaded
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.grouping import group_by_size
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

KIND = "features-evaluation"

_SIDE = "dec"
_LOGIT_BYTES = 64 << 20
"""Float32 logits of a kind that exist at a time."""

_SEQUENCES = """
    SELECT example_id, seq, list(token_id ORDER BY pos), list(coalesce(is_context, false) ORDER BY pos)
    FROM tokens WHERE side = 'dec' GROUP BY example_id, seq HAVING count(*) > 1 ORDER BY example_id, seq LIMIT ?
"""


@dataclass(frozen=True)
class Options:
    """What is read, and how."""

    sequences: int = 64
    """How many sequences, the first by example: ids are hashes, so that these are any."""
    batch_tokens: int = 2048
    other_model: bool = False
    """Whether dictionaries may have been trained on a model of another name."""

    def __post_init__(self) -> None:
        """Raise UsageError for numbers out of range."""
        check_option_values(self)
        if self.sequences < 1 or self.batch_tokens < 1:
            raise UsageError("Read one sequence at least, and one token at a time.")


class _Sequence(NamedTuple):
    example_id: str
    seq: int
    ids: np.ndarray
    predicted: np.ndarray
    """(T - 1,): whether the token after each is predicted here, and was not read again as context alone."""


def run(
    loaded: Loaded,
    folder: AnyPath,
    dictionaries: Sequence[Dictionary],
    options: Options,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
) -> Manifest:
    """Measure what a model loses when dictionaries stand in the place of its states, and publish it as a run.

    The same call resumes where an earlier one was interrupted.

    Args:
        loaded: The model that the run was captured with.
        folder: The run whose texts are read.
        dictionaries: The dictionaries, each by itself.
        options: How many texts.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every batch.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: A dictionary is of another site or model, or of a site that cannot be changed; the model is another than the run's, or
            predicts no next tokens; the run has no sequence of two tokens.
        RunExistsError: The new run exists already.
    """
    check_not_held(loaded.model)
    store, source = TraceStore(folder), paths.run_id_of(folder)
    fitted = fit(store, dictionaries, other_model=options.other_model, stored=False)
    if store.meta.model.side != _SIDE:
        raise UsageError(
            f"Run '{source}' is of an encoder ({store.meta.model.architecture}), which does not predict next tokens."
        )
    check_same_model(store, loaded, "Run")
    for f in fitted:
        check_editable(loaded.anatomy, f.given_back)
        check_editable(loaded.anatomy, f.read)
    sequences = [
        _Sequence(example_id, seq, np.array(ids), ~np.array(context[1:]))
        for example_id, seq, ids, context in store.query(_SEQUENCES, [options.sequences]).fetchall()
    ]
    sequences.sort(key=lambda s: len(s.ids))  # so that there is little padding
    if not any(s.predicted.any() for s in sequences):
        raise UsageError(f"Run '{source}' has no sequence of two tokens, so that nothing is predicted.")
    said = {
        "dictionaries": {f.dictionary.name: f.dictionary.weights_hash for f in fitted},
        **asdict(options),
        "device": loaded.device,
        "versions": computing_versions(),
    }
    identity = RunIdentity(KIND, said, parents={source: folder_manifest_hash(folder)})
    progress = DerivedProgress(run_id)
    remedy = f"Lower --batch-tokens (now {options.batch_tokens:,})."
    with (
        explain_memory_errors(f"run {loaded.name}", remedy),
        in_eval_mode(loaded.model),
        RunWriter(root, run_id, identity.to_dict()) as writer,
    ):
        measurer = _Measurer(loaded, fitted, source)
        for number, batch in enumerate(group_by_size(sequences, lambda s: len(s.ids), options.batch_tokens)):
            progress.begun += len(batch)
            progress.tokens += sum(len(s.ids) for s in batch)
            if number < len(writer.done):
                progress.resumed_tokens = progress.tokens
            else:
                writer.begin_shard({}, {})
                rows = measurer(batch)
                columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else None
                if columns is not None:
                    table = to_table("reconstruction_losses", columns)
                    writer.put(RecordedBatch([], {}, {}, {"reconstruction_losses": table}))
                writer.end_shard(str(number))
            report(progress)
        return publish(writer, lambda staged: store.meta.derive(KIND, run_id, [source], said, staged))


class _Measurer:
    """Runs batches of sequences with dictionaries in the place of states."""

    def __init__(self, loaded: Loaded, fitted: Sequence[Fitted], source: str) -> None:
        self._anatomy, self._source = loaded.anatomy, source
        self._restart, self._head = Restart(loaded.anatomy), LMHead(loaded.anatomy.body)
        self._padding = padding_id(loaded.model)
        device = loaded.model.device
        self._fitted = [Fitted(f.dictionary.to(device), f.read, f.given_back) for f in fitted]

    @torch.no_grad()
    def __call__(self, batch: Sequence[_Sequence]) -> list[dict[str, object]]:
        """Return the rows of a batch."""
        ids, mask = pad([s.ids for s in batch], self._padding)
        keys = {key for f in self._fitted for key in (f.read, f.given_back)}
        passed = self._restart.read({_SIDE: (ids, mask)}, keys)
        predicted = torch.zeros(ids.shape, dtype=torch.bool)
        for row, s in enumerate(batch):
            predicted[row, : len(s.predicted)] = torch.from_numpy(s.predicted)
        of, at = (x.to(passed.last.device) for x in predicted.nonzero(as_tuple=True))
        true = ids.to(of.device)[of, at + 1]
        rows: list[dict[str, object]] = []
        for f in self._fitted:
            value = passed.values[f.given_back]
            states = [
                passed.last,
                self._run(passed, f.given_back.layer, {f.given_back: _put(self._given_back(f, passed))}),
                self._run(passed, f.given_back.layer, {f.given_back: _put(torch.zeros_like(value))}),
            ]
            losses, kl = self._losses([x[of, at] for x in states], true)
            for row, s in enumerate(batch):
                mine = of == row
                if mine.any():
                    means = losses[:, mine].mean(1).tolist()
                    rows.append(
                        {
                            "source_run_id": self._source,
                            "sae": f.dictionary.name,
                            "weights_hash": f.dictionary.weights_hash,
                            "layer": f.read.layer,
                            "example_id": s.example_id,
                            "seq": s.seq,
                            "n_predictions": int(mine.sum()),
                            **dict(zip(("loss", "reconstructed_loss", "zeroed_loss"), means, strict=True)),
                            "mean_kl": kl[mine].mean().item(),
                        }
                    )
        return rows

    def _given_back(self, f: Fitted, passed: Passed) -> Tensor:
        """Return what a dictionary gives back of a batch's states, in the model's own scale and dtype."""
        d, value = f.dictionary, passed.values[f.given_back]
        x = passed.values[f.read] * output_factor(self._anatomy, f.read)
        x = x if d.head is None else x[:, :, d.head]
        y = d.reconstruct(x.flatten(0, 1)) / output_factor(self._anatomy, f.given_back)
        if d.head is None:
            return y.view(value.shape).to(value.dtype)
        changed = value.clone()
        changed[:, :, d.head] = y.view(*value.shape[:2], -1).to(value.dtype)
        return changed

    def _run(self, passed: Passed, layer: int | None, edits: dict[Key, Edit]) -> Tensor:
        return self._restart.run(passed, torch.arange(len(passed.last)), layer or 0, edits)

    def _losses(self, states: Sequence[Tensor], true: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of n predictions.

        Args:
            states: Last states (n, D): as they are, with what is given back, with 0.
            true: (n,): the tokens that came.

        Returns:
            Losses (3, n) and KL(as it is || with what is given back) (n,), nats, float64.
        """
        losses, divergences = [], []
        for i in self._slices(len(true)):
            plain, other, zeroed = (self._head(x[i]).float().log_softmax(-1) for x in states)
            losses.append(torch.stack([-x.gather(-1, true[i, None])[:, 0] for x in (plain, other, zeroed)]))
            p = plain.exp()
            divergences.append((p * (plain - other).masked_fill(p == 0, 0)).sum(-1))  # a token ruled out adds nothing
        return torch.cat(losses, 1).double(), torch.cat(divergences).double()

    def _slices(self, n: int) -> Iterator[slice]:
        size = max(1, _LOGIT_BYTES // (self._head.vocabulary * 4))
        return (slice(start, start + size) for start in range(0, n, size))


def _put(value: Tensor) -> Edit:
    """Return an edit that puts a value in the place of what is there."""
    return lambda _: value
