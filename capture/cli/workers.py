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
    from capture.workers.local_pool import LocalPool, count_cores
    from capture.workers.ray_pool import RayPool

    pool: LocalPool | RayPool
    if part.ray is not None:
        pool = RayPool(sys.argv[1:], part.workers, part.ray, root, int(_takes_gpu(loading)))
    else:
        gpus, each = _shared_gpus(loading, part.workers)
        if not gpus and part.workers > (cores := count_cores()):
            note(
                f"{part.workers} workers share {cores} cores: each loads the model, and more workers than cores are seldom faster"
            )
        pool = LocalPool(sys.argv[1:], part.workers, gpus, each)
    with stopped_by_signals():
        return run_in_parts(pool, root, run, part.workers, total, unit, note)


def _takes_gpu(loading: LoadOptions | None) -> bool:
    """Return whether a worker may take any GPU that it is given."""
    return loading is not None and (loading.device_map is not None or loading.device in ("auto", "cuda"))


def _shared_gpus(loading: LoadOptions | None, workers: int) -> tuple[list[str], int]:
    """Return the GPUs that workers share, as CUDA_VISIBLE_DEVICES names them, and how many a worker gets.

    There are none to share where the command names one, or another device.
    """
    if loading is None or not _takes_gpu(loading):
        return [], 1
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    gpus = [name for name in visible.split(",") if name][:count]
    return gpus, 1 if loading.device_map is None else max(1, len(gpus) // workers)
