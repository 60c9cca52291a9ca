"""Batches of stored vectors as PyTorch and the library datasets want them.

>>> loader = DataLoader(TorchBatches(wh.batches(layer=15, shuffle=True)), batch_size=None, num_workers=2)  # doctest: +SKIP
>>> as_dataset(wh.batches(layer=15))[0]["vector"]  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from capture.model.stored_values import as_tensor
from warehouse.activations.batches import Batches


class TorchBatches(IterableDataset[torch.Tensor]):
    """`Batches` as tensors (n, D) for a DataLoader with batch_size=None, each of whose workers reads its own pieces.

    bfloat16 vectors stay bfloat16.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self._passes = 0  # this worker's, which may live for several passes

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        mine = self.batches
        if worker is not None:
            mine = mine.part(worker.id, worker.num_workers)
            mine.passes = worker.seed + self._passes  # differs between passes; the same for the same torch.manual_seed
            self._passes += 1
        for x in mine:
            yield as_tensor(x)

    def __len__(self) -> int:
        """Return the batches of one process; several workers may each have a last batch that is not full."""
        return len(self.batches)


def as_dataset(batches: Batches) -> datasets.Dataset:
    """Make a `datasets.Dataset` with a row a token: its keys, and `vector`, which is read from the shards on access."""
    keys = batches.keys()
    keys = keys.append_column("token", [np.arange(len(keys))])

    def with_vectors(rows: dict[str, list[Any]]) -> dict[str, Any]:
        number = rows.pop("token")
        return {**rows, "vector": list(batches.vectors_at(np.asarray(number)))}

    return datasets.Dataset(keys).with_transform(with_vectors)
