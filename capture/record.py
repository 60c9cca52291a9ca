"""One forward pass → named tensors, token-packed. Knows nothing of files.

A `Recorder` owns hooks on one model while it is open: on each block's output, on the point between its halves, on the input
of the first block, and on the attention function. Each takes its tensor, leaves out the padding, converts it to the dtype it
will be stored in and brings it to host memory, all while the forward pass runs; the model's own tensors are never touched,
and its logits are the same bits with and without.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import nn

from capture.anatomy import Anatomy, AttentionCall, first_output, first_tensor, listen_to_attention
from warehouse.blobs import NAMES, TensorSpec
from warehouse.errors import TracesError
from warehouse.layout import tensor_name
from warehouse.sites import layers_of, row_shape

Key = tuple[str, int | None]

_TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


_ALIGNED = 64


class DtypeOutgrown(Exception):
    """Finite values that the storage dtype of some tensors would make infinite."""

    def __init__(self, tensors: list[str]) -> None:
        super().__init__(f"values too large for their storage dtype in {', '.join(tensors)}")
        self.tensors = tensors


@dataclass(frozen=True)
class Recording:
    """What one forward pass left. N are its real tokens, padding left out."""

    last: torch.Tensor
    """(N, D), the last normed state, on the model's device and in its dtype."""
    tensors: dict[Key, np.ndarray]
    """(N, *row_shape) each, on the host and in the dtype to be stored."""
    release: Callable[[], None]
    """Gives the tensors' memory back, to be written over by a later pass."""


class _HostBuffers:
    """Memory for the tensors of the few batches that are on their way to the disk, used again and again: the system hands
    out fresh memory page by page, which costs more than filling it."""

    def __init__(self) -> None:
        self._free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()

    def take(self, size: int) -> torch.Tensor:
        """At least `size` bytes."""
        try:
            buffer = self._free.get_nowait()
        except queue.Empty:
            return torch.empty(size, dtype=torch.uint8)
        return buffer if len(buffer) >= size else torch.empty(size, dtype=torch.uint8)

    def give_back(self, buffer: torch.Tensor) -> None:
        self._free.put(buffer)


def store_dtype(model_dtype: str, asked: str) -> str:
    """The safetensors dtype for a model's tensors: its own, but F16 for float32 models, unless `asked` says otherwise."""
    if asked == "auto":
        asked = "float16" if model_dtype == "float32" else model_dtype
    return NAMES[asked]


class Recorder:
    """Use as a context manager; `run` as often as wanted inside. One at a time in a process."""

    def __init__(
        self, model: Any, anatomy: Anatomy, sites: tuple[str, ...], dtype: str, promoted: dict[str, str]
    ) -> None:
        """`dtype` is what tensors are stored in, `promoted` names those (as `tensor_name` does) that need a wider one."""
        self._model, self._anatomy = model, anatomy
        self.tensors: dict[Key, TensorSpec] = {
            (site, layer): TensorSpec(promoted.get(tensor_name(site, layer), dtype), row_shape(site, anatomy.dims))
            for site in sites
            for layer in layers_of(site, anatomy.dims.n_layers)
        }
        self._layer_of = {a: i for i, a in enumerate(anatomy.attentions)}
        self._recorded: dict[Key, torch.Tensor] = {}
        self._outgrown: list[Key] = []
        self._rows: torch.Tensor | None = None
        self._stack = ExitStack()
        self._buffers = _HostBuffers()
        self._places: dict[Key, torch.Tensor] = {}

    def __enter__(self) -> Recorder:
        a, n = self._anatomy, self._anatomy.dims.n_layers
        with ExitStack() as stack:
            if ("resid.embed", None) in self.tensors:
                self._on_input(stack, a.blocks[0], ("resid.embed", None))
            for i in range(n):
                if ("resid.post_attn", i) in self.tensors:
                    self._on_input(stack, a.post_attention[i], ("resid.post_attn", i))
                if ("resid.post_mlp", i) in self.tensors:
                    self._on_output(stack, a.blocks[i], ("resid.post_mlp", i))
            if any(site in ("q", "k", "v") for site, _ in self.tensors):
                stack.enter_context(listen_to_attention(self._model, self._heard))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Recording:
        """Right-padded (B, T) ids and mask → what was seen of their N real tokens.

        Raises DtypeOutgrown, or TracesError where what was seen is not what the model has, or is not finite.
        """
        mask = attention_mask.bool().flatten()
        rows = mask.nonzero()[:, 0]
        self._rows = None if len(rows) == len(mask) else rows.to(self._model.device)
        self._recorded, self._outgrown = {}, []
        buffer = self._lay_out(len(rows))
        with torch.no_grad():
            output = self._model.base_model(
                input_ids=input_ids.to(self._model.device),
                attention_mask=attention_mask.to(self._model.device),
                use_cache=False,
            )
        last = output.last_hidden_state
        final = ("hidden", self._anatomy.dims.n_layers)
        if final in self.tensors:
            self._keep(final, last)
        recorded, self._recorded, self._places = self._recorded, {}, {}
        if missing := [tensor_name(*k) for k in self.tensors if k not in recorded]:
            raise TracesError(
                f"{type(self._model).__name__}: {len(missing)} of the tensors asked for were not seen in the forward pass "
                f"({', '.join(missing[:4])}); nothing is written that might be wrong."
            )
        if self._outgrown:
            raise DtypeOutgrown([tensor_name(*k) for k in self._outgrown])
        tensors = {k: _to_numpy(recorded[k]) for k in self.tensors}
        return Recording(self._packed(last), tensors, partial(self._buffers.give_back, buffer))

    def _lay_out(self, tokens: int) -> torch.Tensor:
        """Gives every tensor of the coming pass its place, (N, *row_shape), in one buffer."""
        starts, end = [], 0
        for spec in self.tensors.values():
            starts.append(end)
            end += -(-tokens * spec.row_bytes // _ALIGNED) * _ALIGNED
        buffer = self._buffers.take(end)
        for start, (key, spec) in zip(starts, self.tensors.items(), strict=True):
            octets = buffer[start : start + tokens * spec.row_bytes]
            self._places[key] = octets.view(_TORCH[spec.dtype]).view(tokens, *spec.row_shape)
        return buffer

    # -- what hooks do ---------------------------------------------------------------------------------------------

    def _on_input(self, stack: ExitStack, module: nn.Module, key: Key) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(key, first_tensor(args, kwargs))

        stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _on_output(self, stack: ExitStack, module: nn.Module, key: Key) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._keep(key, first_output(output))

        stack.callback(module.register_forward_hook(hook).remove)

    def _heard(self, call: AttentionCall) -> None:
        layer = self._layer_of.get(call.module)
        if layer is None:
            raise TracesError(
                f"{type(call.module).__name__} called attention, but was not there when the model was examined."
            )
        for site, x in (("q", call.q), ("k", call.k), ("v", call.v)):
            if (site, layer) in self.tensors:
                self._keep((site, layer), x.transpose(1, 2))

    def _keep(self, key: Key, x: torch.Tensor | None) -> None:
        """Takes (B, T, *row_shape), packed and converted. Does nothing outside `run`: the model may be called meanwhile."""
        if not self._places:
            return
        spec, name = self.tensors[key], tensor_name(*key)
        if x is None or x.shape[2:] != spec.row_shape:
            shape = None if x is None else tuple(x.shape)
            raise TracesError(f"{name} has shape {shape}, not (batch, tokens, {', '.join(map(str, spec.row_shape))}).")
        if key in self._recorded:
            raise TracesError(
                f"{name} was seen twice in one forward pass: layers that share modules cannot be recorded yet."
            )
        kept = self._places[key]
        if self._rows is None:
            kept.view(x.shape).copy_(x)  # converts and packs in one pass over memory
        else:
            kept.copy_(self._packed(x))
        if not _finite(kept):
            if not _finite(self._packed(x)):
                raise TracesError(
                    f"The model itself computed infinite or undefined values ({name}). Load it in another dtype: "
                    "--dtype float32 or bfloat16."
                )
            self._outgrown.append(key)
        self._recorded[key] = kept

    def _packed(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, …) → (N, …), padding left out."""
        flat = x.flatten(0, 1)
        return flat if self._rows is None else flat.index_select(0, self._rows.to(x.device))


def _finite(x: torch.Tensor) -> bool:
    if not x.numel():
        return True
    low, high = torch.aminmax(x)  # NaN if any is, and one pass over memory
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _to_numpy(x: torch.Tensor) -> np.ndarray:
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()
