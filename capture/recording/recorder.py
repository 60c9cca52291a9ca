"""The recorder: hooks on a model that turn each forward pass into named tensors without padding.

In go a model's anatomy and the tensors to record; out comes a `Recording` for each batch that is run. Jobs and checks call it.
It knows nothing of files.

A `Recorder` owns its hooks (`site_hooks`) while it is open. Each hands its tensor to the `ForwardPass`, which packs it, converts it
to its storage dtype and brings it to host memory while the model runs on. The model's own tensors are never changed: its logits
are the same bits with and without a recorder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch

from capture.model.anatomy import Anatomy
from capture.model.attention_formula import sequence_error
from capture.model.attention_hook import AttentionCall
from capture.model.body import Tokens, padding_id
from capture.model.examine import PROVEN_TOKENS
from capture.model.tolerances import formula_tolerance
from capture.recording.forward_pass import ForwardPass
from capture.recording.host_buffers import DeviceCopies, HostBuffers
from capture.recording.site_hooks import SiteHooks
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
        `F16`, `BF16`, `F32`, or `I8` for tensors that are coded.
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
        self._hooks = SiteHooks(anatomy, self.tensors, self._prove_formula if derives else None)
        self._stack = ExitStack()
        self._proven = PROVEN_TOKENS
        cuda = anatomy.body.model.device.type == "cuda"
        self._buffers = HostBuffers(pinned=cuda)
        self._copies = DeviceCopies() if cuda else None

    def __enter__(self) -> Recorder:
        with ExitStack() as stack:
            self._hooks.open(stack)
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
                attentions = {"output_attentions": True} if self._hooks.from_outputs else {}
                outputs = self._anatomy.body(tokens, **attentions, **inputs)
            for side, x in outputs.last.items():
                final = Key(side, "hidden", len(self._anatomy.stacks[side].layers))
                if final in self.tensors:
                    forward.keep(final, x)
            for key in self.tensors:
                if key in self._hooks.from_outputs and key.layer is not None:
                    matrices = outputs.attentions["cross" if key.site == "cross.attn" else key.side]
                    forward.keep(key, matrices[key.layer] if key.layer < len(matrices) else None)
        finally:
            self._hooks.sink = None
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
        forward = ForwardPass(self._name, time_first, self.tensors, self._buffers, self._copies, tokens)
        self._hooks.sink = forward
        return forward

    def _prove_formula(self, call: AttentionCall, formula: LayerAttention, side: str, over: str) -> None:
        """Raise TracesError where derived attention is not the model's on the longest sequence of a pass that is longer than any."""
        forward = self._hooks.sink
        assert isinstance(forward, ForwardPass)
        if forward.longest <= self._proven:
            return
        lengths = forward.lengths
        b = max(range(len(lengths[side])), key=lambda n: lengths[side][n])
        error = sequence_error(call, formula, b, lengths[side][b], lengths[over][b])
        if error > formula_tolerance(call.out.dtype):
            raise TracesError(
                f"{self._name}: on {lengths[side][b]} tokens its attention no longer follows from q and k (off by {error:.1e} "
                "of its output). It has to be stored: traces capture … --attn stored."
            )


def _do_nothing() -> None:
    """Wait for nothing: without a GPU, tensors are on the host at once."""
