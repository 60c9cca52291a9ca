"""What a manifest says of the model: its layers, how they attend, and the hashes that tell its weights from others.

`capture` fills these in from a loaded model. `TraceStore` reads them to derive attention and hidden states from what is
stored, and to say why a site is missing.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from warehouse.storage.field_types import Layer, Size
from warehouse.storage.sealed import StrictModel


class LayerAttention(StrictModel):
    """How one layer turns q and k into attention: softmax(softcap(scale · q·kᵀ)) over the positions it may see."""

    scale: FiniteFloat
    causal: bool = True
    window: Annotated[int, Field(ge=1, le=1 << 53)] | None = None
    """Tokens that a query sees to the left, itself included, and as many to the right unless it is causal; None: all."""
    softcap: Annotated[FiniteFloat, Field(gt=0)] | None = None
    sinks: list[FiniteFloat] | None = None
    """A score for each query head that takes part in the softmax and has no token: rows then sum to less than 1."""


class StackInfo(StrictModel):
    """The blocks that the tokens of one side pass through, and how to read its streams."""

    n_layers: Layer
    d_model: Size
    n_heads: Size
    """Query heads of the first layer with attention that can be recorded; 0: there is none."""
    layer_heads: list[Size] | None = None
    """Query heads of each layer, 0 where attention cannot be recorded; None: every layer with attention has `n_heads`."""
    n_kv_heads: Size
    d_head: Size
    d_value: Size
    convention: Literal["pre-norm", "post-norm"] = "pre-norm"
    """post-norm: the block normalises after adding (BERT), and its streams are those after the norms."""
    parallel: bool = False
    """Attention and MLP are added to the stream at once (GPT-NeoX): resid.post_attn is resid.pre_attn + attn_out."""
    final_norm: bool = True
    """Whether the last hidden state is the last block's output after a norm."""
    embeds: bool = True
    """Whether transformers' `output_hidden_states` begin with what enters the first block, as `hidden` does, not with its output."""
    causal: bool = True
    attention: list[LayerAttention | None] | None = None
    """One entry a layer, None for one without attention; None for all: probabilities cannot be derived from q and k."""
    cross_attention: list[LayerAttention | None] | None = None
    """As `attention`, for a decoder's attention over the encoder's tokens."""
    attention_error: float | None = None
    """Largest difference, at loading, between the attention output and derived probabilities times v, relative to its size."""
    attention_tolerance: float | None = None
    """The largest `attention_error` with which attention is derived."""
    missing: dict[str, str] = Field(default_factory=dict)
    """Sites that this model lacks, in every layer or in some, and why."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        """Check that every list has an entry a layer.

        Returns:
            This stack.

        Raises:
            ValueError: One has not.
        """
        lists = {"attention": self.attention, "cross_attention": self.cross_attention, "layer_heads": self.layer_heads}
        for name, layers in lists.items():
            if layers is not None and len(layers) != self.n_layers:
                raise ValueError(f"{name} has {len(layers)} layers of {self.n_layers}")
        return self

    def heads_of(self, layer: int | None) -> int:
        """Return a layer's number of query heads."""
        return self.n_heads if self.layer_heads is None or layer is None else self.layer_heads[layer]


class ModelInfo(StackInfo):
    """A model; as a stack, its decoder, or the encoder of a model that has no decoder."""

    name: str
    """As the user named it: short name, hub name, folder or file."""
    revision: str | None = None
    architecture: str
    weights_hash: str
    body_hash: str = ""
    """The hash of the weights without the head; not in manifests before schema version 4."""
    tokenizer_hash: str
    dtype: str
    device: str
    attn_implementation: str
    trust_remote_code: bool = False
    untrained: list[str] = Field(default_factory=list)
    """Weights that the checkpoint lacks, so that they are random."""
    vocab_size: int
    window: int | None = None
    """Longest sequence the model was made for, tokens."""
    side: Literal["dec", "enc"] = "dec"
    encoder: StackInfo | None = None
    """An encoder-decoder's encoder."""

    @property
    def space(self) -> str:
        """The hash of the space of its vectors: those of two models with the same one can be compared."""
        return self.body_hash or self.weights_hash

    def stack(self, side: str) -> StackInfo:
        """Return the stack of a side.

        Raises:
            KeyError: The model does not have that side.
        """
        if side == self.side:
            return self
        if self.encoder is None or side != "enc":
            raise KeyError(side)
        return self.encoder
