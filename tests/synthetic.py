"""Published runs made of rows that a test writes down, without a model: what SQL answers can be held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from warehouse import layout
from warehouse.manifest import Counts, DataInfo, Manifest, ModelInfo
from warehouse.schema import STORED
from warehouse.tables import to_table, write_part

_EMPTY = {"VARCHAR": "", "INTEGER": 0, "BIGINT": 0, "FLOAT": 0.0, "BOOLEAN": False}


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
) -> Path:
    """A run with these rows of these tables, where a column left out is NULL if it may be, else 0, '', false or [].
    `minute`: when it was made; `claims`: tables that its manifest says it has a row in, all the same."""
    folder = layout.run_dir(root, run_id)
    for name, found in rows.items():
        columns = {
            c.name: [
                row.get(c.name, None if c.nullable else [] if c.sql.endswith("[]") else _EMPTY[c.sql]) for row in found
            ]
            for c in STORED[name].file_columns
        }
        write_part(folder / layout.table_name(name), to_table(name, columns))
    stack = {"n_layers": 1, "d_model": 4, "n_heads": 1, "n_kv_heads": 1, "d_head": 4, "d_value": 4}
    told = {"architecture": "None", "weights_hash": "", "tokenizer_hash": "", "dtype": "float32", "device": "cpu"}
    Manifest(
        run_id=run_id,
        kind=kind,
        parents=list(parents),
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
        seconds=0,
        model=ModelInfo(
            name="none", attn_implementation="eager", vocab_size=1, untrained=list(untrained), **stack, **told
        ),
        data=DataInfo(dataset="made", split="test", source="made", hash=""),
        options={},
        store_dtype="float16",
        counts=Counts(
            examples=0,
            sequences=0,
            tokens=len(rows.get("tokens", ())),
            predictions=len(rows.get("next_token", ())),
            truncated=0,
            rows={name: len(found) for name, found in rows.items()} | dict.fromkeys(claims, 1),
        ),
        bytes=0,
        files=[],
        versions={},
    ).write(folder)
    return folder
