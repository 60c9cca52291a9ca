"""Where the small files are that tests read."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
