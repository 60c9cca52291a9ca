"""Hooks on a model that hear its sites: which tensor of which layer just came, wherever the model keeps it.

In go a model's anatomy and the tensors that are wanted; each hook hands its tensor to a `Sink`, as the model has it: padded, on its
device. The model's own tensors are never changed. A `Recorder` stores what it is handed; `live` gives it to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import nn

from capture.model.anatomy import Anatomy
from capture.model.attention_hook import AttentionCall, listen_to_attention
from capture.model.forward_trace import first_input, first_output
from warehouse.errors import TracesError
from warehouse.schema.sites import Key
from warehouse.storage.model_info import LayerAttention


class Sink(Protocol):
    """What takes the tensors of one forward pass."""

    running: tuple[str, int] | None
    """The side and layer whose block is running."""

    def enter_block(self, side: str) -> int:
        """Note that a block begins, and return the number of its layer."""
        ...

    def keep(self, key: Key, x: torch.Tensor | None) -> None:
        """Take a tensor: (B, T, *row_shape), or attention's (B, H, T, S); None where the model gave none."""
        ...


OnAttention = Callable[[AttentionCall, LayerAttention, str, str], None]
"""Called with an attention call of a layer that has a formula, the formula, and the sides that look and are looked at."""


class SiteHooks:
    """Hooks on each block, on the modules whose inputs or outputs the anatomy names, and on the attention function."""

    def __init__(self, anatomy: Anatomy, keys: Collection[Key], on_attention: OnAttention | None = None) -> None:
        """Prepare hooks, which `open` sets.

        Args:
            anatomy: Where the model's sites are.
            keys: The tensors that are wanted.
            on_attention: Called at each attention call of a layer that has a formula.
        """
        self._anatomy, self._name, self._keys = anatomy, type(anatomy.body.model).__name__, keys
        self._check_formula = on_attention
        self.from_outputs = {
            k for k in keys if k.site in ("attn", "cross.attn") and not anatomy.stacks[k.side].registered
        }
        """Attention that no hook hears: the model has to be asked for it (`output_attentions`)."""
        self.sink: Sink | None = None
        """Where tensors go; None: nowhere, and the model may be called as ever."""

    def open(self, stack: ExitStack) -> None:
        """Set the hooks, which go when the stack is closed."""
        hooks: dict[tuple[nn.Module, str], dict[tuple[str, int], list[tuple[Key, float]]]] = {}
        for side, part in self._anatomy.stacks.items():
            for block in dict.fromkeys(layer.block for layer in part.layers):
                self._hook_block(stack, side, block)
            for i, layer in enumerate(part.layers):
                for site, point in layer.hook_points.items():
                    key = Key(side, site, i)
                    if key in self._keys and site != "resid.post_mlp":
                        hooks.setdefault((point.module, point.end), {}).setdefault((side, i), []).append(
                            (key, point.factor)
                        )
        for (module, end), wanted in hooks.items():
            self._hook_module(stack, module, end, wanted)
        interface = ("q", "k", "v", "attn")
        if any(k.site.removeprefix("cross.") in interface and k not in self.from_outputs for k in self._keys):
            stack.enter_context(listen_to_attention(self._anatomy.body.model, self._on_attention))

    def _hook_block(self, stack: ExitStack, side: str, block: nn.Module) -> None:
        """Set hooks on a block, counting layers: its n-th run in a pass is the n-th layer that it is the block of."""
        layers = self._anatomy.stacks[side].layers

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.sink is None:
                return
            i = self.sink.enter_block(side)
            if i >= len(layers) or layers[i].block is not block:
                raise TracesError(f"{self._name}: its blocks ran in another order than when the model was examined.")
            if i == 0 and (key := Key(side, "resid.embed", None)) in self._keys:
                self.sink.keep(key, first_input(args, kwargs))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self.sink is None or self.sink.running is None:
                return
            key = Key(side, "resid.post_mlp", self.sink.running[1])
            if key in self._keys:
                self.sink.keep(key, first_output(output))
            self.sink.running = None

        stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(block.register_forward_hook(after).remove)

    def _hook_module(
        self, stack: ExitStack, module: nn.Module, end: str, wanted: Mapping[tuple[str, int], list[tuple[Key, float]]]
    ) -> None:
        """Set a hook on a module's input or output, which is, up to a factor, a tensor of each layer in `wanted`."""

        def keep(sink: Sink, x: torch.Tensor | None) -> None:
            for key, factor in wanted.get(sink.running or ("", 0), ()):
                sink.keep(key, x if x is None or factor == 1.0 else x * factor)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.sink is not None:
                keep(self.sink, first_input(args, kwargs))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self.sink is not None:
                keep(self.sink, first_output(output))

        if end == "input":
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        else:
            stack.callback(module.register_forward_hook(after).remove)

    def _on_attention(self, call: AttentionCall) -> None:
        """Keep what a call of the attention function got and gave."""
        if self.sink is None or self.sink.running is None:
            return
        side, i = self.sink.running
        layer = self._anatomy.stacks[side].layers[i]
        if call.module is layer.attention:
            prefix = ""
        elif call.module is layer.cross_attention:
            prefix = "cross."
        elif layer.attention is None and layer.cross_attention is None:
            return  # several calls a block are not recorded, as its anatomy says
        else:
            raise TracesError(
                f"{type(call.module).__name__} called attention, but did not when the model was examined."
            )
        formula = layer.cross_formula if prefix else layer.formula
        if formula is not None and self._check_formula is not None:
            self._check_formula(call, formula, side, "enc" if prefix else side)
        for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
            if (key := Key(side, prefix + name, i)) in self._keys:
                self.sink.keep(key, x.transpose(1, 2))
        if (key := Key(side, prefix + "attn", i)) in self._keys:
            self.sink.keep(key, call.probabilities)
