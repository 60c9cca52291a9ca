"""How exactly the identities hold that influence rests on: the largest error of each, kept over a whole run.

They are counted as sequences are explained, carried from shard to shard in the journal, so that a resumed run has them too, and become
the rows of `identity_errors` at the end.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

HEADS = "attn_out = sum of heads"
STREAM = "stream = embed + parts"
LOGIT = "logit = sum of parts"
SHARES = "shares sum to 1"


class IdentityErrors:
    """By identity and layer: how many numbers were compared, the largest difference, and the largest number compared with."""

    def __init__(self, text: str = "") -> None:
        """Begin anew, or with what `to_text` wrote."""
        entries = json.loads(text) if text else []
        self._found: dict[tuple[str, int | None], tuple[int, float, float]] = {
            (identity, layer): (n, error, scale) for identity, layer, n, error, scale in entries
        }

    def count(self, identity: str, found: Any, expected: Any, layer: int | None = None) -> None:
        """Compare numbers with what they should be."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        n, error, scale = self._found.get((identity, layer), (0, 0.0, 0.0))
        self._found[identity, layer] = (
            n + found.size,
            max(error, float(np.abs(found - expected).max())),
            max(scale, float(np.abs(expected).max())),
        )

    def to_text(self) -> str:
        """Return all of it as a text."""
        return json.dumps([[*key, *values] for key, values in self._found.items()])

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns of `identity_errors`, without the runs'."""
        names = ("identity", "layer", "n", "max_error", "scale")
        rows = [(*key, *values) for key, values in self._found.items()]
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}
