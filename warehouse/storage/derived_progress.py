"""The progress of work on a run, as a job reports it to the command that shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DerivedProgress:
    """The progress of a derivation; the job calls back with it after every sequence."""

    run_id: str
    begun: int = 0
    """Sequences done."""
    tokens: int = 0
    resumed_tokens: int = 0
    """Tokens of those that an earlier process had done."""
