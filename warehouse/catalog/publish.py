"""Publishes a run that a writer has staged, and puts it into the views: a commit goes through the catalog."""

from __future__ import annotations

from collections.abc import Callable

from warehouse.catalog.build import refresh
from warehouse.storage.manifest import Manifest, StagedRun
from warehouse.storage.run_writer import RunWriter


def publish(writer: RunWriter, describe: Callable[[StagedRun], Manifest]) -> Manifest:
    """Publishes the run, with the manifest that `describe` makes, and refreshes the views. Raises as `RunWriter.publish` does."""
    manifest = writer.publish(describe)
    refresh(writer.root)
    return manifest
