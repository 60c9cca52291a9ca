"""One forward pass → named tensors, token-packed. Knows nothing of files.

A `Recorder` owns hooks on one model while it is open: on each block, on the modules whose inputs or outputs its anatomy names,
and on the attention function. Each takes its tensor, leaves out the padding, converts it to the dtype it will be stored in and
brings it to host memory, all while the forward pass runs; the model's own tensors are never touched, and its logits are the
same bits with and without. On a GPU the copies run on a stream of their own, into pinned memory.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import nn

from capture.model.anatomy import PROVEN_TOKENS, Anatomy
from capture.model.attention_formula import error_on, tolerance
from capture.model.attention_hook import AttentionCall, listen_to_attention
from capture.model.body import Tokens, padding_id
from capture.model.forward_trace import first_input, first_output
from capture.sequences.batches import Batch
from warehouse.errors import TracesError
from warehouse.schema import sites
from warehouse.schema.sites import Key, tensor_name
from warehouse.storage.blobs import NAMES, TensorSpec
from warehouse.storage.manifest import LayerAttention

_TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}

_ALIGNED = 64


class DtypeOverflow(Exception):
    """Finite values that the storage dtype of some tensors would make infinite."""

    def __init__(self, tensors: list[str]) -> None:
        super().__init__(f"values too large for their storage dtype in {', '.join(tensors)}")
        self.tensors = tensors


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
        self._buffers = _HostBuffers(pinned=cuda)
        self._copies = _DeviceCopies() if cuda else None
        self._pass: _ForwardPass | None = None

    def __enter__(self) -> Recorder:
        with ExitStack() as stack:
            taps: dict[tuple[nn.Module, str], dict[tuple[str, int], list[tuple[Key, float]]]] = {}
            for side, part in self._anatomy.stacks.items():
                for block in dict.fromkeys(layer.block for layer in part.layers):
                    self._watch_block(stack, side, block)
                for i, layer in enumerate(part.layers):
                    for site, tap in layer.taps.items():
                        key = Key(side, site, i)
                        if key in self.tensors and site != "resid.post_mlp":
                            taps.setdefault((tap.module, tap.at), {}).setdefault((side, i), []).append(
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

    def begin(self, tokens: Tokens) -> _ForwardPass:
        """From here to the end of `run`, hooks record. The model may be called outside: then they do nothing."""
        time_first = {side for side, stack in self._anatomy.stacks.items() if stack.time_first}
        self._pass = _ForwardPass(
            self._name, time_first, self.tensors, self._kinds, self._buffers, self._copies, tokens
        )
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
        elif call.module is layer.cross:
            prefix = "cross."
        elif layer.attention is None and layer.cross is None:
            return  # more than one call a block: not recorded, as its anatomy says
        else:
            raise TracesError(
                f"{type(call.module).__name__} called attention, but was not there when the model was examined."
            )
        formula = layer.cross_attends if prefix else layer.attends
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
        error = error_on(call, formula, b, lengths[side][b], lengths[over][b])
        if error > tolerance(call.out.dtype):
            raise TracesError(
                f"{self._name}: on {lengths[side][b]} tokens its attention no longer follows from q and k (off by {error:.1e} "
                "of its output). It has to be stored: traces capture … --attn stored."
            )


class _ForwardPass:
    """One forward pass: where its tensors go, and which of them have come."""

    def __init__(
        self,
        name: str,
        time_first: set[str],
        tensors: Mapping[Key, TensorSpec],
        kinds: Mapping[Key, str],
        buffers: _HostBuffers,
        copies: _DeviceCopies | None,
        tokens: Tokens,
    ) -> None:
        self._name, self._time_first, self._tensors, self._kinds = name, time_first, tensors, kinds
        self.at: tuple[str, int] | None = None
        """The side and layer whose block is running."""
        self._begun: dict[str, int] = {}
        lengths = {side: mask.sum(1).tolist() for side, (_, mask) in tokens.items()}
        shapes = {side: mask.shape for side, (_, mask) in tokens.items()}
        each = [{side: n[b] for side, n in lengths.items()} for b in range(len(next(iter(lengths.values()))))]
        self.rows = {key: [sites.row_count(kinds[key], key.side, n) for n in each] for key in tensors}
        self.lengths, self._shapes = lengths, shapes
        self.longest = max(max(n) for n in lengths.values())
        self._real = {
            side: None if bool(mask.all()) else mask.bool().flatten().nonzero()[:, 0]
            for side, (_, mask) in tokens.items()
        }
        self._real_on: dict[tuple[str, torch.device], torch.Tensor] = {}
        self._pairs: dict[tuple[str, str, torch.device], tuple[torch.Tensor, ...]] = {}
        self._copies = copies
        self._finite: dict[Key, torch.Tensor] = {}
        self._sound: dict[Key, torch.Tensor] = {}
        self._outgrown: list[Key] = []
        self._kept: dict[Key, torch.Tensor] = {}
        self.buffer, self._places = self._lay_out(buffers)

    def _lay_out(self, buffers: _HostBuffers) -> tuple[torch.Tensor, dict[Key, torch.Tensor]]:
        """Gives every tensor of the pass its place, (rows, *row_shape), in one buffer."""
        starts, end = [], 0
        for key, spec in self._tensors.items():
            starts.append(end)
            end += -(-sum(self.rows[key]) * spec.row_bytes // _ALIGNED) * _ALIGNED
        buffer, places = buffers.take(end), {}
        for start, (key, spec) in zip(starts, self._tensors.items(), strict=True):
            rows = sum(self.rows[key])
            octets = buffer[start : start + rows * spec.row_bytes]
            places[key] = octets.view(_TORCH[spec.dtype]).view(rows, *spec.row_shape)
        return buffer, places

    def enter(self, side: str) -> int:
        """A block begins: the number of its layer."""
        i = self._begun.get(side, 0)
        self._begun[side] = i + 1
        self.at = (side, i)
        return i

    def keep(self, key: Key, x: torch.Tensor | None) -> None:
        """Takes (B, T, *row_shape), or attention's (B, H, T, S), packed and converted."""
        if key in self._kept:
            raise TracesError(f"{self._name}: {tensor_name(*key)} was seen twice in one forward pass.")
        kept = self._places[key]
        if self._kinds[key] in (sites.TRIANGLE, sites.SQUARE, sites.CROSS):
            packed = self._packed_pairs(key, x)
        else:
            packed = self._packed_tokens(key, x)
        self._kept[key] = kept
        if self._copies is not None and packed.is_cuda:
            # A copy in any case: the model may go on to change its own tensor before the host has it.
            converted = torch.empty(packed.shape, dtype=kept.dtype, device=packed.device).copy_(packed)
            self._finite[key], self._sound[key] = _finite(converted), _finite(packed)
            self._copies.copy(converted, kept.view(packed.shape))
            return
        kept.view(packed.shape).copy_(packed)  # converts in the same pass over memory
        if not _finite(kept):
            if not _finite(packed):
                raise self._unsound(key)
            self._outgrown.append(key)

    def _packed_tokens(self, key: Key, x: torch.Tensor | None) -> torch.Tensor:
        """(B, T, *row_shape) or (B·T, *row_shape) → (N, *row_shape), or as (B, T, *row_shape) where nothing is padding."""
        side = "enc" if self._kinds[key] == sites.SOURCE else key.side
        row_shape, (batch, length) = self._tensors[key].row_shape, self._shapes[side]
        if x is not None and side in self._time_first and x.shape[:2] == (length, batch) and key.site != "hidden":
            x = x.transpose(0, 1)
        if (
            x is None
            or x.shape[x.ndim - len(row_shape) :] != row_shape
            or x.numel() != batch * length * _size(row_shape)
        ):
            shape = None if x is None else tuple(x.shape)
            raise TracesError(
                f"{tensor_name(*key)} has shape {shape}, not ({batch}, {length}, {', '.join(map(str, row_shape))})."
            )
        x = x.reshape(batch, length, *row_shape)
        return x if self._real[side] is None else self.packed(x, side)

    def packed(self, x: torch.Tensor, side: str) -> torch.Tensor:
        """(B, T, …) → (N, …), padding left out."""
        flat, real = x.flatten(0, 1), self._real[side]
        if real is None:
            return flat
        if (side, x.device) not in self._real_on:
            self._real_on[side, x.device] = real.to(x.device)
        return flat.index_select(0, self._real_on[side, x.device])

    def _packed_pairs(self, key: Key, x: torch.Tensor | None) -> torch.Tensor:
        """(B, H, T, S) → (pairs, H), the pairs of each sequence row by row of its matrix."""
        kind, (heads,) = self._kinds[key], self._tensors[key].row_shape
        batch, queries = self._shapes[key.side]
        over = self._shapes["enc" if kind == sites.CROSS else key.side][1]
        if x is None or x.shape != (batch, heads, queries, over):
            shape = None if x is None else tuple(x.shape)
            raise TracesError(f"{tensor_name(*key)} has shape {shape}, not ({batch}, {heads}, {queries}, {over}).")
        place = (kind, key.side, x.device)
        if place not in self._pairs:
            self._pairs[place] = tuple(i.to(x.device) for i in self._pair_indices(kind, key.side))
        b, i, j = self._pairs[place]
        return x.permute(0, 2, 3, 1)[b, i, j]

    def _pair_indices(self, kind: str, side: str) -> tuple[torch.Tensor, ...]:
        found = []
        for b, n in enumerate(self.lengths[side]):
            if kind == sites.TRIANGLE:
                i, j = torch.tril_indices(n, n)
            else:
                over = self.lengths["enc"][b] if kind == sites.CROSS else n
                i, j = torch.cartesian_prod(torch.arange(n), torch.arange(over)).unbind(1)
            found.append((torch.full_like(i, b), i, j))
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    def check(self) -> None:
        """Raises where a tensor did not come, or does not fit its dtype."""
        if missing := [tensor_name(*k) for k in self._tensors if k not in self._kept]:
            raise TracesError(
                f"{self._name}: {len(missing)} of the tensors asked for were not seen in the forward pass "
                f"({', '.join(missing[:4])}); nothing is written that might be wrong."
            )
        if self._finite:
            finite, sound = (torch.stack([f.to("cpu") for f in d.values()]) for d in (self._finite, self._sound))
            for key, fits, right in zip(self._finite, finite.tolist(), sound.tolist(), strict=True):
                if not right:
                    raise self._unsound(key)
                if not fits:
                    self._outgrown.append(key)
        if self._outgrown:
            raise DtypeOverflow([tensor_name(*k) for k in self._outgrown])

    def _unsound(self, key: Key) -> TracesError:
        return TracesError(
            f"The model itself computed infinite or undefined values ({tensor_name(*key)}). Load it in another dtype: "
            "float32 or bfloat16."
        )

    def arrays(self) -> dict[Key, np.ndarray]:
        return {key: _to_numpy(self._places[key]) for key in self._tensors}


class _HostBuffers:
    """Memory for the tensors of the few batches that are on their way to the disk, used again and again: the system hands
    out fresh memory page by page, which costs more than filling it.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()

    def take(self, size: int) -> torch.Tensor:
        """At least `size` bytes."""
        try:
            buffer = self._free.get_nowait()
        except queue.Empty:
            buffer = torch.empty(0, dtype=torch.uint8)
        if len(buffer) >= size:
            return buffer
        del buffer
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)

    def give_back(self, buffer: torch.Tensor) -> None:
        self._free.put(buffer)


class _DeviceCopies:
    """Copies from GPUs to pinned memory, each device's on a stream of its own, so that the forward pass goes on meanwhile."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, x: torch.Tensor, kept: torch.Tensor) -> None:
        if x.device not in self._streams:
            self._streams[x.device] = torch.cuda.Stream(x.device)
        stream = self._streams[x.device]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            kept.copy_(x, non_blocking=True)
        x.record_stream(stream)  # its memory is not used again before the copy is done

    def arrived(self) -> Callable[[], None]:
        """A wait for all that has been copied so far, and for nothing after it."""
        events = [stream.record_event() for stream in self._streams.values()]

        def wait() -> None:
            for event in events:
                event.synchronize()

        return wait


def _nothing() -> None:
    pass


def _finite(x: torch.Tensor) -> torch.Tensor:
    if not x.numel():
        return torch.tensor(True)
    low, high = torch.aminmax(x)  # NaN if any is, and one pass over memory
    return torch.isfinite(low) & torch.isfinite(high)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _to_numpy(x: torch.Tensor) -> np.ndarray:
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()
