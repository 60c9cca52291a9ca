"""Host memory for the tensors of forward passes, and the copies that bring them there from a GPU.

A `Recorder` owns one `HostBuffers` and, on a GPU, one `DeviceCopies`. A pass takes one buffer for all its tensors, copies into
it while the model runs on, and the writer gives it back once the tensors are on disk.
"""

from __future__ import annotations

import queue
from collections.abc import Callable

import torch


class HostBuffers:
    """Memory for the few batches on their way to the disk, used again and again.

    The system hands out fresh memory page by page, which costs more than filling it.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()

    def take(self, size: int) -> torch.Tensor:
        """Return a buffer of at least `size` bytes."""
        try:
            buffer = self._free.get_nowait()
        except queue.Empty:
            buffer = torch.empty(0, dtype=torch.uint8)
        if len(buffer) >= size:
            return buffer
        del buffer
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)

    def give_back(self, buffer: torch.Tensor) -> None:
        """Let a later pass write over a buffer."""
        self._free.put(buffer)


class DeviceCopies:
    """Copies from GPUs to pinned memory, on a stream of each device's own, so that the forward pass does not wait."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, x: torch.Tensor, target: torch.Tensor) -> None:
        """Start copying a tensor to `target`, which is pinned and of the same shape and dtype."""
        if x.device not in self._streams:
            self._streams[x.device] = torch.cuda.Stream(x.device)
        stream = self._streams[x.device]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            target.copy_(x, non_blocking=True)
        x.record_stream(stream)  # its memory is not used again before the copy is done

    def make_wait(self) -> Callable[[], None]:
        """Return a function that waits for all copies started so far, and for no later ones."""
        events = [stream.record_event() for stream in self._streams.values()]

        def wait() -> None:
            for event in events:
                event.synchronize()

        return wait
