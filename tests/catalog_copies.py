"""New warehouses that begin with a copy of an empty catalog, where a test is not about how a catalog is made.

Writing all views into an empty file takes half a second, which most tests would pay for a warehouse of their own. The first new
catalog of a process is written like that; later ones go on from a copy of it, as a refresh goes on from the catalog that is there.
tests/warehouse/catalog/test_copies.py holds both equal.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from warehouse.catalog import build
from warehouse.catalog.survey import Survey
from warehouse.storage import paths


@contextmanager
def copied_catalogs(folder: Path) -> Iterator[None]:
    """Within, catalogs of new warehouses begin with a copy of the one that is made in `folder`."""
    write = build._copy_catalog
    empty = folder / "runs"

    def copy(path: Path, root: Path) -> Any:
        known: Survey = {}
        if root == empty or paths.catalog_path(root).is_file():
            con, known = write(path, root)
            if root == empty or build._made_from(con, "state") is not None:
                return con, known
            con.close()
            path.unlink()
        if not empty.is_dir():
            empty.mkdir(parents=True)
            build.refresh(empty)
        shutil.copyfile(empty / paths.CATALOG, path)
        return build.attach(str(path), root), known

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_copy_catalog", copy)
        yield
