"""run.json as a typed model: what a run is, what made it, and the checksum of every file in it.

Written last, so that a folder with a manifest is a complete run. Read by the store, the catalog's `runs` view (as plain
JSON: the names here are that view's) and `validate`.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from warehouse import layout
from warehouse.errors import CorruptRun, NewerSchema
from warehouse.files import file_checksum, write_atomically
from warehouse.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from warehouse.writer import Published

DERIVED = ("heads", "probe", "lens", "judge", "trait-vectors", "trait-evaluation", "trait-projection")
"""Kinds of runs that were made from others, without reading examples of their own."""


class _Typed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LayerAttention(_Typed):
    """How one layer turns q and k into attention: softmax(softcap(scale · q·kᵀ)) over the positions it may see."""

    scale: float
    causal: bool = True
    window: int | None = None
    """Tokens that a query sees, itself included, to the left, and where it is not causal to the right too; None: all."""
    softcap: float | None = None
    sinks: list[float] | None = None
    """A score for each query head that takes part in the softmax and has no token: rows then sum to less than 1."""


class StackInfo(_Typed):
    """The blocks that one side's tokens pass, and how its streams are to be read."""

    n_layers: int
    d_model: int
    n_heads: int
    """Query heads of the first layer with attention; 0: attention shows in none."""
    n_kv_heads: int
    d_head: int
    d_value: int
    convention: Literal["pre-norm", "post-norm"] = "pre-norm"
    """post-norm: the block normalises after adding (BERT), and its streams are those after the norms."""
    parallel: bool = False
    """Attention and MLP are added to the stream at once (GPT-NeoX): resid.post_attn is resid.pre_attn + attn_out."""
    final_norm: bool = True
    """The last hidden state is normed, not the last block's output."""
    causal: bool = True
    attention: list[LayerAttention | None] | None = None
    """One entry a layer, None for one without attention; None for all: probabilities cannot be derived from q and k."""
    cross_attention: list[LayerAttention | None] | None = None
    """The same for a decoder's attention over the encoder's tokens."""
    attention_error: float | None = None
    """Largest difference, at loading, between the attention output and derived probabilities times v, relative to its size."""
    attention_tolerance: float | None = None
    """What it may be at most for attention to be derived."""
    missing: dict[str, str] = {}
    """Sites that this model has not, in any layer or in some, and why."""


class ModelInfo(StackInfo):
    """A model; as a stack, its decoder, or the encoder of a model that has no decoder."""

    name: str
    """As asked for: short name, hub name, folder or file."""
    revision: str | None = None
    architecture: str
    weights_hash: str
    body_hash: str = ""
    """Of the weights without the head; not in manifests before schema version 4."""
    tokenizer_hash: str
    dtype: str
    device: str
    attn_implementation: str
    trust_remote_code: bool = False
    untrained: list[str] = []
    """Weights that the checkpoint lacked, and that are random."""
    vocab_size: int
    window: int | None = None
    """Longest sequence the model was made for, tokens."""
    side: Literal["dec", "enc"] = "dec"
    encoder: StackInfo | None = None
    """An encoder-decoder's encoder."""

    @property
    def space(self) -> str:
        """Vectors of models with the same one can be compared."""
        return self.body_hash or self.weights_hash

    def stack(self, side: str) -> StackInfo:
        """Raises KeyError for a side that the model has not."""
        if side == self.side:
            return self
        if self.encoder is None or side != "enc":
            raise KeyError(side)
        return self.encoder


class DataInfo(_Typed):
    dataset: str
    config: str | None = None
    split: str | None = None
    source: str
    """Where it was read from, as asked for."""
    hash: str
    """xxh3-128 over every example's id and text, in order."""


class SiteInfo(_Typed):
    """Stored tensors of one site, those of one row shape."""

    side: Literal["dec", "enc"] = "dec"
    site: str
    layers: list[int | None]
    rows: Literal["token", "source", "sequence", "triangle", "square", "cross"] = "token"
    """What a row is, as `warehouse.sites` says."""
    row_shape: list[int]
    dtype: str
    promoted: dict[str, str] = {}
    """Tensors with a value that `dtype` cannot hold, and the dtype they are stored in from the shard of the first such value on;
    shards before it may have `dtype`. A shard's own header tells, and `tensors.dtype` of every slice."""


class Counts(_Typed):
    examples: int
    sequences: int
    tokens: int
    predictions: int
    truncated: int
    altered: int = 0
    """Examples whose text the tokenizer changed before it cut it into tokens."""
    rows: dict[str, int]
    """Rows of every table."""


class FileInfo(_Typed):
    path: str
    bytes: int
    checksum: str | None = None
    """xxh3-128 of a file. The blobs of a capture have none: every slice of them has its own, in `tensors`."""


class Manifest(_Typed):
    schema_version: int = SCHEMA_VERSION
    run_id: str
    kind: str
    parents: list[str] = []
    created_at: datetime
    seconds: float
    model: ModelInfo
    data: DataInfo
    options: dict[str, Any]
    store_dtype: str
    sites: list[SiteInfo] = []
    counts: Counts
    mean_loss: float | None = None
    perplexity: float | None = None
    bytes: int
    files: list[FileInfo]
    versions: dict[str, str]

    @property
    def captured(self) -> bool:
        """Whether a model read examples for it; else it was derived from another run, or tells of a training."""
        return self.kind != "finetune" and self.kind not in DERIVED

    def derived(
        self, kind: str, run_id: str, parents: list[str], options: dict[str, Any], published: Published
    ) -> Manifest:
        """The manifest of a run that was made from this one and kin: their model and this one's data, and tables of its own.
        Blobs that no index tells of get their checksums here."""
        files = [
            f if f.checksum else f.model_copy(update={"checksum": file_checksum(published.folder / f.path)})
            for f in published.files
        ]
        return self.model_copy(
            update={
                "schema_version": SCHEMA_VERSION,
                "run_id": run_id,
                "kind": kind,
                "parents": parents,
                "created_at": published.created_at,
                "seconds": published.seconds,
                "options": options,
                "sites": [],
                "counts": self.counts.model_copy(update={"rows": published.rows}),
                "mean_loss": None,
                "perplexity": None,
                "bytes": sum(f.bytes for f in files),
                "files": files,
            }
        )

    def write(self, folder: Path) -> None:
        """Writes run.json into `folder`, whole or not at all."""
        write_atomically(folder / layout.MANIFEST, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads `folder`/run.json. Raises `NewerSchema`, or `CorruptRun` where it is missing or is not a manifest."""
        path = folder / layout.MANIFEST
        try:
            raw = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise CorruptRun(f"{folder} is not a run: it has no {layout.MANIFEST}.") from None
        except ValueError as e:
            raise CorruptRun(f"{path} is not valid JSON ({e}).") from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerSchema(path, version, SCHEMA_VERSION)
        try:
            return cls.model_validate(raw)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise CorruptRun(f"{path} is not a manifest: {where}: {first['msg']}.") from None
