"""JSON of attention, as token-level viewers read it: a row of attention for every token, layer and head.

    {"tokens": ["The", …], "n_prompt_tokens": 12, "n_response_tokens": 3,
     "attention": [{"token_idx": 0, "context_size": 1, "by_layer": [[[1.0], …], …]}, …]}

`by_layer` is [layer][head][source position]: token `token_idx` looks at the `context_size` tokens that it may see, itself the last of them
in a decoder, all in an encoder. A layer without attention is an empty list. Numbers are the float32 of `TraceStore.attn`, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from warehouse.exports.chosen import ExportedSequence
from warehouse.exports.json_text import to_json
from warehouse.schema.sites import Key
from warehouse.storage.attention_matrix import FEWEST, AttentionMatrix
from warehouse.storage.trace_store import TraceStore

_HELD = 1 << 24
"""Probabilities that are held at a time, about."""


def attention_document(store: TraceStore, sequence: ExportedSequence, side: str) -> Iterator[bytes]:
    """Yield the document of a sequence in pieces: that of a long text is large.

    Args:
        store: A run that can read `attn`.
        sequence: The sequence.
        side: The stack of the model.

    Yields:
        JSON.
    """
    head: dict[str, Any] = {
        "tokens": sequence.tokens,
        "n_prompt_tokens": sequence.n_prompt_tokens,
        "n_response_tokens": sequence.n_response_tokens,
    }
    yield to_json(head)[:-1] + b',"attention":['
    matrices = [_matrix(store, sequence, layer, side) for layer in range(store.meta.model.stack(side).n_layers)]
    n = len(sequence.tokens)
    step = max(FEWEST, _HELD // max(1, n * sum(m.shape[0] for m in matrices if m)))
    for start in range(0, n, step):
        rows = range(start, min(n, start + step))
        read = [(m.read(rows), m.causal) if m else None for m in matrices]
        entries = (to_json(_entry(t, t - start, n, read)) for t in rows)
        yield (b"," if start else b"") + b",".join(entries)
    yield b"]}"


def _entry(token: int, row: int, n: int, read: list[tuple[np.ndarray, bool] | None]) -> dict[str, Any]:
    """Return what a token looks at; `read` has the rows of each layer, (H, rows, T), and whether it is causal."""
    size = token + 1 if all(causal for _, causal in filter(None, read)) else n
    layers: list[Any] = [[] if x is None else np.ascontiguousarray(x[0][:, row, :size]) for x in read]
    return {"token_idx": token, "context_size": size, "by_layer": layers}


def _matrix(store: TraceStore, sequence: ExportedSequence, layer: int, side: str) -> AttentionMatrix | None:
    """Return attention of a layer, None where it has none."""
    formulas = store.meta.model.stack(side).attention
    if not store.has(Key(side, "attn", layer)) and formulas is not None and formulas[layer] is None:
        return None
    return store.attn_matrix(sequence.example_id, layer, seq=sequence.seq, side=side)
