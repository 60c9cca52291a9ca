"""Two runs that are to be compared: what they must have in common, and what of them can be compared at all.

`open_pair` checks the runs before a model is loaded: that both hold a decoder's states, and the same examples. `check_predictions`
says whether their predictions can be compared. `shared_tokens` then says which tokens they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from capture.jobs.commands import capture_command
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.chosen_examples import keeps_tensors_sql
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

SIDE = "dec"


@dataclass(frozen=True)
class RunPair:
    """Two captured runs of decoders."""

    a: TraceStore
    b: TraceStore

    @property
    def stores(self) -> tuple[TraceStore, TraceStore]:
        """Both runs."""
        return self.a, self.b

    @property
    def names(self) -> tuple[str, str]:
        """The names of both: those of their folders."""
        return paths.run_id_of(self.a.path), paths.run_id_of(self.b.path)

    @cached_property
    def same_tokenizer(self) -> bool:
        """Whether both cut texts into tokens with the same tokenizer."""
        return self.a.meta.model.tokenizer_hash == self.b.meta.model.tokenizer_hash


def open_pair(a: AnyPath, b: AnyPath) -> RunPair:
    """Open two runs to compare them.

    Args:
        a: The folder of the first.
        b: The folder of the second.

    Returns:
        The runs.

    Raises:
        UsageError: They are one run, hold no states of a decoder, or have no example in common.
    """
    pair = RunPair(TraceStore(a), TraceStore(b))
    if pair.names[0] == pair.names[1]:
        raise UsageError(f"'{pair.names[0]}' is both runs: name two that read the same texts, traces compare A B.")
    for store in pair.stores:
        _check_captured(store)
    if not _have_common_examples(pair):
        names = " and ".join(
            f"'{name}' ({store.meta.data.dataset})" for name, store in zip(pair.names, pair.stores, strict=True)
        )
        kept = [f"--keep-every {s.keep_every}" for s in pair.stores if s.keep_every > 1]
        raise UsageError(
            f"Runs {names} have no example in common{f' whose tensors both keep ({kept[0]})' if kept else ''}: capture the same "
            "texts with both models."
        )
    return pair


def _check_captured(store: TraceStore) -> None:
    """Raise UsageError for a run that holds no states of a decoder."""
    meta = store.meta
    if not meta.captured:
        of = f": compare the run it was made from, {meta.parents[0]}" if meta.parents else ""
        raise UsageError(f"Run '{meta.run_id}' is of kind {meta.kind}, and holds no states of a model{of}.")
    if meta.model.side != SIDE:
        raise UsageError(
            f"Run '{meta.run_id}' is of an encoder ({meta.model.architecture}), which does not predict next tokens: traces compare "
            "compares decoders."
        )


def _have_common_examples(pair: RunPair) -> bool:
    """Tell whether an example has tensors in both runs."""
    ids = []
    for store in pair.stores:
        kept = keeps_tensors_sql(store.keep_every)
        query = f"SELECT DISTINCT example_id FROM tokens WHERE side = '{SIDE}' AND {kept}"
        ids.append(set(store.query(query).to_arrow_table()["example_id"].to_pylist()))
    return not ids[0].isdisjoint(ids[1])


def last_state_key(store: TraceStore) -> Key:
    """Return the key of what the head reads, as stored: after the final norm, or the last block's output.

    Raises:
        UsageError: Neither is stored (the message has the command that stores it).
    """
    meta = store.meta
    n = meta.model.stack(SIDE).n_layers
    stream = Key(SIDE, "resid.post_mlp", n - 1)
    for key in (store.key("hidden", n, SIDE), stream):
        if store.has(key):
            return key
    store.check_not_expired()
    missing = meta.model.stack(SIDE).missing
    if "hidden" in missing:
        raise UsageError(f"{meta.model.name} has no hidden here: {missing['hidden']}.")
    raise UsageError(
        f"Run '{meta.run_id}' has not stored its last hidden state, which the model's head reads. Capture it again: "
        f"{capture_command(meta.kind)} … --capture {sites.capture_of('hidden')}"
    )
