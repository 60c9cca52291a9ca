"""JSON from outside: what parses here can be stored, printed and written as JSON again.

`json.loads` accepts more than that: half of a surrogate pair, which is not text, and brackets nested so deep that walking the
result runs out of stack.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MAX_DEPTH = 100
"""Brackets within brackets. Parsers elsewhere stop at 64 to 1,000."""


def parse(raw: bytes | str, *, repair: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        raw: The text, or its bytes in UTF-8.
        repair: Whether halves of surrogate pairs become U+FFFD instead of an error.

    Returns:
        Its value; NaN and infinities, which JSON does not have, are floats.

    Raises:
        ValueError: It is not UTF-8, not JSON, nested more than `MAX_DEPTH` deep, or holds a string that is not Unicode text.
            The message can follow a colon.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        value = json.loads(text)
    except UnicodeDecodeError as e:
        raise ValueError(f"it is not UTF-8 ({e.reason} at byte {e.start})") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"{e.msg} at line {e.lineno}, column {e.colno}") from None
    except ValueError:
        raise ValueError(f"it holds a number of more than {sys.get_int_max_str_digits():,} digits") from None
    if _depth(value) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if half := half_pair(text) or (half_pair(json.dumps(value, ensure_ascii=False)) if "\\u" in text else None):
        if repair:
            return json.loads(_repaired(json.dumps(value, ensure_ascii=False)))
        at = _half_pair_at(value)
        place = f" (at {at.encode('utf-8', 'backslashreplace').decode()!r})" if at else ""
        raise ValueError(f"it holds {half}, half of a surrogate pair, which is not Unicode text{place}")
    return value


def half_pair(text: str) -> str | None:
    r"""Return the first character of `text` that is half of a surrogate pair, as `\ud800`; None for Unicode text."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        return f"\\u{ord(text[e.start]):04x}"
    return None


def _half_pair_at(value: Any, path: str = "") -> str | None:
    """Return the path to the first string that is not Unicode text, as `prompts.0.text`; None where there is none."""
    if isinstance(value, str):
        return path if half_pair(value) else None
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        inner_path = f"{path}.{key}" if path else str(key)
        if half_pair(str(key)):
            return inner_path
        if (deeper := _half_pair_at(inner, inner_path)) is not None:
            return deeper
    return None


def _repaired(text: str) -> str:
    """Return a text with U+FFFD for halves of surrogate pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def finite(value: Any) -> Any:
    """Return a value with None for NaN and infinities, in lists and dicts too: JSON has neither."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def _depth(value: Any) -> int:
    """Count brackets within brackets, without recursion, up to just beyond `MAX_DEPTH`."""
    depth, level = 0, [value]
    while depth <= MAX_DEPTH:
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return depth
        depth += 1
        level = [x for v in level for x in (v.values() if isinstance(v, dict) else v)]
    return depth
