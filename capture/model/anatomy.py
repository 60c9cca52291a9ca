"""What a model is made of, as `examine` finds it: its layers, where each of their sites is, and how they attend.

An `Anatomy` has a `Stack` for each side, and a stack has `Layer`s. A layer says for every site the shape of a row and the hook
point that the recorder takes it at, and how attention follows from q and k. Callers: `recording` plans and hooks by it,
`model_info` writes it into the manifest, `jobs` and `verification` ask it what a model has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from capture.model.body import Body
from capture.model.residual_stream import HookPoint
from warehouse.storage.model_info import LayerAttention


@dataclass(frozen=True)
class Layer:
    """One block, and where each of its sites is found."""

    block: nn.Module
    """A module may be the block of several layers (ALBERT's)."""
    shapes: Mapping[str, tuple[int, ...]]
    """Site → the shape of one row, for every site of this layer."""
    hook_points: Mapping[str, HookPoint]
    """Site → hook point, for each site that is a module's input or output."""
    attention: nn.Module | None = None
    """The module that calls the attention interface over its side's own tokens; None where none does."""
    cross_attention: nn.Module | None = None
    """The module that calls it over the encoder's tokens; None where none does."""
    parallel: bool = False
    """Attention and MLP are added at once."""
    formula: LayerAttention | None = None
    """How q and k become attention; None where derived probabilities don't reproduce the model's."""
    cross_formula: LayerAttention | None = None
    """How cross.q and cross.k become attention over the encoder's tokens."""


@dataclass(frozen=True)
class Stack:
    """The blocks that one side's tokens pass."""

    side: str
    layers: tuple[Layer, ...]
    width: tuple[int, ...]
    """The shape of a token's row of the residual stream: (D,), with more dimensions where the model has several streams."""
    last_width: tuple[int, ...]
    """The shape of a token's row of the last hidden state, which some models project."""
    time_first: bool
    """Blocks exchange (T, B, D), not (B, T, D)."""
    post_norm: bool
    """The residual stream's states are what the norms return."""
    final_norm: bool
    """A norm stands between the last block's output and the last hidden state."""
    causal: bool
    embeds: bool
    """`output_hidden_states` begins with what enters the first block, not with what leaves it (Mamba's does)."""
    registered: bool
    """Attention passes transformers' interface; else it shows through `output_attentions` alone."""
    attention_error: float
    """The largest difference between attention outputs and derived probabilities times v, relative to the outputs' largest value."""
    cross_error: float
    """That difference for attention over the encoder's tokens."""
    missing: Mapping[str, str]
    """Site → why it cannot be recorded, in any layer or in some."""

    @property
    def attention_layers(self) -> list[int]:
        """The layers that attend, or show that they do."""
        return [i for i, layer in enumerate(self.layers) if "attn" in layer.shapes]

    @property
    def derivable(self) -> bool:
        """Whether attention follows from q and k in every layer that has it."""
        layers = self.attention_layers
        return bool(layers) and all(self.layers[i].formula is not None for i in layers)

    @property
    def cross_derivable(self) -> bool:
        """Whether attention over the encoder's tokens follows from cross.q and cross.k in every layer that has it."""
        return all(layer.cross_formula is not None for layer in self.layers if "cross.attn" in layer.shapes)


@dataclass(frozen=True)
class Anatomy:
    """A model's body, and the stack of blocks on each of its sides."""

    body: Body
    stacks: Mapping[str, Stack]
    """By side."""
    kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What takes seconds to find of it, by name, for who asks again."""

    @property
    def main(self) -> Stack:
        """The decoder, or the encoder of a model that has no decoder."""
        return next(iter(self.stacks.values()))
