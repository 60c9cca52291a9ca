"""The k largest of each row: those that topk finds, in the order of their places."""

from __future__ import annotations

import pytest
import torch

from capture.features.largest import largest

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "width", "k"), [(200, 4096, 32), (1, 4096, 64), (9, 128, 2), (30, 100, 7), (0, 4096, 3)])
def test_values_are_those_of_topk(n: int, width: int, k: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(n, width).to(dtype)
    few = x.masked_fill(torch.rand(n, width) < 0.995, -torch.inf)  # also where k of a row are not finite
    for values in (x, -x.abs(), few):
        found, at = largest(values, k)
        assert found.shape == at.shape == (n, k)
        torch.testing.assert_close(found.sort(-1).values, values.topk(k).values.sort(-1).values, rtol=0, atol=0)
        torch.testing.assert_close(values.gather(-1, at), found, rtol=0, atol=0)
        assert (at.diff(dim=-1) > 0).all()


def test_of_equal_values_the_first_are_taken() -> None:
    x = torch.zeros(2, 4096)
    x[0, [5, 4000]] = 2.0
    x[1, 100:110] = 1.0
    _, at = largest(x, 4)
    assert at[0].tolist() == [0, 1, 5, 4000]
    assert at[1].tolist() == [100, 101, 102, 103]


def test_what_is_no_number_is_among_the_largest() -> None:
    x = torch.randn(3, 4096)
    x[1, 7] = torch.nan
    values, at = largest(x, 5)
    assert values[1].isnan().sum() == 1 and 7 in at[1] and not values[[0, 2]].isnan().any()
