"""Which versions a capture ran under: the manifest keeps them."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = ("trace-warehouse", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "duckdb", "safetensors")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
