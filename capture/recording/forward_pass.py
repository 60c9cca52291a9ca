"""One forward pass of a batch, whose tensors are packed as the model gives them.

In goes each tensor as a hook sees it, padded and in the model's dtype; out come arrays without padding, in their storage dtype,
on the host. A `Recorder` makes one `ForwardPass` a batch, and its hooks call `keep`. Tokens are packed as (N, *row_shape),
sequence after sequence; attention as (pairs, H), each sequence's matrix row by row. A value that is not finite, a tensor seen
twice or not at all, and one of another shape than the anatomy says are errors: nothing is written that might be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch

from capture.model.body import Tokens
from capture.recording.host_buffers import DeviceCopies, HostBuffers
from warehouse.errors import TracesError
from warehouse.schema import sites
from warehouse.schema.sites import Key, tensor_name
from warehouse.storage.blobs import TensorSpec

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_AS_INTEGERS = {
    torch.float16: (torch.int16, np.uint16, 0x7C00),
    torch.bfloat16: (torch.int16, np.uint16, 0x7F80),
    torch.float32: (torch.int32, np.uint32, 0x7F800000),
}
"""Integers of the same size, with a sign and without, and the bits of infinity."""
_ALIGNMENT = 64
"""Bytes: where a tensor may begin in its pass's buffer."""


class DtypeOverflow(Exception):
    """Finite values that the storage dtype of some tensors would make infinite."""

    def __init__(self, tensors: list[str]) -> None:
        super().__init__(f"values too large for their storage dtype in {', '.join(tensors)}")
        self.tensors = tensors


class ForwardPass:
    """The tensors of one forward pass: where each goes, and which have come."""

    def __init__(
        self,
        name: str,
        time_first: set[str],
        tensors: Mapping[Key, TensorSpec],
        buffers: HostBuffers,
        copies: DeviceCopies | None,
        tokens: Tokens,
    ) -> None:
        self._name, self._time_first, self._tensors = name, time_first, tensors
        self.running: tuple[str, int] | None = None
        """The side and layer whose block is running."""
        self._blocks_begun: dict[str, int] = {}
        lengths = {side: mask.sum(1).tolist() for side, (_, mask) in tokens.items()}
        shapes = {side: mask.shape for side, (_, mask) in tokens.items()}
        by_sequence = [{side: n[b] for side, n in lengths.items()} for b in range(len(next(iter(lengths.values()))))]
        self.rows = {key: [sites.row_count(s.row_kind, key.side, n) for n in by_sequence] for key, s in tensors.items()}
        self.lengths, self._shapes = lengths, shapes
        self.longest = max(max(n) for n in lengths.values())
        self._real = {
            side: None if bool(mask.all()) else mask.bool().flatten().nonzero()[:, 0]
            for side, (_, mask) in tokens.items()
        }
        self._real_by_device: dict[tuple[str, torch.device], torch.Tensor] = {}
        self._pairs: dict[tuple[str, str, torch.device], tuple[torch.Tensor, ...]] = {}
        self._copies = copies
        self._finite_as_stored: dict[Key, torch.Tensor] = {}
        self._finite_in_model: dict[Key, torch.Tensor] = {}
        self._overflowing: list[Key] = []
        self._kept: set[Key] = set()
        self.buffer, self._slots = self._lay_out(buffers)

    def _lay_out(self, buffers: HostBuffers) -> tuple[torch.Tensor, dict[Key, torch.Tensor]]:
        """Take one buffer, and return it with the slot (rows, *row_shape) of every tensor in it."""
        starts, end = [], 0
        for key, spec in self._tensors.items():
            starts.append(end)
            end += -(-sum(self.rows[key]) * spec.row_bytes // _ALIGNMENT) * _ALIGNMENT
        buffer, slots = buffers.take(end), {}
        for start, (key, spec) in zip(starts, self._tensors.items(), strict=True):
            rows = sum(self.rows[key])
            octets = buffer[start : start + rows * spec.row_bytes]
            slots[key] = octets.view(_DTYPES[spec.dtype]).view(rows, *spec.row_shape)
        return buffer, slots

    def enter_block(self, side: str) -> int:
        """Note that a block begins, and return the number of its layer."""
        i = self._blocks_begun.get(side, 0)
        self._blocks_begun[side] = i + 1
        self.running = (side, i)
        return i

    def keep(self, key: Key, x: torch.Tensor | None) -> None:
        """Pack, convert and keep a tensor.

        Args:
            key: Which tensor it is.
            x: (B, T, *row_shape), or attention's (B, H, T, S); None where the model gave none.

        Raises:
            TracesError: It was kept before, has another shape, or the model computed values that are not finite.
        """
        if key in self._kept:
            raise TracesError(f"{self._name}: {tensor_name(*key)} was seen twice in one forward pass.")
        slot = self._slots[key]
        if self._tensors[key].row_kind in sites.PAIRS:
            packed = self._pack_pairs(key, x)
        else:
            packed = self._pack_tokens(key, x)
        self._kept.add(key)
        if self._copies is not None and packed.is_cuda:
            # A copy in any case: the model may go on to change its own tensor before the host has it.
            converted = torch.empty(packed.shape, dtype=slot.dtype, device=packed.device).copy_(packed)
            self._finite_as_stored[key], self._finite_in_model[key] = _all_finite(converted), _all_finite(packed)
            self._copies.copy(converted, slot.view(packed.shape))
            return
        slot.view(packed.shape).copy_(packed)  # converts in the same pass over memory
        if not is_finite(slot):
            if not _all_finite(packed):
                raise self._not_finite_error(key)
            self._overflowing.append(key)

    def _pack_tokens(self, key: Key, x: torch.Tensor | None) -> torch.Tensor:
        """Turn (B, T, *row_shape) or (B·T, *row_shape) into (N, *row_shape), or (B, T, *row_shape) where nothing is padding."""
        side = "enc" if self._tensors[key].row_kind == sites.SOURCE else key.side
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
        return x if self._real[side] is None else self.pack(x, side)

    def pack(self, x: torch.Tensor, side: str) -> torch.Tensor:
        """Leave the padding out of (B, T, …), which gives (N, …)."""
        flat, real = x.flatten(0, 1), self._real[side]
        if real is None:
            return flat
        if (side, x.device) not in self._real_by_device:
            self._real_by_device[side, x.device] = real.to(x.device)
        return flat.index_select(0, self._real_by_device[side, x.device])

    def _pack_pairs(self, key: Key, x: torch.Tensor | None) -> torch.Tensor:
        """Turn (B, H, T, S) into (pairs, H), the pairs of each sequence row by row of its matrix."""
        kind, (heads,) = self._tensors[key].row_kind, self._tensors[key].row_shape
        batch, queries = self._shapes[key.side]
        over = self._shapes["enc" if kind == sites.CROSS else key.side][1]
        if x is None or x.shape != (batch, heads, queries, over):
            shape = None if x is None else tuple(x.shape)
            raise TracesError(f"{tensor_name(*key)} has shape {shape}, not ({batch}, {heads}, {queries}, {over}).")
        cached = (kind, key.side, x.device)
        if cached not in self._pairs:
            self._pairs[cached] = tuple(i.to(x.device) for i in self._pair_indices(kind, key.side))
        b, i, j = self._pairs[cached]
        return x.permute(0, 2, 3, 1)[b, i, j]

    def _pair_indices(self, kind: str, side: str) -> tuple[torch.Tensor, ...]:
        """Return the sequence, query and key, (pairs,) each, of all pairs of a kind."""
        indices = []
        for b, n in enumerate(self.lengths[side]):
            if kind == sites.TRIANGLE:
                i, j = torch.tril_indices(n, n)
            else:
                over = self.lengths["enc"][b] if kind == sites.CROSS else n
                i, j = torch.cartesian_prod(torch.arange(n), torch.arange(over)).unbind(1)
            indices.append((torch.full_like(i, b), i, j))
        return tuple(torch.cat(parts) for parts in zip(*indices, strict=True))

    def check(self) -> None:
        """Check that every tensor came and fits its dtype.

        Raises:
            TracesError: A tensor did not come, or has values that are not finite.
            DtypeOverflow: Values are too large for their storage dtype.
        """
        if missing := [tensor_name(*k) for k in self._tensors if k not in self._kept]:
            raise TracesError(
                f"{self._name}: {len(missing)} of the chosen tensors were not seen in the forward pass "
                f"({', '.join(missing[:4])}); nothing is written that might be wrong."
            )
        if self._finite_as_stored:
            stored, computed = (
                torch.stack([f.to("cpu") for f in d.values()]).tolist()
                for d in (self._finite_as_stored, self._finite_in_model)
            )
            for key, stored_finite, model_finite in zip(self._finite_as_stored, stored, computed, strict=True):
                if not model_finite:
                    raise self._not_finite_error(key)
                if not stored_finite:
                    self._overflowing.append(key)
        if self._overflowing:
            raise DtypeOverflow([tensor_name(*k) for k in self._overflowing])

    def _not_finite_error(self, key: Key) -> TracesError:
        return TracesError(
            f"The model itself computed infinite or undefined values ({tensor_name(*key)}). Load it in another dtype: "
            "float32 or bfloat16."
        )

    def arrays(self) -> dict[Key, np.ndarray]:
        """Return the packed tensors; from a GPU they are complete once its copies are."""
        return {key: _to_numpy(self._slots[key]) for key in self._tensors}


def _all_finite(x: torch.Tensor) -> torch.Tensor:
    if not x.numel():
        return torch.tensor(True)
    low, high = torch.aminmax(x)  # NaN if any is, and one pass over memory
    return torch.isfinite(low) & torch.isfinite(high)


def is_finite(x: torch.Tensor) -> bool:
    """Return whether all values of a contiguous tensor on the host are finite.

    Read as integers with a sign, the largest is infinity or NaN without a minus if there is any; read as integers without a sign,
    it is one with a minus if there is any. Both take a third of the time of one pass over the numbers.
    """
    signed, unsigned, infinity = _AS_INTEGERS[x.dtype]
    bits = x.view(signed).numpy()
    minus = 1 << (8 * x.element_size() - 1)
    return bool(bits.max(initial=0) < infinity and bits.view(unsigned).max(initial=0) < infinity + minus)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _to_numpy(x: torch.Tensor) -> np.ndarray:
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()
