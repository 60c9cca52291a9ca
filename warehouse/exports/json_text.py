"""Values as JSON, fast: numpy arrays as they are, float32 with the fewest digits that give it back, NaN and infinities as null."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def to_json(value: Any, *, indent: bool = False) -> bytes:
    """Return a value as JSON in UTF-8; numpy arrays in it must be contiguous."""
    return orjson.dumps(value, option=_NUMPY | (orjson.OPT_INDENT_2 if indent else 0))


def number_texts(values: np.ndarray) -> list[bytes]:
    """Return the JSON of every number of an array (n,)."""
    return orjson.dumps(np.ascontiguousarray(values), option=_NUMPY)[1:-1].split(b",") if len(values) else []
