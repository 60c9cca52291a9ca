"""The recorder: hooks on a model that turn each forward pass into named tensors without padding.

In go a model's anatomy and the tensors to record; out comes a `Recording` for each batch that is run. Jobs and checks call it.
It knows nothing of files.

A `Recorder` owns its hooks while it is open: on each block, on the modules whose inputs or outputs the anatomy names, and on the
attention function. Each hook hands its tensor to the `ForwardPass`, which packs it, converts it to its storage dtype and brings
it to host memory while the model runs on. The model's own tensors are never changed: its logits are the same bits with and
without a recorder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from capture.model.anatomy import Anatomy
from capture.model.attention_formula import sequence_error
from capture.model.attention_hook import AttentionCall, listen_to_attention
from capture.model.body import Tokens, padding_id
from capture.model.examine import PROVEN_TOKENS
from capture.model.forward_trace import first_input, first_output
from capture.model.tolerances import formula_tolerance
from capture.recording.forward_pass import ForwardPass
from capture.recording.host_buffers import DeviceCopies, HostBuffers
from capture.sequences.batches import Batch
from warehouse.errors import TracesError
from warehouse.schema.sites import Key, tensor_name
from warehouse.storage.blobs import NAMES, TensorSpec
from warehouse.storage.model_info import LayerAttention


@dataclass(frozen=True)
class Recording:
    """What one forward pass of a batch left, without padding."""

    last: Mapping[str, torch.Tensor]
    """By side (N, D): the last hidden state of its N real tokens, on the model's device and in its dtype."""
    tensors: Mapping[Key, np.ndarray]
    """(rows, *row_shape) each, on the host and in the dtype to be stored; to be read after `ready`."""
    rows: Mapping[Key, list[int]]
    """How many of a tensor's rows each sequence has."""
    ready: Callable[[], None]
    """Wait until the last copy from the device has arrived."""
    release: Callable[[], None]
    """Give the tensors' memory back, for a later pass to write over."""


def store_dtype(model_dtype: str, choice: str) -> str:
    """Return the safetensors dtype to store a model's tensors in.

    Args:
        model_dtype: The dtype that the model computes in, such as `bfloat16`.
        choice: A dtype, or `auto`: the model's own, but float16 for float32 models.

    Returns:
        `F16`, `BF16` or `F32`.
    """
    if choice == "auto":
        choice = "float16" if model_dtype == "float32" else model_dtype
    return NAMES[choice]


def model_inputs(batch: Batch, model: Any) -> tuple[Tokens, dict[str, torch.Tensor]]:
    """Return a batch as a model's body takes it.

    Args:
        batch: Sequences for one forward pass.
        model: The model that will read them; its padding token is used.

    Returns:
        Right-padded ids and masks (B, T) by side, and the other arguments of its forward, such as `token_type_ids`.
    """
    padded, types = batch.padded(padding_id(model)), batch.padded_types()
    tokens = {side: (torch.from_numpy(ids), torch.from_numpy(mask)) for side, (ids, mask) in padded.items()}
    return tokens, {} if types is None else {"token_type_ids": torch.from_numpy(types)}


class Recorder:
    """A context manager that holds hooks on a model; inside it, `run` records one batch. One at a time in a process."""

    def __init__(
        self,
        anatomy: Anatomy,
        tensors: Mapping[Key, TensorSpec],
        promoted: Mapping[str, str] | None = None,
        derives: bool = False,
    ) -> None:
        """Prepare to record a model; hooks are set on entering.

        Args:
            anatomy: Where the model's sites are.
            tensors: What to record, and in which dtype.
            promoted: Tensors, by `tensor_name`, that need a wider dtype than `tensors` says.
            derives: Whether attention will be derived from q and k. Whether it follows from them is then proven again each time
                that sequences get longer.
        """
        self._anatomy, self._name = anatomy, type(anatomy.body.model).__name__
        wider = promoted or {}
        self.tensors = {k: replace(s, dtype=wider.get(tensor_name(*k), s.dtype)) for k, s in tensors.items()}
        self._from_outputs = {
            k for k in self.tensors if k.site in ("attn", "cross.attn") and not anatomy.stacks[k.side].registered
        }
        self._stack = ExitStack()
        self._proven = PROVEN_TOKENS if derives else sys.maxsize
        cuda = anatomy.body.model.device.type == "cuda"
        self._buffers = HostBuffers(pinned=cuda)
        self._copies = DeviceCopies() if cuda else None
        self._pass: ForwardPass | None = None

    def __enter__(self) -> Recorder:
        with ExitStack() as stack:
            hooks: dict[tuple[nn.Module, str], dict[tuple[str, int], list[tuple[Key, float]]]] = {}
            for side, part in self._anatomy.stacks.items():
                for block in dict.fromkeys(layer.block for layer in part.layers):
                    self._hook_block(stack, side, block)
                for i, layer in enumerate(part.layers):
                    for site, point in layer.hook_points.items():
                        key = Key(side, site, i)
                        if key in self.tensors and site != "resid.post_mlp":
                            hooks.setdefault((point.module, point.end), {}).setdefault((side, i), []).append(
                                (key, point.factor)
                            )
            for (module, end), wanted in hooks.items():
                self._hook_module(stack, module, end, wanted)
            interface = ("q", "k", "v", "attn")
            if any(k.site.removeprefix("cross.") in interface and k not in self._from_outputs for k in self.tensors):
                stack.enter_context(listen_to_attention(self._anatomy.body.model, self._on_attention))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, tokens: Tokens, **inputs: torch.Tensor) -> Recording:
        """Run the model on a batch, and record it.

        Args:
            tokens: Right-padded ids and masks (B, T) by side.
            **inputs: Other arguments of the model's forward, such as `token_type_ids`.

        Returns:
            What was recorded of the real tokens.

        Raises:
            DtypeOverflow: Values are too large for their storage dtype.
            TracesError: A tensor was not recorded, has another shape than the anatomy says, or is not finite.
        """
        forward = self.begin(tokens)
        try:
            with torch.no_grad():
                attentions = {"output_attentions": True} if self._from_outputs else {}
                outputs = self._anatomy.body(tokens, **attentions, **inputs)
            for side, x in outputs.last.items():
                final = Key(side, "hidden", len(self._anatomy.stacks[side].layers))
                if final in self.tensors:
                    forward.keep(final, x)
            for key in self.tensors:
                if key in self._from_outputs and key.layer is not None:
                    matrices = outputs.attentions["cross" if key.site == "cross.attn" else key.side]
                    forward.keep(key, matrices[key.layer] if key.layer < len(matrices) else None)
        finally:
            self._pass = None
        forward.check()
        if forward.longest > self._proven:
            self._proven = 2 * forward.longest
        last = {side: forward.pack(x, side) for side, x in outputs.last.items()}
        ready = self._copies.make_wait() if self._copies is not None else _do_nothing
        release = partial(self._buffers.give_back, forward.buffer)
        return Recording(last, forward.arrays(), forward.rows, ready, release)

    def begin(self, tokens: Tokens) -> ForwardPass:
        """Let hooks record from here to the end of `run`; outside of it the model may be called, and they do nothing."""
        time_first = {side for side, stack in self._anatomy.stacks.items() if stack.time_first}
        self._pass = ForwardPass(self._name, time_first, self.tensors, self._buffers, self._copies, tokens)
        return self._pass

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _hook_block(self, stack: ExitStack, side: str, block: nn.Module) -> None:
        """Set hooks on a block, counting layers: its n-th run in a pass is the n-th layer that it is the block of."""
        layers = self._anatomy.stacks[side].layers

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._pass is None:
                return
            i = self._pass.enter_block(side)
            if i >= len(layers) or layers[i].block is not block:
                raise TracesError(f"{self._name}: its blocks ran in another order than when the model was examined.")
            if i == 0 and (key := Key(side, "resid.embed", None)) in self.tensors:
                self._pass.keep(key, first_input(args, kwargs))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._pass is None or self._pass.running is None:
                return
            key = Key(side, "resid.post_mlp", self._pass.running[1])
            if key in self.tensors:
                self._pass.keep(key, first_output(output))
            self._pass.running = None

        stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(block.register_forward_hook(after).remove)

    def _hook_module(
        self, stack: ExitStack, module: nn.Module, end: str, wanted: Mapping[tuple[str, int], list[tuple[Key, float]]]
    ) -> None:
        """Set a hook on a module's input or output, which is, up to a factor, a tensor of each layer in `wanted`."""

        def keep(x: torch.Tensor | None) -> None:
            assert self._pass is not None
            for key, factor in wanted.get(self._pass.running or ("", 0), ()):
                self._pass.keep(key, x if x is None or factor == 1.0 else x * factor)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._pass is not None:
                keep(first_input(args, kwargs))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._pass is not None:
                keep(first_output(output))

        if end == "input":
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        else:
            stack.callback(module.register_forward_hook(after).remove)

    def _on_attention(self, call: AttentionCall) -> None:
        """Keep what a call of the attention function got and gave."""
        if self._pass is None or self._pass.running is None:
            return
        side, i = self._pass.running
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
        if formula is not None and self._pass.longest > self._proven:
            self._prove_formula(call, formula, side, "enc" if prefix else side)
        for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
            if (key := Key(side, prefix + name, i)) in self.tensors:
                self._pass.keep(key, x.transpose(1, 2))
        if (key := Key(side, prefix + "attn", i)) in self.tensors:
            self._pass.keep(key, call.probabilities)

    def _prove_formula(self, call: AttentionCall, formula: LayerAttention, side: str, over: str) -> None:
        """Raise TracesError where derived attention is not the model's on the longest sequence of the pass."""
        assert self._pass is not None
        lengths = self._pass.lengths
        b = max(range(len(lengths[side])), key=lambda n: lengths[side][n])
        error = sequence_error(call, formula, b, lengths[side][b], lengths[over][b])
        if error > formula_tolerance(call.out.dtype):
            raise TracesError(
                f"{self._name}: on {lengths[side][b]} tokens its attention no longer follows from q and k (off by {error:.1e} "
                "of its output). It has to be stored: traces capture … --attn stored."
            )


def _do_nothing() -> None:
    """Wait for nothing: without a GPU, tensors are on the host at once."""
