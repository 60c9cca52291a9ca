"""One forward pass: packs its tensors."""

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

_TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_ALIGNED = 64


class DtypeOverflow(Exception):
    """Finite values that the storage dtype of some tensors would make infinite."""

    def __init__(self, tensors: list[str]) -> None:
        super().__init__(f"values too large for their storage dtype in {', '.join(tensors)}")
        self.tensors = tensors


class ForwardPass:
    """One forward pass: where its tensors go, and which of them have come."""

    def __init__(
        self,
        name: str,
        time_first: set[str],
        tensors: Mapping[Key, TensorSpec],
        kinds: Mapping[Key, str],
        buffers: HostBuffers,
        copies: DeviceCopies | None,
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

    def _lay_out(self, buffers: HostBuffers) -> tuple[torch.Tensor, dict[Key, torch.Tensor]]:
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
