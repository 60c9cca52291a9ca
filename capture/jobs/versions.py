"""The versions of libraries that a run was made with: its manifest keeps all, its identity those that compute."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = ("trace-warehouse", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "duckdb", "safetensors")
_COMPUTING = ("torch", "transformers", "tokenizers")


def versions() -> dict[str, str]:
    """Return the versions of Python and of every library that makes a run, by name."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def computing_versions() -> dict[str, str]:
    """Return the versions of the libraries that values depend on: a run goes on only under the same ones."""
    return {name: version(name) for name in _COMPUTING}
