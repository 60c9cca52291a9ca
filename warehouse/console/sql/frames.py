"""Messages between the server and the processes that answer SQL: a length, and so many bytes.

In: a pipe. Out: an object of JSON, or the bytes that follow one.
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

_LENGTH = struct.Struct(">Q")


def write_frame(pipe: IO[bytes], body: bytes) -> None:
    """Write one message; OSError where the other side has gone."""
    pipe.write(_LENGTH.pack(len(body)))
    pipe.write(body)
    pipe.flush()


def write_object(pipe: IO[bytes], value: dict[str, Any]) -> None:
    """Write an object as one message; OSError where the other side has gone."""
    write_frame(pipe, json.dumps(value).encode())


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """Read one message; None where the other side has gone, within a message too."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = pipe.read(length)
    return body if len(body) == length else None


def read_object(pipe: IO[bytes]) -> dict[str, Any] | None:
    """Read an object; None where the other side has gone."""
    body = read_frame(pipe)
    value: dict[str, Any] | None = None if body is None else json.loads(body)
    return value
