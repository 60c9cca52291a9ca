"""All vector tables of a warehouse, kept open from one search to the next.

In: a warehouse's root. Out: its `VectorTable`s, sorted by model, side, site and layer. `Warehouse` keeps one cache; commands that look
at all tables once call `all_tables`.
"""

from __future__ import annotations

import threading
import warnings

from warehouse.errors import LeftOutWarning, TracesError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.vector_info import read_info
from warehouse.vectors.table import VectorTable


class VectorTableCache:
    """The vector tables of a warehouse, kept open from one search to the next, and opened again when they have changed."""

    def __init__(self, root: AnyPath) -> None:
        self._root = root
        self._known: dict[tuple[str, str], tuple[tuple[int, int], VectorTable]] = {}
        self._lock = threading.Lock()
        self.damaged: dict[tuple[str, str], TracesError] = {}
        """Tables that cannot be read, by model and name, and what is wrong with them."""

    def readable(self) -> list[VectorTable]:
        """Return the tables as `all` does, and warn of each that cannot be read."""
        with self._lock:
            tables = self.all()
        for damage in list(self.damaged.values()):
            warnings.warn(f"a vector table is left out: {damage}", LeftOutWarning, stacklevel=4)
        return tables

    def all(self) -> list[VectorTable]:
        """Return the tables as they are now, by model, site and layer."""
        now: dict[tuple[str, str], tuple[tuple[int, int], VectorTable]] = {}
        self.damaged = {}
        for name in paths.vector_tables(self._root):
            path = paths.vector_info_path(self._root, *name)
            try:
                stat = path.stat()
                state, known = (stat.st_mtime_ns, stat.st_ino), self._known.get(name)
                now[name] = (
                    known
                    if known and known[0] == state
                    else (state, VectorTable(self._root, read_info(self._root, *name)))
                )
            except FileNotFoundError:  # dropped in this moment
                continue
            except TracesError as e:
                self.damaged[name] = e
        self._known = now
        tables = [table for _, table in now.values()]
        return sorted(tables, key=lambda t: (t.info.model, t.info.side, t.info.site, t.info.layer or 0))


def all_tables(root: AnyPath) -> list[VectorTable]:
    """Return every vector table that can be read, by model, site and layer."""
    return VectorTableCache(root).all()
