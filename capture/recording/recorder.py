"""One forward pass → named tensors, token-packed. Knows nothing of files.

A `Recorder` owns hooks on one model while it is open: on each block, on the modules whose inputs or outputs its anatomy names,
and on the attention function. Each takes its tensor, leaves out the padding, converts it to the dtype it will be stored in and
brings it to host memory, all while the forward pass runs; the model's own tensors are never touched, and its logits are the
same bits with and without. On a GPU the copies run on a stream of their own, into pinned memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from capture.model.anatomy import PROVEN_TOKENS, Anatomy
from capture.model.attention_formula import sequence_error, formula_tolerance
from capture.model.attention_hook import AttentionCall, listen_to_attention
from capture.model.body import Tokens, padding_id
from capture.model.forward_trace import first_input, first_output
from capture.recording.forward_pass import ForwardPass
from capture.recording.host_buffers import DeviceCopies, HostBuffers
from capture.sequences.batches import Batch
from warehouse.errors import TracesError
from warehouse.schema import sites
from warehouse.schema.sites import Key, tensor_name
from warehouse.storage.blobs import NAMES, TensorSpec
from warehouse.storage.manifest import LayerAttention


@dataclass(frozen=True)
class Recording:
    """What one forward pass left, padding left out."""

    last: Mapping[str, torch.Tensor]
    """By side (N, D): the last hidden state of its N real tokens, on the model's device and in its dtype."""
    tensors: Mapping[Key, np.ndarray]
    """(rows, *row_shape) each, on the host and in the dtype to be stored; to be read after `ready`."""
    rows: Mapping[Key, list[int]]
    """How many of a tensor's rows each sequence has."""
    ready: Callable[[], None]
    """Waits until the last copy from the device has arrived."""
    release: Callable[[], None]
    """Gives the tensors' memory back, to be written over by a later pass."""


def store_dtype(model_dtype: str, asked: str) -> str:
    """The safetensors dtype for a model's tensors: its own, but F16 for float32 models, unless `asked` says otherwise."""
    if asked == "auto":
        asked = "float16" if model_dtype == "float32" else model_dtype
    return NAMES[asked]


def inputs(batch: Batch, model: Any) -> tuple[Tokens, dict[str, torch.Tensor]]:
    """A batch as the model's body takes it: right-padded ids and masks by side, and what else its forward is told."""
    padded, types = batch.padded(padding_id(model)), batch.padded_types()
    tokens = {side: (torch.from_numpy(ids), torch.from_numpy(mask)) for side, (ids, mask) in padded.items()}
    return tokens, {} if types is None else {"token_type_ids": torch.from_numpy(types)}


class Recorder:
    """Use as a context manager; `run` as often as wanted inside. One at a time in a process."""

    def __init__(
        self,
        anatomy: Anatomy,
        tensors: Mapping[Key, TensorSpec],
        promoted: Mapping[str, str] | None = None,
        derives: bool = False,
    ) -> None:
        """`promoted` names the tensors (as `tensor_name` does) that need a wider dtype than `tensors` says. With `derives`,
        attention will be derived from q and k: that it follows from them is proven again whenever sequences get longer.
        """
        self._anatomy, self._name = anatomy, type(anatomy.body.model).__name__
        wider = promoted or {}
        self.tensors = {k: TensorSpec(wider.get(tensor_name(*k), s.dtype), s.row_shape) for k, s in tensors.items()}
        self._kinds = {k: sites.row_kind(k.site, anatomy.stacks[k.side].causal) for k in self.tensors}
        self._given = {
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
            taps: dict[tuple[nn.Module, str], dict[tuple[str, int], list[tuple[Key, float]]]] = {}
            for side, part in self._anatomy.stacks.items():
                for block in dict.fromkeys(layer.block for layer in part.layers):
                    self._watch_block(stack, side, block)
                for i, layer in enumerate(part.layers):
                    for site, tap in layer.hook_points.items():
                        key = Key(side, site, i)
                        if key in self.tensors and site != "resid.post_mlp":
                            taps.setdefault((tap.module, tap.end), {}).setdefault((side, i), []).append(
                                (key, tap.factor)
                            )
            for (module, at), wanted in taps.items():
                self._watch(stack, module, at, wanted)
            interface = ("q", "k", "v", "attn")
            if any(k.site.removeprefix("cross.") in interface and k not in self._given for k in self.tensors):
                stack.enter_context(listen_to_attention(self._anatomy.body.model, self._on_call))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, tokens: Tokens, **inputs: torch.Tensor) -> Recording:
        """Right-padded ids and masks, side by side → what was seen of their real tokens. `inputs` are others that the model's
        forward takes, such as `token_type_ids`.

        Raises DtypeOverflow, or TracesError where what was seen is not what the model has, or is not finite.
        """
        passing = self.begin(tokens)
        try:
            with torch.no_grad():
                asked = {"output_attentions": True} if self._given else {}
                outputs = self._anatomy.body(tokens, **asked, **inputs)
            for side, x in outputs.last.items():
                final = Key(side, "hidden", len(self._anatomy.stacks[side].layers))
                if final in self.tensors:
                    passing.keep(final, x)
            for key in self.tensors:
                if key in self._given and key.layer is not None:
                    found = outputs.attentions["cross" if key.site == "cross.attn" else key.side]
                    passing.keep(key, found[key.layer] if key.layer < len(found) else None)
        finally:
            self._pass = None
        passing.check()
        if passing.longest > self._proven:
            self._proven = 2 * passing.longest
        last = {side: passing.packed(x, side) for side, x in outputs.last.items()}
        ready = self._copies.arrived() if self._copies is not None else _nothing
        release = partial(self._buffers.give_back, passing.buffer)
        return Recording(last, passing.arrays(), passing.rows, ready, release)

    def begin(self, tokens: Tokens) -> ForwardPass:
        """From here to the end of `run`, hooks record. The model may be called outside: then they do nothing."""
        time_first = {side for side, stack in self._anatomy.stacks.items() if stack.time_first}
        self._pass = ForwardPass(self._name, time_first, self.tensors, self._kinds, self._buffers, self._copies, tokens)
        return self._pass

    # -- what hooks do ---------------------------------------------------------------------------------------------

    def _watch_block(self, stack: ExitStack, side: str, block: nn.Module) -> None:
        """Counts layers: a block's n-th run in a pass is the n-th layer that it is the block of."""
        layers = self._anatomy.stacks[side].layers

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._pass is None:
                return
            i = self._pass.enter(side)
            if i >= len(layers) or layers[i].block is not block:
                raise TracesError(f"{self._name}: its blocks ran in another order than when the model was examined.")
            if i == 0 and (key := Key(side, "resid.embed", None)) in self.tensors:
                self._pass.keep(key, first_input(args, kwargs))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._pass is None or self._pass.at is None:
                return
            key = Key(side, "resid.post_mlp", self._pass.at[1])
            if key in self.tensors:
                self._pass.keep(key, first_output(output))
            self._pass.at = None

        stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(block.register_forward_hook(after).remove)

    def _watch(
        self, stack: ExitStack, module: nn.Module, at: str, wanted: Mapping[tuple[str, int], list[tuple[Key, float]]]
    ) -> None:
        def seen(x: torch.Tensor | None) -> None:
            assert self._pass is not None
            for key, factor in wanted.get(self._pass.at or ("", 0), ()):
                self._pass.keep(key, x if x is None or factor == 1.0 else x * factor)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._pass is not None:
                seen(first_input(args, kwargs))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._pass is not None:
                seen(first_output(output))

        if at == "input":
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        else:
            stack.callback(module.register_forward_hook(after).remove)

    def _on_call(self, call: AttentionCall) -> None:
        if self._pass is None or self._pass.at is None:
            return
        side, i = self._pass.at
        layer = self._anatomy.stacks[side].layers[i]
        if call.module is layer.attention:
            prefix = ""
        elif call.module is layer.cross_attention:
            prefix = "cross."
        elif layer.attention is None and layer.cross_attention is None:
            return  # more than one call a block: not recorded, as its anatomy says
        else:
            raise TracesError(
                f"{type(call.module).__name__} called attention, but was not there when the model was examined."
            )
        formula = layer.cross_formula if prefix else layer.formula
        if formula is not None and self._pass.longest > self._proven:
            self._prove(call, formula, side, "enc" if prefix else side)
        for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
            if (key := Key(side, prefix + name, i)) in self.tensors:
                self._pass.keep(key, x.transpose(1, 2))
        if (key := Key(side, prefix + "attn", i)) in self.tensors:
            self._pass.keep(key, call.probabilities)

    def _prove(self, call: AttentionCall, formula: LayerAttention, side: str, over: str) -> None:
        """Raises where derived attention is not the model's, on the longest sequence of the pass."""
        assert self._pass is not None
        lengths = self._pass.lengths
        b = max(range(len(lengths[side])), key=lambda n: lengths[side][n])
        error = sequence_error(call, formula, b, lengths[side][b], lengths[over][b])
        if error > formula_tolerance(call.out.dtype):
            raise TracesError(
                f"{self._name}: on {lengths[side][b]} tokens its attention no longer follows from q and k (off by {error:.1e} "
                "of its output). It has to be stored: traces capture … --attn stored."
            )


def _nothing() -> None:
    pass
