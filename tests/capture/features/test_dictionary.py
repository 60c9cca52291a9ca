"""Dictionaries compute what their papers and SAELens say, written out by hand; tests/peers asks SAELens itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from capture.features.architectures import ARCHITECTURES, tensor_names
from capture.features.dictionary import Dictionary
from warehouse.errors import UsageError

D, F, D_OUT = 6, 20, 4
NORMALISED = ("none", "constant_norm_rescale", "layer_norm")


def make(architecture: str, seed: int = 0, **said: object) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    kind = ARCHITECTURES[architecture]
    sizes = {"d_in": D, "n_features": F, "d_out": D_OUT if kind.transcoder else D}
    weights = {
        name: torch.randn(*(sizes[d] for d in dims), generator=generator) for name, dims in tensor_names(kind).items()
    }
    given = {"k": 3} if kind.activation == "topk" else {}
    return Dictionary("made", architecture, weights, **(given | said))  # type: ignore[arg-type]


def states(n: int = 50) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(1)) * 3 + 1


def normalised(x: Tensor, how: str) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """Return states as a dictionary reads them, and by what and to what their reconstructions are scaled and moved back."""
    if how == "constant_norm_rescale":
        factor = x.norm(dim=1, keepdim=True) / D**0.5
        return x / factor, factor, 0.0
    if how == "layer_norm":
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return (x - mean) / (std + 1e-5), std, mean
    return x, 1.0, 0.0


def by_hand(d: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return activations and reconstructions, token by token, in float64."""
    w = {name: t.double() for name, t in d.weights.items()}
    read, scale, shift = normalised(x.double(), d.normalize)
    if not d.kind.transcoder and d.subtract_b_dec:
        read = read - w["b_dec"]
    norms = w["W_dec"].norm(dim=1) if d.by_decoder_norm else torch.ones(F, dtype=torch.float64)
    z = torch.zeros(len(x), F, dtype=torch.float64)
    for i, token in enumerate(read):
        for j in range(F):
            pre = (token @ w["W_enc"][:, j]).item()
            match d.kind.activation:
                case "gated":
                    magnitude = pre * w["r_mag"][j].exp() + w["b_mag"][j]
                    z[i, j] = max(magnitude, 0) if pre + w["b_gate"][j] > 0 else 0
                case "jumprelu":
                    value = pre + w["b_enc"][j]
                    z[i, j] = max(value, 0) if value > w["threshold"][j] else 0
                case _:
                    z[i, j] = max(pre + w["b_enc"][j], 0) * norms[j]
        if d.kind.activation == "topk":
            z[i, z[i].argsort()[: -(d.k or 0)]] = 0
    y = (z / norms) @ w["W_dec"] + w["b_dec"]
    y = y if d.kind.transcoder else y * scale + shift
    return z, y + x.double() @ w["W_skip"].T if d.kind.skip else y


@pytest.mark.parametrize("normalize", NORMALISED)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_and_reconstructions_are_those_of_the_formulas(architecture: str, normalize: str) -> None:
    for said in ({}, {"subtract_b_dec": False}, {"by_decoder_norm": True} if architecture == "topk" else {}):
        d, x = make(architecture, normalize=normalize, **said), states()
        z, y = by_hand(d, x)
        ours = d.encode(x)
        assert torch.equal(ours > 0, z > 0)
        # float32 sums of 6 and 20 products against float64
        torch.testing.assert_close(ours.double(), z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(d.reconstruct(x).double(), y, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_calls_leave_no_trace(architecture: str) -> None:
    d, x, other = make(architecture, normalize="layer_norm"), states(), states() * 7
    given = x.clone()
    z = d.encode(x)
    kept = z.clone()
    d.reconstruct(other)
    first = d.decode(z, x)
    assert torch.equal(first, d.decode(z, x)) and torch.equal(first, d.reconstruct(x))
    assert torch.equal(z, kept) and torch.equal(x, given)
    assert torch.equal(d.encode(x.view(5, 10, D)), z.view(5, 10, F))


def test_a_direction_is_what_one_more_of_a_feature_adds() -> None:
    for d in (make("standard"), make("topk", by_decoder_norm=True), make("skip_transcoder")):
        x, z = states(1), torch.zeros(1, F)
        z[0, 7] = 1
        torch.testing.assert_close(
            d.decode(z, x)[0] - d.decode(torch.zeros(1, F), x)[0], d.direction(7), rtol=1e-5, atol=1e-5
        )
    with pytest.raises(UsageError, match="features 0 to 19, and no feature 20"):
        d.direction(20)


def test_heads_are_read_one_after_the_other_and_come_back_as_heads() -> None:
    d, x = make("standard", normalize="layer_norm", flattens_heads=True), states()
    heads = x.view(-1, 2, D // 2)
    assert torch.equal(d.encode(heads), d.encode(x))
    assert torch.equal(d.reconstruct(heads), d.reconstruct(x).view(-1, 2, D // 2))


def test_what_depends_on_the_states_asks_for_them() -> None:
    z = torch.zeros(1, F)
    assert not make("standard").decode_needs_states and make("standard").decode(z).shape == (1, D)
    for d in (make("standard", normalize="layer_norm"), make("skip_transcoder")):
        assert d.decode_needs_states
        with pytest.raises(UsageError, match="depends on the states too"):
            d.decode(z)


@pytest.mark.parametrize(
    "hook, site, layer",
    [
        ("blocks.15.hook_resid_post", "resid.post_mlp", 15),
        ("blocks.15.hook_resid_pre", "resid.post_mlp", 14),
        ("blocks.0.hook_resid_pre", "resid.embed", None),
        ("blocks.3.hook_resid_mid", "resid.post_attn", 3),
        ("blocks.3.hook_mlp_out", "mlp_out", 3),
        ("model.layers.4", None, None),
        ("blocks.3.attn.hook_z", None, None),
        ("ln_final.hook_normalized", None, None),
        (None, None, None),
    ],
)
def test_a_hook_is_a_site_of_ours(hook: str | None, site: str | None, layer: int | None) -> None:
    found = make("standard", hook_name=hook).site
    assert (None, None) if found is None else (found.site, found.layer) == (site, layer)
    assert make("transcoder", hook_out=hook).site_out == found and make("transcoder").site_out is None


def test_another_precision_is_the_same_dictionary() -> None:
    d = make("jumprelu")
    half = d.to(dtype=torch.float16)
    assert half.weights_hash == d.weights_hash and half.encode(states()).dtype == torch.float16
    assert make("jumprelu", seed=1).weights_hash != d.weights_hash
    assert make("jumprelu", normalize="layer_norm").weights_hash != d.weights_hash
    assert make("jumprelu", hook_name="blocks.0.hook_resid_post").weights_hash == d.weights_hash
