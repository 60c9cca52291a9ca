"""Rows of every table drawn at random, from few keys, so that whatever a view joins meets, ties, or is missing: no model."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthetic import add_run

from warehouse.schema.tables import STORED
from warehouse.schema.types import Column, Table

KINDS = ("next-token", "mcq-prompt", "mcq-encoder", "task", "trait-projection", "circuit")
TEXTS = (
    "Ein Boot lag im Hafen.",
    "naïve 👍🏽 cafés\u00a0\n日本 'quoted' \\ text",
    "",
    "10\u00a0000 « mots »\tici, e\u0301te\u0301",
)
POOLS: dict[str, Sequence[Any]] = {
    "example_id": ("e0", "e1", "e2"),
    "seq": (0, 1),
    "side": ("dec", "dec", "enc"),
    "layer": (0, 1),
    "method": ("probe", "mean_diff", "random"),
    "component": ("residual", "attn_out"),
    "trait": ("loud", "calm"),
    "metric": ("logit_diff", "prob_diff", "kl"),
    "measure": ("ifr", "value-norm", "occlusion"),
    "site": ("heads", "resid.post_mlp"),
    "variant": ("circuit", "complement", "random"),
    "part": ("head", "mlp", "embed"),
    "size": (0.0, 0.25, 1.0),
    "sign": (1, -1),
    "coefficient": (0.0, 1.0, 2.0),
    "role": ("clean", "corrupted"),
    "coherence_score": (20.0, 60.0, 90.0),
    "metadata": tuple(json.dumps({"answer": text, "question_concept": text[:4], "n": 1}) for text in TEXTS),
    "text": TEXTS,
}
"""Values of columns by name; others are drawn by type."""


def add_random_runs(root: Path, rows: int = 40, seed: int = 0) -> list[str]:
    """Adds a run of each kind with so many rows in every table, which name each other as their sources."""
    rng = random.Random(seed)
    runs = [f"random-{kind}" for kind in KINDS]
    for minute, (run_id, kind) in enumerate(zip(runs, KINDS, strict=True)):
        found = {name: _rows(rng, table, runs, rows) for name, table in STORED.items() if name != "tensors"}
        options = {"target_column": "answer"} if minute % 2 else {}
        add_run(root, run_id, kind, found, minute=minute, parents=runs[:minute][-1:], options=options)
    return runs


def _rows(rng: random.Random, table: Table, runs: Sequence[str], n: int) -> list[dict[str, Any]]:
    """Rows with keys of their own, in the order of the keys."""
    found = {}
    for _ in range(n):
        row = {c.name: _value(rng, c, runs) for c in table.file_columns}
        if "char_start" in row:
            row["char_start"] = rng.choice((None, *range(8)))
            row["char_end"] = None if row["char_start"] is None else row["char_start"] + rng.randrange(6)
        found[tuple((row[k] is not None, row[k]) for k in table.sort_key)] = row
    return [found[key] for key in sorted(found)]


def _value(rng: random.Random, column: Column, runs: Sequence[str]) -> Any:
    if column.nullable and rng.random() < 0.2:
        return None
    if column.name in POOLS:
        return rng.choice(POOLS[column.name])
    if column.name.endswith("run_id"):
        return rng.choice((*runs, "gone"))
    if column.sql.endswith("[]"):
        return [_plain(rng, column.sql[:-2]) for _ in range(rng.randrange(3))]
    return _plain(rng, column.sql)


def _plain(rng: random.Random, sql: str) -> Any:
    if sql in ("FLOAT", "DOUBLE"):
        return rng.choice((0.0, math.inf, *(rng.gauss(0, 1) for _ in range(18))))
    return {"VARCHAR": rng.choice("abc"), "BOOLEAN": rng.random() < 0.5}.get(sql, rng.randrange(4))
