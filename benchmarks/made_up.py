"""Runs of made-up rows, for benchmarks of what is asked of rows: published without a model, and never meant as anything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.schema.arrow import arrow_schema
from warehouse.storage import paths
from warehouse.storage.files import file_checksum
from warehouse.storage.manifest import Counts, DataInfo, FileInfo, Manifest
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.parquet import ROW_GROUP, to_table, writing_options

EXAMPLE_TOKENS = 128
"""Rows of an example."""


def example_ids(count: int) -> np.ndarray:
    """Names like real ones, sorted."""
    return np.sort(np.array([f"{i * 2654435761 % 2**64:016x}" for i in range(count)]))


def next_token(seed: int, ids: np.ndarray) -> pa.Table:
    """Predictions of whole examples, of random numbers with the shapes of real ones."""
    rng = np.random.default_rng(seed)
    rows = len(ids) * EXAMPLE_TOKENS
    words = pa.array([f" w{i}" for i in range(5000)])
    true, pred = rng.zipf(1.3, rows) % 5000, rng.zipf(1.3, rows) % 5000
    loss = rng.gamma(1.5, 2.0, rows).astype(np.float32)
    top = (rng.zipf(1.3, rows * 5) % 5000).astype(np.int32)
    offsets = pa.array(np.arange(0, rows * 5 + 1, 5, dtype=np.int32))

    def lists(values: Any) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, values)

    return to_table(
        "next_token",
        {
            "example_id": pa.array(ids).take(pa.array(np.repeat(np.arange(len(ids)), EXAMPLE_TOKENS))),
            "seq": pa.array(np.zeros(rows, np.int32)),
            "pos": pa.array(np.tile(np.arange(EXAMPLE_TOKENS, dtype=np.int32), len(ids))),
            "true_id": pa.array(true.astype(np.int32)),
            "true_token": words.take(pa.array(true)),
            "pred_id": pa.array(pred.astype(np.int32)),
            "pred_token": words.take(pa.array(pred)),
            "correct": pa.array(true == pred),
            "true_prob": pa.array(np.exp(-loss)),
            "pred_prob": pa.array(rng.random(rows, np.float32)),
            "true_rank": pa.array(rng.zipf(1.5, rows).clip(max=49152).astype(np.int32)),
            "entropy": pa.array(rng.gamma(2, 1, rows).astype(np.float32)),
            "loss": pa.array(loss),
            "topk_ids": lists(pa.array(top)),
            "topk_tokens": lists(words.take(pa.array(top))),
            "topk_probs": lists(pa.array(rng.random(rows * 5, np.float32))),
        },
    )


def blank(table: str, **columns: pa.Array) -> pa.Table:
    """Rows with these columns; what they leave out is NULL, or 0, '' and false where it may not be."""
    rows = len(next(iter(columns.values())))
    other = {
        c.name: pa.nulls(rows, c.type) if c.nullable else pa.array(np.zeros(rows, np.int8)).cast(c.type)
        for c in arrow_schema(table)
        if c.name not in columns
    }
    return to_table(table, columns | other)


def publish(
    root: Path,
    name: str,
    tables: Mapping[str, Iterable[pa.Table]],
    *,
    kind: str = "next-token",
    parents: Iterable[str] = (),
) -> None:
    """Makes a run of nothing but these rows, each table's in parts; refreshing the views is left to who opens the warehouse."""
    folder = paths.run_dir(root, name)
    files, rows = [], {}
    for table, parts in tables.items():
        file = paths.table_file(table)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(folder / file, arrow_schema(table), **writing_options(arrow_schema(table))) as writer:
            rows[table] = 0
            for part in parts:
                writer.write_table(part, row_group_size=ROW_GROUP)
                rows[table] += len(part)
        size = (folder / file).stat().st_size
        files.append(FileInfo(path=file, bytes=size, checksum=file_checksum(folder / file)))
    sizes = dict.fromkeys(("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_value", "vocab_size"), 1)
    names = dict.fromkeys(
        ("name", "architecture", "dtype", "device", "attn_implementation", "weights_hash", "tokenizer_hash"), ""
    )
    Manifest(
        run_id=name,
        kind=kind,
        parents=list(parents),
        created_at=datetime.now(UTC),
        seconds=0,
        model=ModelInfo(**sizes, **names),
        data=DataInfo(dataset="made", source="made", hash=""),
        options={},
        store_dtype="F16",
        counts=Counts(
            examples=rows.get("examples", 0),
            sequences=0,
            tokens=rows.get("tokens", 0),
            predictions=rows.get("next_token", 0),
            truncated=0,
            rows=rows,
        ),
        bytes=sum(f.bytes for f in files),
        files=files,
        versions={},
    ).write(folder)


def small_run() -> dict[str, list[pa.Table]]:
    """The tables of a run of five examples."""
    ids = example_ids(5)
    predicted = next_token(0, ids)
    keys = {name: predicted.column(name) for name in ("example_id", "seq", "pos")}
    return {
        "examples": [blank("examples", example_id=pa.array(ids))],
        "tokens": [blank("tokens", **keys, side=pa.array(["dec"] * len(predicted)))],
        "next_token": [predicted],
    }
