"""Values that an intervention puts in place of the model's own: means by position over sequences, and what a run has stored.

`position_means` runs the model over the sequences of a run, so that any site can be averaged, stored or not; `stored_values` reads one
sequence's tensor of a run, without the model. Values are those of `edit_sites`: what a module gives, before a factor that its block
multiplies it with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from capture.interventions.restart import Restart
from capture.model.anatomy import Anatomy
from capture.model.body import padding_id
from capture.model.hashes import has_weights
from capture.model.loading import Loaded
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.sites import Key
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

_MOST_SEQUENCES = 512
"""The most sequences of a run that a mean is over: its first ones by example."""
_BATCH_TOKENS = 2048

_TOKENS_SQL = """
    SELECT example_id, seq, list(token_id ORDER BY pos) AS ids FROM tokens
    WHERE side = ? AND seq = coalesce(?, seq) GROUP BY example_id, seq ORDER BY example_id, seq
"""


@dataclass(frozen=True)
class PositionMeans:
    """Sums by position over sequences, of each site."""

    sums: Mapping[Key, torch.Tensor]
    """(T, *row_shape), float64"""
    counts: torch.Tensor
    """(T,): the sequences that have a token there."""
    n: int
    """The sequences."""

    def mean(self, key: Key) -> torch.Tensor:
        """Return the means by position, (T, *row_shape)."""
        sums = self.sums[key]
        return sums / self._shaped(self.counts, sums)

    def mean_without(self, key: Key, own: torch.Tensor) -> torch.Tensor:
        """Return the means over the other sequences of one that is among them, whose values are `own`, (T', *row_shape)."""
        sums = self.sums[key][: len(own)] - own.to(torch.float64)
        return sums / self._shaped((self.counts[: len(own)] - 1), sums)

    def _shaped(self, counts: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return counts.to(like.device).to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def run_sequences(store: TraceStore, side: str, seq: int | None = None) -> list[tuple[str, int, np.ndarray]]:
    """Return the token ids of a run's sequences: example_id, seq and ids (T,) of each; only those of one `seq`, if given."""
    rows = store.query(_TOKENS_SQL, [side, seq]).fetchall()
    return [(example_id, seq, np.array(ids)) for example_id, seq, ids in rows]


def check_same_model(store: TraceStore, loaded: Loaded, what: str) -> None:
    """Raise UsageError where a run is of a model with other weights; `what` names the run's part in it."""
    model = store.meta.model
    if not has_weights(loaded.model, model.weights_hash):
        raise UsageError(
            f"{what} '{store.meta.run_id}' is of {model.name} ({model.dtype}), with other weights than {loaded.name}: its values mean "
            "something else here. Use a run of the same model."
        )


def position_means(
    loaded: Loaded,
    sequences: Iterable[np.ndarray],
    keys: Collection[Key],
    restart: Restart,
    report: Callable[[int], None] = lambda n: None,
) -> PositionMeans:
    """Run a model over sequences, and sum each site by position.

    Args:
        loaded: The model.
        sequences: Token ids (T,) of each; the first 512 count.
        keys: The sites.
        restart: Runs the model.
        report: Called with the number of sequences after every batch.

    Returns:
        The sums.
    """
    chosen = [ids for ids, _ in zip(sequences, range(_MOST_SEQUENCES), strict=False)]
    longest = max(map(len, chosen), default=0)
    counts = torch.zeros(longest, dtype=torch.long)
    sums: dict[Key, torch.Tensor] = {}
    for batch in _batches(sorted(chosen, key=len)):
        ids, mask = pad(batch, padding_id(loaded.model))
        passed = restart.read({loaded.anatomy.main.side: (ids, mask)}, keys)
        counts[: mask.shape[1]] += mask.sum(0)
        for key, x in passed.values.items():
            real = mask.to(x.device).view(*mask.shape, *[1] * (x.ndim - 2))
            if key not in sums:
                sums[key] = torch.zeros((longest, *x.shape[2:]), dtype=torch.float64, device=x.device)
            sums[key][: x.shape[1]] += torch.where(real.bool(), x, torch.zeros_like(x)).to(torch.float64).sum(0)
        report(len(batch))
    return PositionMeans(sums, counts, len(chosen))


def pad(sequences: list[np.ndarray], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded ids and mask, (B, T) each."""
    width = max(map(len, sequences))
    ids, mask = torch.full((len(sequences), width), padding), torch.zeros((len(sequences), width), dtype=torch.long)
    for i, row in enumerate(sequences):
        ids[i, : len(row)] = torch.from_numpy(row)
        mask[i, : len(row)] = 1
    return ids, mask


def _batches(sequences: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Group sequences, shortest first, into batches of like length."""
    batch: list[np.ndarray] = []
    for ids in sequences:
        if batch and (len(batch) + 1) * len(ids) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def stored_values(store: TraceStore, anatomy: Anatomy, key: Key, example_id: str, seq: int) -> np.ndarray:
    """Read what a run has stored of a site for one sequence.

    Args:
        store: The run.
        anatomy: That of its model.
        key: The site; `heads` follows from attention and v.
        example_id: The example.
        seq: Which of its sequences.

    Returns:
        (T, *row_shape) float32.

    Raises:
        UsageError: The run has not stored it; the message says which command does.
    """
    cross = "cross" if key.site.startswith("cross.") else "self"
    site = key.site.removeprefix("cross.")
    if site == "heads":
        probabilities = store.attn(example_id, key.layer, seq=seq, side=key.side, kind=cross)  # (H, T, S)
        v = store.qkv(example_id, "v", key.layer, seq=seq, side=key.side, kind=cross)  # (H, S, d)
        return np.ascontiguousarray((probabilities.astype(np.float32) @ v.astype(np.float32)).swapaxes(0, 1))
    if site.startswith("resid."):
        rows = store.resid(example_id, site.removeprefix("resid."), key.layer, seq=seq, side=key.side)
    else:
        rows = store.rows(key, example_id, seq)
    return np.asarray(rows, np.float32) / np.float32(output_factor(anatomy, key))


def output_factor(anatomy: Anatomy, key: Key) -> float:
    """Return what the block multiplies a module's output with before it adds it to the stream; 1 for other sites."""
    if key.layer is None:
        return 1.0
    point = anatomy.stacks[key.side].layers[key.layer].hook_points.get(key.site)
    return 1.0 if point is None else point.factor


def find_sequence(root: AnyPath, source: str) -> tuple[TraceStore, str, int]:
    """Find the sequence of a run that a patch names.

    Args:
        root: The warehouse's folder.
        source: RUN, where the run has one sequence, or RUN/EXAMPLE_ID, or RUN/EXAMPLE_ID.SEQ.

    Returns:
        The run, the example and the sequence.

    Raises:
        UsageError: The run has several sequences, and none is named.
        NotFoundError: There is no such run or sequence.
    """
    from warehouse.storage.run_list import find_run

    name, _, sequence = source.partition("/")
    store = TraceStore(find_run(root, name))
    known = [(e, s) for e, s, _ in run_sequences(store, store.meta.model.side)]
    if not sequence:
        if len(known) != 1:
            raise UsageError(
                f"patch:{source}: the run has {len(known):,} sequences: name one, as in patch:{name}/"
                f"{known[0][0] if known else 'EXAMPLE_ID'}."
            )
        return store, *known[0]
    example_id, dot, seq = sequence.partition(".")
    wanted = (example_id, int(seq) if dot and seq.isdecimal() else 0)
    if wanted not in known:
        raise NotFoundError("sequence", sequence, [f"{e}.{s}" for e, s in known[:5]], f"(run '{name}')")
    return store, *wanted
