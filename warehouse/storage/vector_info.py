"""The info files beside vector tables: what is known of a table, and the checksums of its files."""

from __future__ import annotations

import contextlib
import stat
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from warehouse.errors import CorruptRunError, TracesError, UsageError
from warehouse.schema import sites
from warehouse.storage import paths
from warehouse.storage.manifest import Count, Layer, Site, Size
from warehouse.storage.sealed import SealedFile, StrictModel

if TYPE_CHECKING:
    pass


METRICS = ("cosine", "l2", "dot")


_CENTRE = b"trace-warehouse:centre"
"""Where in a Lance table's metadata its centre is, float32 in base64: it changes together with the vectors, in one commit."""


class ModelFolder(SealedFile):
    """`model.json`: whose vectors a folder's tables hold."""

    names: list[str]
    """What its captures called the model."""
    space: str
    """The hash of its weights, the head left out."""


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
    """So many times k candidates are compared again by their whole vectors."""
    recall: Annotated[float, Field(ge=0, le=1)] = 0.0
    """recall@10 on a sample of the table's rows, against exact search. Below `index.MIN_RECALL` the index is not used."""


class FileChecksum(StrictModel):
    bytes: Count
    checksum: str
    """xxh3-128."""


class TableFiles(SealedFile):
    """`….files.json`: what a table's files held when it was last changed."""

    files: dict[str, FileChecksum]
    """By path in the table's folder."""


class TableInfo(SealedFile):
    """What is known of a vector table."""

    sql_name: str
    """What SQL calls it, after `vectors_` and `nearest_`: made of folder and table, and never anything else."""
    model: str
    """The folder's name."""
    space: str
    side: Literal["dec", "enc"]
    site: Site
    layer: Layer | None
    width: Size
    heads: Size | None
    """Rows of a token: heads of that site; None: one."""
    query_heads: Size
    dtype: Literal["float16", "float32"] = "float16"
    """float32 where a value is beyond float16."""
    centred: bool = False
    """Whether vectors are stored less the median of the table: `VectorTable.centre`."""
    kind: Literal["auto", "none", "ivf_sq", "ivf_pq"] = "auto"
    """What index was asked for; auto: none while the table is small, then ivf_sq."""
    metric: Literal["cosine", "l2", "dot"] = "cosine"
    """The metric that it is to be of."""
    runs: dict[str, RunRows] = Field(default_factory=dict)
    index: IndexInfo | None = None

    @property
    def name(self) -> str:
        return sites.tensor_name(self.side, self.site, self.layer)

    @property
    def rows(self) -> int:
        return sum(r.rows for r in self.runs.values())

    @property
    def head_column(self) -> str | None:
        """The key that tells a token's rows apart."""
        if self.heads is None:
            return None
        return "kv_head" if self.site.rpartition(".")[2] in ("k", "v") else "head"

    def stored_head(self, head: int) -> int:
        """The head column's value for a query head. Raises UsageError where there is no such head."""
        if self.heads is None:
            raise UsageError(f"{self.site} has no heads.")
        n = max(self.query_heads, self.heads)
        if not 0 <= head < n:
            raise UsageError(f"head {head}: {self.model} has heads 0 to {n - 1}.")
        return head * self.heads // n

    def arrow_schema(self, centre: np.ndarray | None) -> pa.Schema:
        """A row's columns. `head` and `kv_head` are NULL where a token has one vector."""
        item = pa.float16() if self.dtype == "float16" else pa.float32()
        whole = ("seq", "pos", "layer", "head", "kv_head")
        columns = [
            ("run_id", pa.string()),
            ("example_id", pa.string()),
            *((name, pa.int64()) for name in whole),
            ("vector", pa.list_(item, self.width)),
        ]
        return pa.schema(
            columns, metadata={} if centre is None else {_CENTRE: b64encode(centre.astype("<f4").tobytes())}
        )


def read_info(root: Path, model: str, table: str) -> TableInfo:
    """What is known of the vector table in a folder. Its info may have been copied in: it must be of the table that it stands beside.

    Raises NewerSchemaError, FileNotFoundError, or TracesError with what to do.
    """
    path = paths.vector_info_path(root, model, table)
    try:
        info = TableInfo.read_from(path)
        _check_no_links(paths.vector_lance_path(root, model, table))
        if (info.model, info.name, info.sql_name) != (model, table, paths.sql_name(f"{model}_{table}")):
            raise CorruptRunError(f"{path} says that it is of another table than {model}/{table}.")
    except CorruptRunError as e:
        raise TracesError(f"{e} traces index rebuild makes the vector table again.") from None
    return info


def sound_infos(root: Path) -> list[Path]:
    """The infos of all vector tables that can be read."""
    found = []
    for model, table in paths.vector_tables(root):
        with contextlib.suppress(TracesError, FileNotFoundError):
            read_info(root, model, table)
            found.append(paths.vector_info_path(root, model, table))
    return found


def _check_no_links(path: Path) -> None:
    """Raises CorruptRunError for a Lance table with anything but files and folders in it: Lance writes and deletes through links, and
    waits without end for a named pipe.
    """
    for found in (path, *path.rglob("*")):
        try:
            mode = found.lstat().st_mode
        except FileNotFoundError:  # somebody is tidying
            continue
        if stat.S_ISLNK(mode):
            raise CorruptRunError(f"{found} is a symbolic link, whose target is not ours to change.")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CorruptRunError(f"{found} is neither a file nor a folder.")
