"""Batches as PyTorch and the library datasets want them. Imported only when they are asked for: both come with
`trace-warehouse[capture]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import ml_dtypes
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from warehouse.batches import Batches


class TorchBatches(IterableDataset):
    """`Batches` as tensors (n, D); each worker of a DataLoader reads its own pieces."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        mine = self.batches
        if worker is not None:
            mine = mine.part(worker.id, worker.num_workers)
            mine.passes = worker.seed  # another one each pass; the same under the same torch.manual_seed
        for x in mine:
            yield _tensor(x)

    def __len__(self) -> int:
        """Batches of one process; several workers may each have a last one that is not full."""
        return len(self.batches)


def _tensor(x: np.ndarray) -> torch.Tensor:
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def as_dataset(batches: Batches) -> datasets.Dataset:
    """The keys in Arrow, and a transform that reads the vectors of the rows asked for."""
    keys = batches.keys()
    keys = keys.append_column("token", [np.arange(len(keys))])

    def with_vectors(rows: dict[str, list[Any]]) -> dict[str, Any]:
        number = rows.pop("token")
        return {**rows, "vector": list(batches.vectors_at(np.asarray(number)))}

    return datasets.Dataset(keys).with_transform(with_vectors)
