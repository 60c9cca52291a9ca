"""Which command, or function of Python, makes which kind of captured run, for messages that recommend capturing a run again."""

from __future__ import annotations

_OWN = {
    "intervened": "capture.next_token_under",
    "task": "traces task prepare",
    "trait-responses": "traces trait respond",
    "trait-steering": "traces trait steer",
}


def capture_command(kind: str) -> str:
    """Return the command that makes runs of a kind."""
    return _OWN.get(kind, f"traces capture {kind}")
