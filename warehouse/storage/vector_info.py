"""The JSON files beside vector tables: what is known of a table and its rows, and the checksums of its files."""

from __future__ import annotations

import contextlib
import stat
from base64 import b64encode
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from warehouse.errors import CorruptRunError, TracesError, UsageError
from warehouse.schema import sites
from warehouse.storage import paths
from warehouse.storage.field_types import Count, Layer, Site, Size
from warehouse.storage.objects import AnyPath
from warehouse.storage.sealed import SealedFile, StrictModel

METRICS = ("cosine", "l2", "dot")


_CENTRE = b"trace-warehouse:centre"
"""The key in a Lance table's metadata of its centre, float32 in base64, so that it changes with the vectors in one commit."""


class ModelFolder(SealedFile):
    """`model.json`: the model whose vectors the tables of a folder hold."""

    names: list[str]
    """The names that captures gave the model."""
    space: str
    """The hash of its weights without the head."""


class RunRows(StrictModel):
    """A run's rows in a table."""

    manifest: str
    """Hash of its run.json: a run that was replaced under the same name has another."""
    rows: Count
    last_seq: Count = 0
    """The highest `seq` among them."""


class IndexInfo(StrictModel):
    """A table's vector index, and how it is searched."""

    kind: Literal["ivf_sq", "ivf_pq"]
    metric: Literal["cosine", "l2", "dot"]
    trained_rows: Count
    """Rows of the table when the index was trained."""
    nprobes: Size = 0
    refine: Size = 0
    """This many times k candidates are compared again by their whole vectors."""
    recall: Annotated[float, Field(ge=0, le=1)] = 0.0
    """recall@10 on a sample of the table's rows, against exact search."""
    measured_rows: Count = 0
    """Rows of the table when recall was measured; `ann_index.trusted` says when that is too long ago."""


class FileChecksum(StrictModel):
    """The size and checksum of a file."""

    bytes: Count
    checksum: str
    """xxh3-128."""


class TableFiles(SealedFile):
    """`….files.json`: the sizes and checksums of a table's files when it was last changed."""

    files: dict[str, FileChecksum]
    """By path in the table's folder."""


class TableInfo(SealedFile):
    """What is known of a vector table."""

    sql_name: str
    """Its name in SQL, after `vectors_` and `nearest_`; always made of folder and table."""
    model: str
    """The folder's name."""
    space: str
    side: Literal["dec", "enc"]
    site: Site
    layer: Layer | None
    width: Size
    heads: Size | None
    """Rows a token has: the heads of that site; None: one row."""
    query_heads: Size
    dtype: Literal["float16", "float32"] = "float16"
    """float32 where a value is beyond float16."""
    centred: bool = False
    """Whether vectors are stored minus the median of the table: `VectorTable.centre`."""
    kind: Literal["auto", "none", "ivf_sq", "ivf_pq"] = "auto"
    """The index that the user chose; auto: none while the table is small, then ivf_sq."""
    metric: Literal["cosine", "l2", "dot"] = "cosine"
    """The metric that the user chose for the index."""
    runs: dict[str, RunRows] = Field(default_factory=dict)
    index: IndexInfo | None = None

    @property
    def name(self) -> str:
        """The table's name in its folder: that of its tensor."""
        return sites.tensor_name(self.side, self.site, self.layer)

    @property
    def rows(self) -> int:
        """The number of rows of all runs."""
        return sum(r.rows for r in self.runs.values())

    @property
    def head_column(self) -> str | None:
        """The column that tells a token's rows apart; None where a token has one row."""
        if self.heads is None:
            return None
        return "kv_head" if self.site.rpartition(".")[2] in ("k", "v") else "head"

    def stored_head(self, head: int) -> int:
        """Return the head column's value for a query head.

        Raises:
            UsageError: The site has no heads, or the model no such head.
        """
        if self.heads is None:
            raise UsageError(f"{self.site} has no heads.")
        n = max(self.query_heads, self.heads)
        if not 0 <= head < n:
            raise UsageError(f"head {head}: {self.model} has heads 0 to {n - 1}.")
        return head * self.heads // n

    def arrow_schema(self, centre: np.ndarray | None) -> pa.Schema:
        """Return the Arrow schema of the table's rows.

        Args:
            centre: The vector that was subtracted from all vectors, (width,), kept in the metadata; None: none was.

        Returns:
            The schema; `head` and `kv_head` are NULL where a token has one vector.
        """
        item = pa.float16() if self.dtype == "float16" else pa.float32()
        integers = ("seq", "pos", "layer", "head", "kv_head")
        columns = [
            ("run_id", pa.string()),
            ("example_id", pa.string()),
            *((name, pa.int64()) for name in integers),
            ("vector", pa.list_(item, self.width)),
        ]
        return pa.schema(
            columns, metadata={} if centre is None else {_CENTRE: b64encode(centre.astype("<f4").tobytes())}
        )


def read_info(root: AnyPath, model: str, table: str) -> TableInfo:
    """Read what is known of a vector table, and check that the file, which may have been copied in, is of this table.

    Args:
        root: The warehouse.
        model: The model's folder of vector tables.
        table: The table's name in that folder.

    Returns:
        What is known of the table.

    Raises:
        FileNotFoundError: The table has no info file.
        NewerSchemaError: A newer version of this package wrote it.
        TracesError: The table or its info is damaged; the message says what to do.
    """
    path = paths.vector_info_path(root, model, table)
    try:
        info = TableInfo.read_from(path)
        _check_no_links(paths.vector_lance_path(root, model, table))
        _check_is_of(info, path, model, table)
    except CorruptRunError as e:
        raise TracesError(f"{e} traces index rebuild makes the vector table again.") from None
    return info


def sound_infos(root: AnyPath) -> list[AnyPath]:
    """Return the info files of all vector tables that can be read."""
    infos = []
    for model, table in paths.vector_tables(root):
        with contextlib.suppress(TracesError, FileNotFoundError):
            read_info(root, model, table)
            infos.append(paths.vector_info_path(root, model, table))
    return infos


def _check_is_of(info: TableInfo, path: AnyPath, model: str, table: str) -> None:
    """Check that an info is of the table that it stands beside.

    Raises:
        CorruptRunError: It is of another.
    """
    if (info.model, info.name, info.sql_name) != (model, table, paths.sql_name(f"{model}_{table}")):
        raise CorruptRunError(f"{path} is of another table than {model}/{table}.")


def _check_no_links(path: AnyPath) -> None:
    """Check that a Lance table is made of files and folders: Lance writes and deletes through links, and waits for named pipes.

    Raises:
        CorruptRunError: Something else is in it.
    """
    for entry in (path, *path.rglob("*")) if isinstance(path, Path) else ():
        try:
            mode = entry.lstat().st_mode
        except FileNotFoundError:  # another process compacts the table
            continue
        if stat.S_ISLNK(mode):
            raise CorruptRunError(f"{entry} is a symbolic link, whose target the warehouse may not change.")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CorruptRunError(f"{entry} is neither a file nor a folder.")
