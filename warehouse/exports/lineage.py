"""What every exported file says of where it came from, as far as its format has a place for it: the run and its model."""

from __future__ import annotations

from typing import Any

from warehouse.exports.target import MADE_BY
from warehouse.storage.paths import run_id_of
from warehouse.storage.trace_store import TraceStore


def lineage(store: TraceStore) -> dict[str, Any]:
    """Return the run, its model and its data, by which an import knows them again."""
    meta = store.meta
    return {
        "made_by": MADE_BY,
        "run_id": run_id_of(store.path),
        "kind": meta.kind,
        "model": meta.model.name,
        "revision": meta.model.revision,
        "architecture": meta.model.architecture,
        "weights_hash": meta.model.weights_hash,
        "tokenizer_hash": meta.model.tokenizer_hash,
        "dtype": meta.model.dtype,
        "store_dtype": meta.store_dtype,
        "dataset": meta.data.dataset,
        "config": meta.data.config,
        "split": meta.data.split,
    }


def lineage_texts(store: TraceStore) -> dict[str, str]:
    """Return the same for formats whose metadata are texts; what there is not or is empty is left out: GGUF has no empty texts."""
    return {name: str(value) for name, value in lineage(store).items() if value}
