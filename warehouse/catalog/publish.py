"""Publishing of a run that a writer has staged: it becomes a run of the warehouse, and the views show it."""

from __future__ import annotations

from collections.abc import Callable

import duckdb

from warehouse.catalog.build import refresh
from warehouse.catalog.listed import list_run
from warehouse.errors import TracesError, first_line
from warehouse.storage.manifest import Manifest, StagedRun
from warehouse.storage.objects import ObjectPath
from warehouse.storage.run_writer import RunWriter


def publish(writer: RunWriter, describe: Callable[[StagedRun], Manifest]) -> Manifest:
    """Publish a run and refresh the views.

    Args:
        writer: The writer, whose shards are all complete; it raises as its `publish` says.
        describe: Makes the manifest from what the writer knows of the run.

    Returns:
        The manifest.

    Raises:
        TracesError: The run is published, and the views could not be written.
    """
    manifest = writer.publish(describe)
    try:
        if isinstance(writer.root, ObjectPath):
            list_run(writer.root, manifest)
        refresh(writer.root)
    except (OSError, duckdb.Error) as e:
        raise TracesError(
            f"Run '{manifest.run_id}' is published, and the views do not show it yet: {first_line(e)}. Afterwards: traces refresh"
        ) from None
    return manifest
