"""Host memory for a forward pass's tensors, and the copies that bring them there from a GPU."""

from __future__ import annotations

import queue
from collections.abc import Callable

import torch


class HostBuffers:
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


class DeviceCopies:
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
