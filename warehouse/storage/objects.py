"""Places that a warehouse can lie in."""

from __future__ import annotations

from pathlib import Path

AnyPath = Path
"""A file or a folder of a warehouse, wherever the warehouse lies."""
