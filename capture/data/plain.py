"""Converts values of data sets to JSON's, so that any parser can read what is kept of a row.

Columns hold more than JSON can say: dates, decimals, bytes, maps, NaN. Each becomes the nearest thing that JSON has.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterable
from typing import Any

from warehouse.storage.strict_json import MAX_DEPTH, finite


def plain(value: Any, depth: int = 0) -> Any:
    """Convert a value to texts, numbers, booleans, None, lists, and dicts with texts as keys.

    NaN and infinities become None; dates and times ISO 8601; bytes the text that they are in UTF-8, else base64. What Arrow calls
    a map, a list of pairs, becomes a dict, unless two of its keys are the same as text. Anything else becomes its `str`.

    Args:
        value: Any value.
        depth: How deep it is nested in the value that is converted.

    Returns:
        The converted value.

    Raises:
        ValueError: The value is nested more than `MAX_DEPTH` deep.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return finite(value)
    if depth >= MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        if all(isinstance(k, str) for k in value):
            return {k: plain(v, depth + 1) for k, v in value.items()}
        return _object(value.items(), depth + 1)
    if isinstance(value, list | tuple | set):
        if value and all(isinstance(x, tuple) and len(x) == 2 for x in value):
            return _object(value, depth + 1)
        return [plain(x, depth + 1) for x in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    return str(value)


def _object(pairs: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any] | list[Any]:
    converted = [(plain(k, depth), plain(v, depth)) for k, v in pairs]
    keys = [k if isinstance(k, str) else json.dumps(k, ensure_ascii=False) for k, _ in converted]
    if len(set(keys)) < len(keys):
        return [list(pair) for pair in converted]
    return dict(zip(keys, (v for _, v in converted), strict=True))
