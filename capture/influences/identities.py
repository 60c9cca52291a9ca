"""How exactly the identities hold that influence rests on: the largest error of each, as sequences are explained.

Each shard of a run has its own, in the rows of `identity_errors`; publishing the run, or merging its parts, makes one row of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from warehouse.storage.parquet import to_table

HEADS = "attn_out = sum of heads"
STREAM = "stream = embed + parts"
LOGIT = "logit = sum of parts"
SHARES = "shares sum to 1"


class IdentityErrors:
    """By identity and layer: how many numbers were compared, the largest difference, and the largest number compared with."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int | None], tuple[int, float, float]] = {}

    def count(self, identity: str, found: Any, expected: Any, layer: int | None = None) -> None:
        """Compare numbers with what they should be."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        n, error, scale = self._found.get((identity, layer), (0, 0.0, 0.0))
        self._found[identity, layer] = (
            n + found.size,
            max(error, float(np.abs(found - expected).max())),
            max(scale, float(np.abs(expected).max())),
        )

    def table(self, source: str) -> pa.Table:
        """Return the rows of `identity_errors`, `source` being the run that was explained."""
        names = ("source_run_id", "identity", "layer", "n", "max_error", "scale")
        rows = [(source, *key, *values) for key, values in self._found.items()]
        return to_table("identity_errors", {name: [row[i] for row in rows] for i, name in enumerate(names)})
