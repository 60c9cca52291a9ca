"""Files that `traces export npz` writes: an array a site with its layers first, and `about`, which says what they are of.

They become tensors by site and layer (`resid.post_mlp.L03`) as `activation_cache` reads them, heads after tokens.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from capture.data.files import printable_value
from capture.imports.tensor_file import TensorFile, as_metadata
from warehouse.errors import UsageError

_ABOUT = "about"


def is_own_arrays(file: TensorFile) -> bool:
    """Whether a file says of itself what `traces export npz` does."""
    about = file.tensors.get(_ABOUT)
    return about is not None and about.ndim == 0 and about.dtype.kind == "U"


def by_layer(file: TensorFile) -> TensorFile:
    """Give each layer of each site a name.

    Args:
        file: A file for which `is_own_arrays` is true.

    Returns:
        Its tensors by site and layer, and what it says of itself.

    Raises:
        UsageError: What it says and what it has don't agree.
    """
    try:
        about = json.loads(file.tensors[_ABOUT].item())
        layers: dict[str, Any] = dict(about["layers"])
        tensors: dict[str, np.ndarray] = {}
        for name, array in file.tensors.items():
            if name in layers:
                tensors |= {f"{name}.L{i:02}": x for i, x in zip(layers[name], array, strict=True)}
            elif name != _ABOUT:
                tensors[name] = array
        tensors = {n: x.swapaxes(0, 1) if n.partition(".")[0] in ("q", "k", "v") else x for n, x in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(
            f"{printable_value(file.path)} is no whole file of `traces export npz`: its `about` does not say which layers its arrays have."
        ) from None
    return TensorFile(file.path, tensors, as_metadata(about))
