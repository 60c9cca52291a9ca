"""How far work on a run is, as a job reports it to whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DerivedProgress:
    """How far a derivation is; the job calls back with it after every sequence."""

    run_id: str
    begun: int = 0
    """Sequences done."""
    tokens: int = 0
    resumed_tokens: int = 0
    """Tokens of those that an earlier process had done."""
