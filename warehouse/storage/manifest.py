"""run.json as a typed model: what a run is, what made it, and the checksum of every file in it.

Written last, so that a folder with a manifest is a complete run. Read by the store, the catalog's `runs` view (as plain
JSON: the names here are that view's) and `validate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import xxhash
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, FiniteFloat, model_validator

from warehouse.errors import CorruptRunError
from warehouse.schema.sites import Key
from warehouse.schema.tables import SCHEMA_VERSION, STORED
from warehouse.storage import paths
from warehouse.storage.files import file_checksum, read_file
from warehouse.storage.sealed import SealedFile, StrictModel

if TYPE_CHECKING:
    pass
from dataclasses import dataclass
from datetime import datetime

DERIVED = ("heads", "probe", "lens", "judge", "trait-vectors", "trait-evaluation", "trait-projection")
"""Kinds of runs that were made from others, without reading examples of their own."""


def _check_table(name: str) -> str:
    if name not in STORED:
        raise ValueError(f"there is no table {name!r}")
    return name


def _check_file_path(path: str) -> str:
    table = paths.table_of_file(path)
    if table is not None:
        _check_table(table)
    return path


Batches = Literal["padded", "one length", "one text"]
BATCHES: tuple[Batches, Batches, Batches] = ("padded", "one length", "one text")
"""What a capture's batches may hold: texts of any length, the shorter ones padded; texts of one length; one text."""

Count = Annotated[int, Field(ge=0, le=1 << 53)]
Size = Annotated[int, Field(ge=0, le=1 << 24)]
"""Of a model: layers, heads, widths."""
Layer = Annotated[int, Field(ge=0, lt=1 << 16)]
Site = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=80)]
TensorName = Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_.]*$", max_length=100)]
Dtype = Annotated[str, Field(pattern="^(F16|BF16|F32)$")]


class LayerAttention(StrictModel):
    """How one layer turns q and k into attention: softmax(softcap(scale · q·kᵀ)) over the positions it may see."""

    scale: FiniteFloat
    causal: bool = True
    window: Annotated[int, Field(ge=1, le=1 << 53)] | None = None
    """Tokens that a query sees, itself included, to the left, and where it is not causal to the right too; None: all."""
    softcap: Annotated[FiniteFloat, Field(gt=0)] | None = None
    sinks: list[FiniteFloat] | None = None
    """A score for each query head that takes part in the softmax and has no token: rows then sum to less than 1."""


class StackInfo(StrictModel):
    """The blocks that one side's tokens pass, and how its streams are to be read."""

    n_layers: Layer
    d_model: Size
    n_heads: Size
    """Query heads of the first layer with attention; 0: attention shows in none."""
    layer_heads: list[Size] | None = None
    """Query heads of each layer, 0 where attention does not show; None: those with attention have `n_heads`."""
    n_kv_heads: Size
    d_head: Size
    d_value: Size
    convention: Literal["pre-norm", "post-norm"] = "pre-norm"
    """post-norm: the block normalises after adding (BERT), and its streams are those after the norms."""
    parallel: bool = False
    """Attention and MLP are added to the stream at once (GPT-NeoX): resid.post_attn is resid.pre_attn + attn_out."""
    final_norm: bool = True
    """The last hidden state is normed, not the last block's output."""
    embeds: bool = True
    """transformers' `output_hidden_states` begin with what enters the first block, as `hidden` does; False: with what leaves it."""
    causal: bool = True
    attention: list[LayerAttention | None] | None = None
    """One entry a layer, None for one without attention; None for all: probabilities cannot be derived from q and k."""
    cross_attention: list[LayerAttention | None] | None = None
    """The same for a decoder's attention over the encoder's tokens."""
    attention_error: float | None = None
    """Largest difference, at loading, between the attention output and derived probabilities times v, relative to its size."""
    attention_tolerance: float | None = None
    """What it may be at most for attention to be derived."""
    missing: dict[str, str] = Field(default_factory=dict)
    """Sites that this model has not, in any layer or in some, and why."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        told = {"attention": self.attention, "cross_attention": self.cross_attention, "layer_heads": self.layer_heads}
        for name, layers in told.items():
            if layers is not None and len(layers) != self.n_layers:
                raise ValueError(f"{name} tells of {len(layers)} layers of {self.n_layers}")
        return self

    def heads_of(self, layer: int | None) -> int:
        """A layer's query heads."""
        return self.n_heads if self.layer_heads is None or layer is None else self.layer_heads[layer]


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
    untrained: list[str] = Field(default_factory=list)
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


class DataInfo(StrictModel):
    dataset: str
    config: str | None = None
    split: str | None = None
    source: str
    """Where it was read from, as asked for."""
    hash: str
    """xxh3-128 over every example's id and text, in order."""


class SiteInfo(StrictModel):
    """Stored tensors of one site, those of one row shape."""

    side: Literal["dec", "enc"] = "dec"
    site: Site
    layers: list[Layer | None]
    rows: Literal["token", "source", "sequence", "triangle", "square", "cross"] = "token"
    """What a row is, as `warehouse.schema.sites` says."""
    row_shape: list[Annotated[Size, Field(ge=1)]]
    dtype: Dtype
    promoted: dict[TensorName, Dtype] = Field(default_factory=dict)
    """Tensors with a value that `dtype` cannot hold, and the dtype they are stored in from the shard of the first such value on;
    shards before it may have `dtype`. A shard's own header tells, and `tensors.dtype` of every slice."""


class _Trait(BaseModel):
    """A trait's definition, as `capture.traits.definition` has it."""

    name: str
    instruction: list[dict[str, str]]
    questions: list[str]
    eval_prompt: str


class _OptionTypes(BaseModel):
    """Of what a run was made with, that which other jobs read: where it is there, it is of these types."""

    capture: str = ""
    index: str | None = None
    shard: Annotated[str, Field(pattern=r"^(\d{1,6}/\d{1,6})?$")] = ""
    target_column: str | None = None
    template: str | None = None
    chat: bool = False
    max_len: int | None = None
    prepend_bos: str = "auto"
    bos_id: int | None = None
    target: str | None = None
    trait: _Trait | str | None = None
    traits: list[str] = Field(default_factory=list)
    responses_run: dict[str, str] | str | None = None
    judge_run: dict[str, str | None] | str | None = None
    held_out_questions: dict[str, list[int]] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    threshold: float | None = None
    held_out: float = 0


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    found = _OptionTypes.model_validate(options)
    for name in ("responses_run", "judge_run", "held_out_questions"):
        of_trait = options.get(name)
        missing = [t for t in found.traits if t not in of_trait] if isinstance(of_trait, dict) else []
        if missing:
            raise ValueError(f"{name} tells nothing of {missing[0]}")
    return options


class Counts(StrictModel):
    examples: Count
    sequences: Count
    tokens: Count
    predictions: Count
    predicted_bytes: Count | None = None
    """UTF-8 bytes of the text that the predictions are of, as the view `sequence_losses` counts them; None: not known."""
    truncated: Count
    altered: Count = 0
    """Examples whose text the tokenizer changed before it cut it into tokens."""
    rows: dict[Annotated[str, AfterValidator(_check_table)], Count]
    """Rows of every table."""


class FileInfo(StrictModel):
    path: Annotated[str, AfterValidator(_check_file_path)]
    """In the run's folder."""
    bytes: Count
    checksum: str | None = None
    """xxh3-128 of a file. The blobs of a capture have none: every slice of them has its own, in `tensors`."""


def _check_tensor(model: ModelInfo, key: Key, shape: list[int], shapes: Mapping[Key, list[int]]) -> None:
    """Raises ValueError for a stored tensor that its model cannot have, and for queries that don't fit keys or sinks."""
    prefix, _, last = key.site.rpartition(".")
    if key.side != model.side and (key.side != "enc" or model.encoder is None):
        raise ValueError(f"{key.site} is of side {key.side}, which the model has not")
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
    run_id: str
    kind: str
    parents: list[str] = Field(default_factory=list)
    created_at: AwareDatetime
    seconds: float
    model: ModelInfo
    data: DataInfo
    options: Annotated[dict[str, Any], AfterValidator(_check_options)]
    store_dtype: Dtype
    batches: Batches | None = None
    """What batches held: fewer texts where what the model makes of one was seen to depend on the others. None for runs that no
    batches were read for."""
    sites: list[SiteInfo] = Field(default_factory=list)
    counts: Counts
    mean_loss: float | None = None
    perplexity: float | None = None
    bytes: Count
    files: list[FileInfo]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _check_tensors(self) -> Self:
        if twice := [path for path, n in Counter(f.path for f in self.files).items() if n > 1]:
            raise ValueError(f"files tells of {twice[0]} twice")
        shapes = {Key(s.side, s.site, layer): s.row_shape for s in self.sites for layer in s.layers}
        for key, shape in shapes.items():
            _check_tensor(self.model, key, shape, shapes)
        return self

    @property
    def captured(self) -> bool:
        """Whether a model read examples for it; else it was derived from another run, or tells of a training."""
        return self.kind != "finetune" and self.kind not in DERIVED

    def derive(
        self, kind: str, run_id: str, parents: list[str], options: dict[str, Any], published: StagedRun
    ) -> Manifest:
        """The manifest of a run that was made from this one and kin: their model and this one's data, and tables of its own.
        Blobs that no index tells of get their checksums here.
        """
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
                "batches": None,
                "sites": [],
                "counts": self.counts.model_copy(update={"rows": published.rows}),
                "mean_loss": None,
                "perplexity": None,
                "bytes": sum(f.bytes for f in files),
                "files": files,
            }
        )

    def option(self, name: str) -> Any:
        """What the run was made with, of the type that `_Options` says. Raises CorruptRunError where the manifest does not say."""
        if name not in self.options:
            raise CorruptRunError(f"Run '{self.run_id}' is damaged: its manifest has no option '{name}'.")
        return self.options[name]

    @property
    def file_infos(self) -> dict[str, FileInfo]:
        """By path."""
        return {f.path: f for f in self.files}

    def write(self, folder: Path) -> None:
        """Writes run.json into `folder`, whole or not at all."""
        self.write_to(folder / paths.MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads `folder`/run.json. Raises `NewerSchemaError`, or `CorruptRunError` where it is missing or is not what was written."""
        try:
            return cls.read_from(folder / paths.MANIFEST)
        except FileNotFoundError:
            raise CorruptRunError(f"{folder} is not a run: it has no {paths.MANIFEST}.") from None


def manifest_hash(root: Path, run_id: str) -> str:
    """Tells a run from another that has taken its name."""
    return xxhash.xxh3_128_hexdigest(read_file(paths.run_dir(root, run_id) / paths.MANIFEST))


@dataclass(frozen=True)
class StagedRun:
    """What the writer knows when the manifest is to be made."""

    folder: Path
    rows: dict[str, int]
    files: list[FileInfo]
    created_at: datetime
    seconds: float
    promoted: dict[str, str]
