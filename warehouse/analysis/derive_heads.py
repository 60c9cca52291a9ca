"""Derive the table `heads` of a published run from its stored attention, without its model.

In: a run that stored q and k, or attention. Out: a new run of kind `heads`, whose parent is that run. `traces derive heads` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from warehouse.analysis import heads
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.chosen_examples import keeps_tensors_sql
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.grouping import group_by_size
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

_SHARD_TOKENS = 1 << 14
"""Most tokens between two points from which an interrupted derivation can resume."""


@dataclass(frozen=True)
class _Sequence:
    """One side of a sequence, and its token ids (T,)."""

    example_id: str
    seq: int
    side: str
    ids: np.ndarray


def derive_heads(
    folder: AnyPath, *, root: AnyPath, run_id: str, report: Callable[[DerivedProgress], None] = lambda _: None
) -> Manifest:
    """Publish the table `heads` of a published run as a run of its own.

    The same call goes on where an earlier one was interrupted.

    Args:
        folder: The run's folder.
        root: The warehouse that the new run goes to.
        run_id: Name of the new run.
        report: Called after every sequence.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: Where the run stores neither q and k nor attention.
        RunExistsError: Where another run is called `run_id`.
    """
    store = TraceStore(folder)
    if "attn" not in store.sites:
        store.check_not_expired()
        raise UsageError(
            f"Run '{store.meta.run_id}' stores neither q and k nor attention, so its heads cannot be derived. Capture it again "
            "with --capture attn or heads."
        )
    source = paths.run_id_of(folder)
    identity = RunIdentity("heads", {}, parents={source: folder_manifest_hash(folder)})
    counted = DerivedProgress(run_id)
    with RunWriter(root, run_id, identity.to_dict()) as writer, heads.HeadTable(source) as table:
        for number, shard in enumerate(_shards(store)):
            done = number < len(writer.done)
            if not done:
                writer.begin_shard({}, {})
            for s in shard:
                counted.begun += 1
                counted.tokens += len(s.ids)
                if done:
                    counted.resumed_tokens = counted.tokens
                else:
                    rows = table.rows(s.example_id, s.seq, s.side, s.ids, _read_layers(store, s))
                    writer.put(RecordedBatch([], {}, {}, {"heads": rows}))
                report(counted)
            if not done:
                writer.end_shard(str(number))
        return publish(writer, lambda published: store.meta.derive("heads", run_id, [source], {}, published))


def _read_layers(store: TraceStore, s: _Sequence) -> dict[int, heads.LayerHeads]:
    """Return the attention of a sequence by layer: from q and k where the formula is known, else as stored."""
    layers = {}
    formulas = store.meta.model.stack(s.side).attention or []
    for layer in store.layers_with("attn", s.side):
        layers[layer] = heads.from_stored(
            store.rows(Key(s.side, "attn", layer), s.example_id, s.seq), store.row_kind(Key(s.side, "attn", layer))
        )
    for layer in store.layers_with("q", s.side):
        formula = formulas[layer] if layer < len(formulas) else None
        if formula is not None and store.has(Key(s.side, "k", layer)):
            q, k = (store.rows(Key(s.side, x, layer), s.example_id, s.seq) for x in ("q", "k"))
            layers[layer] = heads.from_qk(q, k, formula)
    return dict(sorted(layers.items()))


def _shards(store: TraceStore) -> Iterator[list[_Sequence]]:
    """Return every sequence that has tokens, on every side whose attention is known, in groups of at most `_SHARD_TOKENS`."""
    sides = [s for s in ("dec", "enc") if store.layers_with("attn", s) or store.layers_with("q", s)]
    answer = store.query(
        "SELECT example_id, seq, side, list(token_id ORDER BY pos) FROM tokens WHERE side IN (SELECT unnest(?)) "
        f"AND {keeps_tensors_sql(store.keep_every)} GROUP BY ALL ORDER BY example_id, seq, side",
        [sides],
    )
    rows = chain.from_iterable(iter(lambda: answer.fetchmany(256), []))
    sequences = (_Sequence(example_id, seq, side, np.asarray(ids)) for example_id, seq, side, ids in rows)
    return group_by_size(sequences, lambda s: len(s.ids), _SHARD_TOKENS)
