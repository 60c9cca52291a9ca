"""Whether values are finite is read off their bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capture.recording.forward_pass import is_finite

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_smallest_and_negative_zero_are_finite(dtype: torch.dtype) -> None:
    facts = torch.finfo(dtype)
    values = [facts.max, facts.min, facts.tiny, -facts.tiny, facts.smallest_normal, 0.0, -0.0]
    assert is_finite(torch.tensor(values, dtype=dtype))
    assert is_finite(torch.empty((0, 3), dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("place", [0, 1000, 3 * 701 - 1])
def test_one_value_that_is_not_finite_is_found(dtype: torch.dtype, value: float, place: int) -> None:
    x = torch.randn((3, 701), dtype=dtype)
    assert is_finite(x)
    x.view(-1)[place] = value
    assert not is_finite(x)


def test_every_float16_is_judged_as_numpy_judges_it() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    found = [is_finite(torch.from_numpy(every[i : i + 1])) for i in range(len(every))]
    np.testing.assert_array_equal(found, np.isfinite(every))
