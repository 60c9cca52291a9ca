"""Stored values, numpy arrays, as tensors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch


def as_tensor(x: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor of the same dtype, bfloat16 too; nothing is copied."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)
