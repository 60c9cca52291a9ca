"""What `--workers N` does in every command that has it: other processes run the same command, each for a part of the run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from capture.cli.terminal import note, stopped_by_signals
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.cli.options import LoadOptions, PartOptions
    from warehouse.storage.manifest import Manifest


def make_in_parts(
    part: PartOptions,
    root: AnyPath,
    run: str | None,
    *,
    loading: LoadOptions | None = None,
    total: int | None = None,
    unit: str = "examples",
) -> Manifest:
    """Have workers run this process's command line, and merge what they make.

    Args:
        part: How many workers there are.
        root: The warehouse.
        run: The run's name; None: the one that the command finds for it.
        loading: How each loads the model; None: there is none.
        total: How many examples, or what else `unit` says, there are; None: unknown.
        unit: What the progress bar counts.

    Returns:
        The manifest of the run.
    """
    from capture.workers.driver import run_in_parts
    from capture.workers.local_pool import LocalPool

    gpus, each = _shared_gpus(loading, part.workers)
    with stopped_by_signals():
        pool = LocalPool(sys.argv[1:], part.workers, gpus, each)
        return run_in_parts(pool, root, run, part.workers, total, unit, note)


def _shared_gpus(loading: LoadOptions | None, workers: int) -> tuple[list[str], int]:
    """Return the GPUs that workers share, as CUDA_VISIBLE_DEVICES names them, and how many a worker gets.

    There are none to share where the command names one, or another device.
    """
    if loading is None or (loading.device_map is None and loading.device not in ("auto", "cuda")):
        return [], 1
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    gpus = [name for name in visible.split(",") if name][:count]
    return gpus, 1 if loading.device_map is None else max(1, len(gpus) // workers)
