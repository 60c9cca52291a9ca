"""run.json as a typed model: what a run is, what made it, and the checksum of every file in it.

It is written last, so that a folder with a manifest is a complete run. Readers are `TraceStore`, `validate`, and the
catalog's `runs` view, which reads it as plain JSON by the field names here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import xxhash
from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from warehouse.errors import CorruptRunError
from warehouse.schema.sites import Key
from warehouse.schema.tables import SCHEMA_VERSION, STORED
from warehouse.storage import paths
from warehouse.storage.field_types import Count, Dtype, Layer, Site, Size, TensorName
from warehouse.storage.files import file_checksum, read_file
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_options import check_options
from warehouse.storage.sealed import SealedFile, StrictModel

DERIVED = (
    "heads", "probe", "lens", "judge", "trait-vectors", "trait-evaluation", "trait-projection", "ablation", "patching", "influence",
    "comparison", "circuit", "circuit-evaluation", "features", "features-evaluation", "features-associations",
)  # fmt: skip
"""Kinds of runs that were made from others, without reading examples of their own."""


def _check_table(name: str) -> str:
    """Return the name of a stored table.

    Raises:
        ValueError: There is no such table.
    """
    if name not in STORED:
        raise ValueError(f"there is no table {name!r}")
    return name


def _check_file_path(path: str) -> str:
    """Return the path of a file in a run's folder; raise ValueError for any other path."""
    table = paths.table_of_file(path)
    if table is not None:
        _check_table(table)
    return path


Batches = Literal["padded", "one length", "one text"]
BATCHES: tuple[Batches, Batches, Batches] = ("padded", "one length", "one text")
"""What a capture's batches may hold: texts of any length, the shorter ones padded; texts of one length; one text."""


class DataInfo(StrictModel):
    """The data that a run read."""

    dataset: str
    config: str | None = None
    split: str | None = None
    source: str
    """Where it was read from, as the user named it."""
    hash: str
    """xxh3-128 over every example's id and text, in order."""


class SiteInfo(StrictModel):
    """The stored tensors of one site that have one row shape."""

    side: Literal["dec", "enc"] = "dec"
    site: Site
    layers: list[Layer | None]
    rows: Literal["token", "source", "sequence", "triangle", "square", "cross"] = "token"
    """What a row is, as `warehouse.schema.sites` names it."""
    row_shape: list[Annotated[Size, Field(ge=1)]]
    dtype: Dtype
    """As safetensors names it; I8: int8 codes (`warehouse.storage.int8`), which are read as float32."""
    promoted: dict[TensorName, Dtype] = Field(default_factory=dict)
    """Tensors with a value that `dtype` cannot hold, and the dtype that they are stored in from the shard of the first such
    value on; shards before it may have `dtype`. A shard's own header has the dtype, and `tensors.dtype` of every slice. A coded
    tensor stays coded: what its codes cannot hold is then of this dtype."""


class Counts(StrictModel):
    """How much a run holds."""

    examples: Count
    sequences: Count
    tokens: Count
    predictions: Count
    predicted_bytes: Count | None = None
    """UTF-8 bytes of the predicted text, as the view `sequence_losses` counts them; None: not known."""
    truncated: Count
    altered: Count = 0
    """Examples whose text the tokenizer changed before cutting it into tokens."""
    rows: dict[Annotated[str, AfterValidator(_check_table)], Count]
    """Rows of every table."""


class Expired(StrictModel):
    """What became of a run whose tensors were deleted, while its rows stay (`traces runs expire`)."""

    at: AwareDatetime
    manifest: str
    """The hash of the manifest that it had before: runs that were made from it know it by that."""


class FileInfo(StrictModel):
    """A file of a run."""

    path: Annotated[str, AfterValidator(_check_file_path)]
    """In the run's folder."""
    bytes: Count
    checksum: str | None = None
    """xxh3-128. The safetensors files of a capture have none: every sequence in them has its own, in `tensors`."""


def _check_tensor(model: ModelInfo, key: Key, shape: list[int], shapes: Mapping[Key, list[int]]) -> None:
    """Check that a model can have a stored tensor, and that queries fit keys and sinks.

    Args:
        model: The model.
        key: The tensor.
        shape: The shape of its rows.
        shapes: The shape of the rows of all stored tensors.

    Raises:
        ValueError: It does not fit.
    """
    prefix, _, last = key.site.rpartition(".")
    if key.side != model.side and (key.side != "enc" or model.encoder is None):
        raise ValueError(f"{key.site} is of side {key.side}, which the model does not have")
    stack = model.stack(key.side)
    if key.layer is not None and not key.layer < stack.n_layers + (key.site == "hidden"):
        raise ValueError(f"{key.site} is of layer {key.layer}; the model has {stack.n_layers}")
    if len(shape) != (2 if last in ("q", "k", "v") else 1):
        raise ValueError(f"{key.site} has rows of shape {shape}")
    keys = shapes.get(key._replace(site=f"{prefix}.k".lstrip(".")))
    if last != "q" or key.layer is None:
        return
    if keys and (keys[1:] != shape[1:] or shape[0] % keys[0]):
        raise ValueError(f"layer {key.layer} has {key.site} of shape {shape} and keys of shape {keys}")
    formulas = stack.cross_attention if prefix else stack.attention
    formula = formulas[key.layer] if formulas else None
    if formula and formula.sinks is not None and len(formula.sinks) != shape[0]:
        raise ValueError(f"layer {key.layer} has {len(formula.sinks)} sinks for {shape[0]} heads")


class Manifest(SealedFile):
    """run.json of a run."""

    run_id: str
    kind: str
    parents: list[str] = Field(default_factory=list)
    created_at: AwareDatetime
    seconds: float
    model: ModelInfo
    data: DataInfo
    options: Annotated[dict[str, Any], AfterValidator(check_options)]
    store_dtype: Dtype
    batches: Batches | None = None
    """What batches held: fewer texts where the model's output for one was seen to depend on the others. None for runs without
    batches."""
    sites: list[SiteInfo] = Field(default_factory=list)
    counts: Counts
    mean_loss: float | None = None
    perplexity: float | None = None
    bytes: Count
    files: list[FileInfo]
    versions: dict[str, str]
    expired: Expired | None = None
    """When its tensors were deleted, so that `sites` is empty; None: they were not."""

    @model_validator(mode="after")
    def _check_tensors(self) -> Self:
        """Check that no file is listed twice and that the model can have every stored tensor.

        Returns:
            This manifest.

        Raises:
            ValueError: It is not so.
        """
        if twice := [path for path, n in Counter(f.path for f in self.files).items() if n > 1]:
            raise ValueError(f"files lists {twice[0]} twice")
        shapes = {Key(s.side, s.site, layer): s.row_shape for s in self.sites for layer in s.layers}
        for key, shape in shapes.items():
            _check_tensor(self.model, key, shape, shapes)
        return self

    @property
    def captured(self) -> bool:
        """Whether a model read examples for it; else it was derived from other runs, or is of a training."""
        return self.kind != "finetune" and self.kind not in DERIVED

    def derive(
        self, kind: str, run_id: str, parents: list[str], options: dict[str, Any], staged: StagedRun
    ) -> Manifest:
        """Make the manifest of a run that was derived from this one, and perhaps from others of the same model.

        Safetensors files get their checksums here, since no tensor index has any.

        Args:
            kind: The kind of the derived run.
            run_id: Its name.
            parents: The runs that it was made from.
            options: What it was made with.
            staged: Its files, rows and times.

        Returns:
            A manifest with this run's model and data.
        """
        files = [
            f
            if f.checksum
            else f.model_copy(
                update={"checksum": staged.checksums.get(f.path) or file_checksum(staged.folder / f.path)}
            )
            for f in staged.files
        ]
        return self.model_copy(
            update={
                "schema_version": SCHEMA_VERSION,
                "run_id": run_id,
                "kind": kind,
                "parents": parents,
                "created_at": staged.created_at,
                "seconds": staged.seconds,
                "options": options,
                "batches": None,
                "sites": [],
                "expired": None,
                "counts": self.counts.model_copy(update={"rows": staged.rows}),
                "mean_loss": None,
                "perplexity": None,
                "bytes": sum(f.bytes for f in files),
                "files": files,
            }
        )

    def option(self, name: str) -> Any:
        """Return an option that the run was made with, of the type that `run_options` says.

        Raises:
            CorruptRunError: The manifest has no such option.
        """
        if name not in self.options:
            raise CorruptRunError(f"Run '{self.run_id}' is damaged: its manifest has no option '{name}'.")
        return self.options[name]

    @property
    def file_infos(self) -> dict[str, FileInfo]:
        """The run's files by their paths in its folder."""
        return {f.path: f for f in self.files}

    def write(self, folder: AnyPath) -> None:
        """Write run.json into `folder`, whole or not at all."""
        self.write_to(folder / paths.MANIFEST)

    @classmethod
    def read(cls, folder: AnyPath) -> Manifest:
        """Read run.json of a run's folder.

        Args:
            folder: The run's folder.

        Returns:
            The manifest.

        Raises:
            CorruptRunError: It is missing or is not what was written.
            NewerSchemaError: A newer version of this package wrote it.
        """
        try:
            return cls.read_from(folder / paths.MANIFEST)
        except FileNotFoundError:
            raise CorruptRunError(f"{folder} is not a run: it has no {paths.MANIFEST}.") from None


def manifest_hash(root: AnyPath, run_id: str) -> str:
    """Return the hash of a run's manifest, which tells the run from another that has taken its name."""
    return folder_manifest_hash(paths.run_dir(root, run_id))


def folder_manifest_hash(folder: AnyPath) -> str:
    """Return what `manifest_hash` returns of a run in any folder: it stays the same where the run's tensors expire."""
    raw = read_file(folder / paths.MANIFEST)
    if b'"expired": {' in raw and (expired := Manifest.read(folder).expired) is not None:
        return expired.manifest
    return xxhash.xxh3_128_hexdigest(raw)


@dataclass(frozen=True)
class StagedRun:
    """A run that is complete but for its manifest: what the writer knows of it."""

    folder: Path
    rows: dict[str, int]
    """The number of rows of every table."""
    files: list[FileInfo]
    created_at: datetime
    seconds: float
    """Time spent on it, all processes together."""
    promoted: dict[str, str]
    """Tensors (by name) with a value that their dtype cannot hold, and the dtype that they are stored in."""
    checksums: dict[str, str] = field(default_factory=dict)
    """The xxh3-128 of safetensors files, by path, that are in an object store and no longer in `folder`."""
