"""What each architecture of SAELens computes, and which tensors it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from warehouse.errors import UsageError


class Kind(NamedTuple):
    """What dictionaries of an architecture compute."""

    activation: str
    """`relu`; `jumprelu`: above a threshold of the feature; `topk`: of the largest k of a token; `gated`: where a gate is open."""
    transcoder: bool = False
    skip: bool = False
    """Whether a linear map of the input is added to the output."""


ARCHITECTURES = {
    "standard": Kind("relu"),
    "jumprelu": Kind("jumprelu"),
    "topk": Kind("topk"),
    "gated": Kind("gated"),
    "transcoder": Kind("relu", transcoder=True),
    "skip_transcoder": Kind("relu", transcoder=True, skip=True),
    "jumprelu_transcoder": Kind("jumprelu", transcoder=True),
    "jumprelu_skip_transcoder": Kind("jumprelu", transcoder=True, skip=True),
}
"""By SAELens' names."""
NORMALISATIONS = ("none", "expected_average_only_in", "covariance_whitening", "constant_norm_rescale", "layer_norm")
"""By SAELens' names. The second and third scale all states alike while a dictionary is trained, which is then folded into its weights."""


def tensor_names(kind: Kind) -> dict[str, tuple[str, ...]]:
    """Return the tensors of a kind of dictionary, with the names of their dimensions."""
    biases = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(
        kind.activation, ("b_enc",)
    )
    names: dict[str, tuple[str, ...]] = {
        "W_enc": ("d_in", "n_features"),
        "W_dec": ("n_features", "d_out"),
        "b_dec": ("d_out",),
    }
    names |= {name: ("n_features",) for name in biases}
    return names | ({"W_skip": ("d_out", "d_in")} if kind.skip else {})


def check_tensors(name: str, architecture: str, weights: Mapping[str, Tensor]) -> None:
    """Check that a dictionary has the tensors of its architecture, whose shapes go together, and finite numbers in them.

    Args:
        name: What messages call it.
        architecture: One of `ARCHITECTURES`.
        weights: Its tensors.

    Raises:
        UsageError: It does not.
    """
    expected = tensor_names(ARCHITECTURES[architecture])
    if missing := [tensor for tensor in expected if tensor not in weights]:
        raise UsageError(f"{name} has no tensor {', '.join(missing)}, which a {architecture} dictionary needs.")
    if more := sorted(set(weights) - set(expected)):
        raise UsageError(f"{name} has tensors that no {architecture} dictionary has: {', '.join(more[:8])}.")
    if any(weights[tensor].ndim != 2 for tensor in ("W_enc", "W_dec")):
        raise UsageError(f"{name}: W_enc and W_dec are matrices, and here they are not.")
    sizes = {"d_in": len(weights["W_enc"]), "n_features": len(weights["W_dec"]), "d_out": weights["W_dec"].shape[1]}
    for tensor, dims in expected.items():
        shape, wanted = tuple(weights[tensor].shape), tuple(sizes[d] for d in dims)
        if shape != wanted:
            raise UsageError(
                f"{name}: {tensor} has the shape {shape}, and beside W_enc and W_dec it would be {wanted}."
            )
        if not weights[tensor].is_floating_point() or not weights[tensor].isfinite().all():
            raise UsageError(f"{name}: {tensor} holds values that are no finite numbers.")
    if not ARCHITECTURES[architecture].transcoder and sizes["d_in"] != sizes["d_out"]:
        raise UsageError(
            f"{name} reads {sizes['d_in']} values and returns {sizes['d_out']}, which only a transcoder does."
        )
