"""Traces at rest: a warehouse of runs, read without torch or transformers.

>>> from warehouse import Warehouse, TraceStore
>>> wh = Warehouse("runs")                         # doctest: +SKIP
>>> wh.sql("SELECT * FROM runs").df()              # doctest: +SKIP
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warehouse.on_spark.register import spark
    from warehouse.storage.trace_store import TraceStore
    from warehouse.warehouse import Warehouse

__all__ = ["TraceStore", "Warehouse", "__version__", "spark"]

try:
    __version__ = version("trace-warehouse")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

_MODULES = {
    "Warehouse": "warehouse.warehouse",
    "TraceStore": "warehouse.storage.trace_store",
    "spark": "warehouse.on_spark.register",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that `import warehouse` alone costs nothing.

    Returns:
        What has that name.

    Raises:
        AttributeError: The package has no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'warehouse' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
