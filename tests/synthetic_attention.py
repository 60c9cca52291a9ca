"""Published runs with attention of random q and k, without a model: stored, or to be derived, with every variant of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import columns

from warehouse import TraceStore
from warehouse.catalog.publish import publish
from warehouse.schema.sites import Key, beside, row_kind
from warehouse.storage import paths
from warehouse.storage.attention import per_query_head, probabilities
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.manifest import Counts, DataInfo, Manifest, SiteInfo
from warehouse.storage.model_info import LayerAttention, ModelInfo, StackInfo
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_writer import RunWriter

HEADS, KV_HEADS, WIDTH = 4, 2, 8


def add_attention(
    root: Path,
    run_id: str,
    layers: Sequence[LayerAttention],
    lengths: Sequence[int],
    *,
    encoder: Sequence[LayerAttention] = (),
    cross: Sequence[LayerAttention] = (),
    sources: Sequence[int] = (),
    stored: bool = False,
    seed: int = 0,
) -> TraceStore:
    """A run of examples `e0`, `e1`, … of these lengths, whose layers attend so. With an `encoder`, `sources` are the lengths of what
    it read, and `cross` is how the decoder attends to that. `stored`: attention itself, float32, in place of q and k."""
    rng = np.random.default_rng(seed)
    attended = {("dec", "attn"): layers, ("enc", "attn"): encoder, ("dec", "cross.attn"): cross}
    sides = {"dec": lengths, "enc": sources}
    tensors: dict[Key, list[np.ndarray]] = {}
    for (side, site), formulas in attended.items():
        for i, formula in enumerate(formulas):
            for n, s in zip(sides[side], sides["enc" if site == "cross.attn" else side], strict=True):
                q = (2 * rng.normal(size=(n, HEADS, WIDTH))).astype(np.float16)
                k = (2 * rng.normal(size=(s, KV_HEADS, WIDTH))).astype(np.float16)
                if stored:
                    full = probabilities(q.swapaxes(0, 1), per_query_head(k.swapaxes(0, 1), HEADS), formula)
                    seen = (
                        np.tri(n, s, dtype=bool)
                        if row_kind(site, formula.causal) == "triangle"
                        else np.ones((n, s), bool)
                    )
                    found = {site: full[:, seen].T}
                else:
                    found = {beside(site, "q"): q, beside(site, "k"): k}
                for name, x in found.items():
                    tensors.setdefault(Key(side, name, i), []).append(np.ascontiguousarray(x))
    causal = {"dec": all(x.causal for x in layers), "enc": False}
    specs = {
        key: TensorSpec("F32" if stored else "F16", parts[0].shape[1:], row_kind(key.site, causal[key.side]))
        for key, parts in tensors.items()
    }  # fmt: skip
    ids = [f"e{i}" for i in range(len(lengths))]
    tables: dict[str, list[dict[str, Any]]] = {
        "examples": [{"example_id": e, "idx": i, "text": "x" * n, "n_seqs": int(n > 0), "n_tokens": n}
                     for i, (e, n) in enumerate(zip(ids, lengths, strict=True))],
        "tokens": [{"example_id": e, "side": side, "pos": pos, "token": "x", "char_start": pos, "char_end": pos + 1}
                   for side, counts in sides.items() for e, n in zip(ids, counts, strict=False) for pos in range(n)],
    }  # fmt: skip
    with RunWriter(root, run_id, {"made": run_id}) as writer:
        writer.begin_shard({key: sum(map(len, parts)) for key, parts in tensors.items()}, specs)
        joined = {key: np.concatenate(parts) for key, parts in tensors.items()}
        rows = {key: [len(x) for x in parts] for key, parts in tensors.items()}
        made = {name: to_table(name, columns(name, found)) for name, found in tables.items()}
        writer.put(RecordedBatch([(e, 0) for e in ids], joined, rows, made))
        writer.end_shard("0")
        sizes: dict[str, Any] = {
            "d_model": 32,
            "n_heads": HEADS,
            "n_kv_heads": KV_HEADS,
            "d_head": WIDTH,
            "d_value": WIDTH,
        }
        info = ModelInfo(
            name="made", architecture="None", weights_hash="", tokenizer_hash="", dtype="float32", device="cpu",
            attn_implementation="eager", vocab_size=1, n_layers=len(layers), attention=list(layers), causal=causal["dec"],
            cross_attention=list(cross) or None,
            encoder=StackInfo(n_layers=len(encoder), attention=list(encoder), causal=False, **sizes) if encoder else None, **sizes,
        )  # fmt: skip
        publish(
            writer,
            lambda p: Manifest(
                run_id=run_id, kind="encode", created_at=p.created_at, seconds=0, model=info,
                data=DataInfo(dataset="made", split="test", source="made", hash=""), options={}, store_dtype="F16",
                sites=[SiteInfo(side=k.side, site=k.site, layers=[k.layer], row_shape=list(s.row_shape), dtype=s.dtype, rows=s.row_kind)
                       for k, s in specs.items()],
                counts=Counts(examples=len(ids), sequences=len(ids), tokens=sum(lengths), predictions=0, truncated=0, rows=p.rows),
                bytes=sum(f.bytes for f in p.files), files=p.files, versions={},
            ),
        )  # fmt: skip
    return TraceStore(paths.run_dir(root, run_id))
