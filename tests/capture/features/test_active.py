"""What a dictionary's `active` returns is what is above 0 in `encode`, bit for bit, and `decode_active` gives back what `decode` does."""

from __future__ import annotations

import pytest
import torch

from capture.features.dictionary import Dictionary

WIDTH, N = 24, 256


def dictionary(architecture: str, **more) -> Dictionary:
    of = torch.Generator().manual_seed(3)
    directions = torch.randn(N, WIDTH, generator=of) * torch.rand(N, 1, generator=of) * 3
    weights = {"W_enc": directions.T.contiguous(), "W_dec": directions, "b_dec": torch.randn(WIDTH, generator=of)}
    small = torch.randn(N, generator=of) / 3
    if architecture == "gated":
        weights |= {"b_gate": small - 2, "b_mag": small.flip(0), "r_mag": small / 2}
    else:
        weights["b_enc"] = small - 1
    if "jumprelu" in architecture:
        weights["threshold"] = torch.rand(N, generator=of) - 0.1
    if "skip" in architecture:
        weights["W_skip"] = torch.randn(WIDTH, WIDTH, generator=of)
    return Dictionary("d", architecture=architecture, weights=weights, **more)


CASES = [
    ("standard", {}),
    ("standard", {"normalize": "layer_norm"}),
    ("standard", {"normalize": "constant_norm_rescale", "subtract_b_dec": False}),
    ("jumprelu", {}),
    ("gated", {}),
    ("topk", {"k": 3}),
    ("topk", {"k": 3, "by_decoder_norm": True}),
    ("topk", {"k": N}),
    ("topk", {"k": 7}),
    ("transcoder", {}),
    ("skip_transcoder", {}),
    ("jumprelu_transcoder", {}),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_it_is_so_in_half_precision_too(architecture: str, dtype: torch.dtype) -> None:
    """Where a sum is rounded so that it may reach a threshold that its parts do not."""
    d = dictionary(architecture).to(dtype=dtype)
    x = torch.randn(3000, WIDTH, generator=torch.Generator().manual_seed(5))
    z, active = d.encode(x), d.active(x)
    assert torch.equal(active.features, (z > 0).nonzero()[:, 1])
    assert torch.equal(active.activations, z[z > 0])


@pytest.mark.parametrize(("architecture", "more"), CASES)
def test_it_is_what_encode_has_above_0(architecture: str, more: dict) -> None:
    d = dictionary(architecture, **more)
    x = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(5))
    if more.get("normalize") != "constant_norm_rescale":  # which divides by the length
        x[7] = 0
    z, active = d.encode(x), d.active(x)
    at = (z > 0).nonzero()
    assert len(at) > 500
    assert active.counts.tolist() == (z > 0).sum(1).tolist()
    assert torch.equal(active.features, at[:, 1])
    assert torch.equal(active.activations, z[z > 0])
    torch.testing.assert_close(
        d.decode_active(active, x), d.decode(z, x), rtol=1e-4, atol=1e-4
    )  # sums in another order


def test_a_value_at_its_threshold_is_not_active() -> None:
    """pre + bias is rounded before it is compared with the threshold: a third of these sums are the threshold itself."""
    of = torch.Generator().manual_seed(0)
    values = torch.rand(4000, generator=of)
    bias, threshold = 1e-7 * torch.rand(1, generator=of), values.median()[None]
    weights = {
        "W_enc": torch.ones(1, 1),
        "W_dec": torch.ones(1, 1),
        "b_dec": torch.zeros(1),
        "b_enc": bias,
        "threshold": threshold,
    }
    d = Dictionary("d", architecture="jumprelu", weights=weights)
    near = threshold * (1 + torch.arange(-20, 21)[:, None] * 6e-8)
    z = d.encode(near)
    active = d.active(near)
    assert active.counts.tolist() == (z > 0).sum(1).tolist() and 0 < active.counts.sum() < len(near)
    assert torch.equal(active.activations, z[z > 0])


def test_of_equal_values_as_many_are_kept_as_of_others() -> None:
    weights = {"W_enc": torch.ones(1, N), "W_dec": torch.ones(N, 1), "b_dec": torch.zeros(1), "b_enc": torch.zeros(N)}
    active = Dictionary("d", architecture="topk", k=3, weights=weights).active(torch.tensor([[2.0], [-1.0], [1.0]]))
    assert active.counts.tolist() == [3, 0, 3]
    assert active.activations.tolist() == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]


def test_no_states_have_nothing_active() -> None:
    for architecture, more in CASES:
        active = dictionary(architecture, **more).active(torch.zeros(0, WIDTH))
        assert [len(part) for part in active] == [0, 0, 0]


def test_a_state_that_is_no_number_is_no_error() -> None:
    d, x = dictionary("topk", k=3), torch.randn(5, WIDTH)
    x[2] = torch.nan
    active = d.active(x)
    assert active.counts[[0, 1, 3, 4]].tolist() == (d.encode(x)[[0, 1, 3, 4]] > 0).sum(1).tolist()
