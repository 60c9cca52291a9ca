"""Published runs made of rows that a test writes down, without a model: what SQL answers can be held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from warehouse import TraceStore
from warehouse.catalog.publish import publish
from warehouse.schema.sites import Key
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.files import file_checksum
from warehouse.storage.manifest import Counts, DataInfo, FileInfo, Manifest, SiteInfo
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table, write_table_file
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.sealed import seal


def alter(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrites a sealed file (run.json, a table's info) and seals it anew, as somebody who means to would."""
    fields = json.loads(path.read_bytes())
    fields.pop("seal", None)
    change(fields)
    path.write_bytes(seal(json.dumps(fields).encode()))


def set_right(folder: Path, file: Path) -> None:
    """Has a run's manifest tell of a file as it is now."""

    def change(manifest: dict[str, Any]) -> None:
        for known in manifest["files"]:
            if known["path"] == file.relative_to(folder).as_posix():
                known["bytes"], known["checksum"] = file.stat().st_size, file_checksum(file)
        manifest["bytes"] = sum(f["bytes"] for f in manifest["files"])

    alter(folder / paths.MANIFEST, change)


_EMPTY = {"VARCHAR": "", "INTEGER": 0, "BIGINT": 0, "FLOAT": 0.0, "DOUBLE": 0.0, "BOOLEAN": False}


def add_run(
    root: Path,
    run_id: str,
    kind: str,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    minute: int = 0,
    parents: Sequence[str] = (),
    untrained: Sequence[str] = (),
    claims: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    body: str = "",
    d_model: int = 4,
    n_layers: int = 1,
    n_heads: int = 1,
) -> Path:
    """A run with these rows of these tables, where a column left out is NULL if it may be, else 0, '', false or [].
    `minute`: when it was made; `claims`: tables that its manifest says it has a row in, all the same; `body`, `d_model` and
    so on: of which model it is."""
    folder = paths.run_dir(root, run_id)
    files = []
    for name, found in rows.items():
        path = folder / paths.table_file(name)
        write_table_file(path, to_table(name, columns(name, found)))
        files.append(FileInfo(path=paths.table_file(name), bytes=path.stat().st_size, checksum=file_checksum(path)))
    stack = {"n_layers": n_layers, "d_model": d_model, "n_heads": n_heads, "n_kv_heads": 1, "d_head": 4, "d_value": 4}
    told = {"architecture": "None", "weights_hash": "", "tokenizer_hash": "", "dtype": "float32", "device": "cpu"}
    Manifest(
        run_id=run_id,
        kind=kind,
        parents=list(parents),
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
        seconds=0,
        model=ModelInfo(
            name="none",
            body_hash=body,
            attn_implementation="eager",
            vocab_size=1,
            untrained=list(untrained),
            **stack,
            **told,
        ),
        data=DataInfo(dataset="made", split="test", source="made", hash=""),
        options=dict(options or {}),
        store_dtype="F16",
        counts=Counts(
            examples=0,
            sequences=0,
            tokens=len(rows.get("tokens", ())),
            predictions=len(rows.get("next_token", ())),
            truncated=0,
            rows={name: len(found) for name, found in rows.items()} | dict.fromkeys(claims, 1),
        ),
        bytes=sum(f.bytes for f in files),
        files=files,
        versions={},
    ).write(folder)
    return folder


def columns(table: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, what is left out filled in."""
    return {
        c.name: [row.get(c.name, None if c.nullable else [] if c.sql.endswith("[]") else _EMPTY[c.sql]) for row in rows]
        for c in STORED[table].file_columns
    }


def add_vectors(
    root: Path,
    run_id: str,
    layers: Mapping[int, np.ndarray],
    lengths: Sequence[int],
    *,
    site: str = "resid.post_mlp",
    n_layers: int = 4,
    body: str = "body",
    model: str = "made",
    losses: np.ndarray | None = None,
    shards: int = 2,
) -> TraceStore:
    """A run that stored these vectors, (tokens, D) or (tokens, heads, d), of examples `e0000`, `e0001`, … of these lengths; its
    tokens say where they stand, and have a loss if one is given."""
    first = next(iter(layers.values()))
    keys = {Key("dec", site, layer): TensorSpec(_NAMES[str(x.dtype)], x.shape[1:]) for layer, x in layers.items()}
    ids = [f"e{i:04d}" for i in range(len(lengths))]
    ends = np.cumsum(lengths)
    with RunWriter(root, run_id, {"made": run_id}) as writer:
        for part in np.array_split(np.arange(len(lengths)), shards):
            start, end = int(ends[part[0]] - lengths[part[0]]), int(ends[part[-1]])
            writer.begin_shard(dict.fromkeys(keys, end - start), keys)
            tensors = {k: np.ascontiguousarray(layers[k.layer][start:end]) for k in keys if k.layer is not None}
            rows = {k: [int(lengths[i]) for i in part] for k in keys}
            writer.put(
                RecordedBatch([(ids[i], 0) for i in part], tensors, rows, _token_rows(part, ids, lengths, ends, losses))
            )
            writer.end_shard(str(part[-1]))
        stack = {
            "n_layers": n_layers,
            "d_model": first.shape[-1],
            "n_heads": 4,
            "n_kv_heads": 2,
            "d_head": 4,
            "d_value": 4,
        }
        told = {"architecture": "None", "weights_hash": "", "tokenizer_hash": "", "dtype": "float32", "device": "cpu"}
        info = ModelInfo(name=model, body_hash=body, attn_implementation="eager", vocab_size=1, **stack, **told)
        publish(
            writer,
            lambda p: Manifest(
                run_id=run_id,
                kind="encode",
                created_at=p.created_at,
                seconds=0,
                model=info,
                data=DataInfo(dataset="made", split="test", source="made", hash=""),
                options={},
                store_dtype="F16",
                sites=[
                    SiteInfo(site=k.site, layers=[k.layer], row_shape=list(s.row_shape), dtype=s.dtype)
                    for k, s in keys.items()
                ],
                counts=Counts(
                    examples=len(ids), sequences=len(ids), tokens=len(first), predictions=0, truncated=0, rows=p.rows
                ),
                bytes=sum(f.bytes for f in p.files),
                files=p.files,
                versions={},
            ),
        )
    return TraceStore(paths.run_dir(root, run_id))


_NAMES = {"float16": "F16", "float32": "F32", "bfloat16": "BF16"}


def _token_rows(
    part: np.ndarray, ids: list[str], lengths: Sequence[int], ends: np.ndarray, losses: np.ndarray | None
) -> dict[str, Any]:
    examples = [
        {"example_id": ids[i], "idx": int(i), "dataset": "made", "text": "", "n_tokens": lengths[i], "n_seqs": 1}
        for i in part
    ]
    tokens = [
        {"example_id": ids[i], "side": "dec", "pos": pos, "token": str(pos)} for i in part for pos in range(lengths[i])
    ]
    found = {"examples": examples, "tokens": tokens}
    if losses is not None:
        found["next_token"] = [
            {"example_id": ids[i], "pos": pos, "loss": float(losses[ends[i] - lengths[i] + pos])}
            for i in part
            for pos in range(lengths[i])
        ]
    return {name: to_table(name, columns(name, rows)) for name, rows in found.items()}
