"""Activations and vectors of traits as `torch.save` writes them, in the layout of trait pipelines.

    FOLDER/index.json
    FOLDER/activations/all_layers.pt           (n_examples, n_layers, hidden_dim): a mean over the response's tokens, by layer
    FOLDER/activations/metadata.json           model, n_examples, n_layers, hidden_dim, threshold, extraction_date, storage_type
    FOLDER/vectors/TRAIT/METHOD_layer15.pt     (hidden_dim,), of length `vector_norm`, as the method gave it
    FOLDER/vectors/TRAIT/METHOD_layer15_metadata.json   trait, method, layer, model, vector_norm, train_accuracy, extraction_date

A run with responses gives activations, a run of trait vectors gives vectors. Layer l is the output of block l. Each file is a plain tensor,
which `torch.load(FILE, weights_only=True)` reads. All responses are written, whatever their scores: `threshold` is null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warehouse.catalog.ask import asker
from warehouse.errors import UsageError
from warehouse.exports.chosen import choose_examples
from warehouse.exports.json_text import to_json
from warehouse.exports.lineage import lineage
from warehouse.exports.npz import examples_with_tensors
from warehouse.exports.target import INDEX, new_folder, safe_name
from warehouse.schema.sites import MEAN, Key
from warehouse.storage.paths import run_id_of
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

_SITE = "resid.post_mlp"
_VECTORS = """
SELECT trait, method, layer, vector, norm, train_accuracy FROM trait_vectors
WHERE run_id = ? AND component = 'residual' AND layer IS NOT NULL ORDER BY trait, method, layer
"""
_RESPONSES = """
SELECT r.example_id, r.seq, r.polarity, list(t.pos ORDER BY t.pos) FILTER (t.is_response AND NOT t.is_special) AS positions
FROM responses AS r JOIN tokens AS t ON t.example_id = r.example_id AND t.seq = r.seq AND t.side = 'dec'
WHERE r.example_id IN (SELECT unnest(?))
GROUP BY ALL ORDER BY r.polarity DESC, r.example_id, r.seq
"""


def trait_tensors(
    wh: Warehouse,
    run: str,
    folder: str | Path,
    *,
    examples: Sequence[str] = (),
    where: str | None = None,
    force: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Write activations, or vectors, of a trait as files of torch.

    Args:
        wh: The warehouse.
        run: A run with responses and their residual streams or means, or a run of kind trait-vectors.
        folder: The folder that is written.
        examples: Ids of examples, or beginnings of them; none: all.
        where: A SQL condition on the columns of the table `examples`.
        force: Whether to replace an export that is there.
        report: Called with the responses that are read, and all of them.

    Returns:
        The files of tensors.

    Raises:
        UsageError: The run has neither, no example is chosen, or the folder is there.
    """
    store = wh.run(run)
    rows = store.meta.counts.rows
    if rows.get("trait_vectors"):
        tensors = _vectors(wh, store)
    elif rows.get("responses"):
        chosen = examples_with_tensors(store, choose_examples(wh, store, examples, where))
        tensors = _activations(store, chosen, report)
    else:
        raise UsageError(f"Run '{run}' is of kind {store.meta.kind}: it has neither responses nor vectors of traits.")
    with new_folder(Path(folder), wh.root, force=force) as written:
        for name, (array, metadata, beside) in tensors.items():
            (written / name).parent.mkdir(parents=True, exist_ok=True)
            torch.save(torch.from_numpy(array), written / name)
            (written / name).with_name(beside).write_bytes(to_json(metadata, indent=True))
        index = lineage(store) | {"format": "trait-tensors", "files": list(tensors)}
        (written / INDEX).write_bytes(to_json(index, indent=True))
    return list(tensors)


_Tensors = dict[str, tuple[np.ndarray, dict[str, Any], str]]
"""By file: a tensor, what is said of it, and the name of the file beside it that says so."""


def _vectors(wh: Warehouse, store: TraceStore) -> _Tensors:
    """Return the vectors of a run, each as long as its method made it."""
    found: _Tensors = {}
    for row in asker(wh)(_VECTORS, run_id_of(store.path)).to_pylist():
        stem = f"{safe_name(row['method'])}_layer{row['layer']}"
        metadata = {
            "trait": row["trait"],
            "method": row["method"],
            "layer": row["layer"],
            "model": store.meta.model.name,
            "vector_norm": row["norm"],
            "train_accuracy": row["train_accuracy"],
            "extraction_date": f"{store.meta.created_at:%Y-%m-%d}",
        }
        vector = np.array(row["vector"], np.float32) * np.float32(row["norm"])
        found[f"vectors/{safe_name(row['trait'])}/{stem}.pt"] = (vector, metadata, f"{stem}_metadata.json")
    return found


def _activations(store: TraceStore, examples: Sequence[str], report: Callable[[int, int], None]) -> _Tensors:
    """Return the means of responses by layer.

    Raises:
        UsageError: The run stored neither means nor residual streams of every layer.
    """
    layers = range(store.meta.model.stack("dec").n_layers)
    site = next((s for s in (MEAN + _SITE, _SITE) if store.layers_with(s, "dec") == list(layers)), None)
    if site is None:
        raise UsageError(
            f"Run '{store.meta.run_id}' stored neither means nor residual streams of every layer: capture it with --capture means or resid."
        )
    rows = [row for row in store.query(_RESPONSES, [list(examples)]).fetchall() if row[3]]
    if not rows:
        raise UsageError(f"No response of run '{store.meta.run_id}' has tokens.")
    means = np.empty((len(rows), len(layers), store.row_shape(Key("dec", site, 0))[0]), np.float32)
    for n, (example, seq, _, positions) in enumerate(rows):
        for layer in layers:
            states = store.rows(Key("dec", site, layer), example, seq)
            picked = states if site.startswith(MEAN) else states[positions]
            means[n, layer] = picked.astype(np.float32).mean(axis=0)
        report(n + 1, len(rows))
    metadata = {
        "model": store.meta.model.name,
        "n_examples": len(rows),
        "n_layers": len(layers),
        "hidden_dim": means.shape[2],
        "threshold": None,
        "extraction_date": f"{store.meta.created_at:%Y-%m-%d}",
        "storage_type": "float32",
        "examples": [{"example_id": example, "seq": seq, "polarity": polarity} for example, seq, polarity, _ in rows],
    }
    return {"activations/all_layers.pt": (means, metadata, "metadata.json")}
