"""A sparse dictionary: states in, activations of features out, and back.

`Dictionary` is an autoencoder, which reconstructs the states that it reads, or a transcoder, which computes from the states before a part of
a model those after it. Its numbers are those of SAELens, bit for bit on a CPU but for gated dictionaries: the products and sums come in the
same order, and what follows a product happens in its memory. It knows nothing of files and runs; `saelens_folder` reads and writes it.

Every call is a function of its arguments. Where a dictionary normalises each state before it reads it, `decode` takes the states as well, to
undo that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
import xxhash
from torch import Tensor, nn

from capture.features.architectures import ARCHITECTURES, NORMALISATIONS, Kind, check_tensors
from capture.features.largest import largest, places
from capture.model.hook_names import Place, find_place
from warehouse.errors import UsageError

_EPSILON = 1e-5
"""What SAELens adds to a state's standard deviation before it divides by it."""


_BY_STATE = ("constant_norm_rescale", "layer_norm")
"""Those that scale each state by itself."""


class Active(NamedTuple):
    """The features that are active at n states, m of them in all, state by state."""

    counts: Tensor
    """(n,)"""
    features: Tensor
    """(m,)"""
    activations: Tensor
    """(m,)"""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A sparse autoencoder or transcoder."""

    name: str
    architecture: str
    """One of `ARCHITECTURES`."""
    weights: Mapping[str, Tensor] = field(repr=False)
    """`W_enc` (d_in, n_features), `W_dec` (n_features, d_out), `b_dec` (d_out,); and (n_features,) `b_enc`, of JumpReLU `threshold`,
    of a gated one instead `b_gate`, `b_mag`, `r_mag`; with a skip `W_skip` (d_out, d_in)."""
    hook_name: str | None = None
    """What it reads, as TransformerLens names it: `blocks.15.hook_resid_post`."""
    hook_out: str | None = None
    """What a transcoder computes."""
    head: int | None = None
    """The head, where it reads only one of a site with heads."""
    model_name: str | None = None
    prepend_bos: bool | None = None
    context_size: int | None = None
    k: int | None = None
    """The most features of a token, of a top-k dictionary."""
    normalize: str = "none"
    """One of `NORMALISATIONS`."""
    subtract_b_dec: bool = True
    """Whether `b_dec` is taken off a state before it is encoded."""
    by_decoder_norm: bool = False
    """Whether a top-k dictionary scales activations by the lengths of the rows of `W_dec` before it chooses."""
    flattens_heads: bool = False
    """Whether it reads the outputs of all heads one after the other (SAELens' `hook_z`)."""
    weights_hash: str = ""
    """Of the tensors and all that changes what is computed: xxh3-128 in hex. That of the dictionary that was read, whatever `to` makes of it."""

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            UsageError: They don't.
        """
        self._check()
        if not self.weights_hash:
            object.__setattr__(self, "weights_hash", self._hash())

    @property
    def kind(self) -> Kind:
        """What it computes."""
        return ARCHITECTURES[self.architecture]

    @property
    def d_in(self) -> int:
        """The width of what it reads."""
        return self.weights["W_enc"].shape[0]

    @property
    def d_out(self) -> int:
        """The width of what it reconstructs."""
        return self.weights["W_dec"].shape[1]

    @property
    def n_features(self) -> int:
        """The number of features."""
        return self.weights["W_dec"].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.weights["W_enc"].dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.weights["W_enc"].device

    @property
    def site(self) -> Place | None:
        """The site and layer that it reads; None where it doesn't say so, or no site of ours is there."""
        return _place(self.hook_name)

    @property
    def site_out(self) -> Place | None:
        """The site and layer that it reconstructs: of an autoencoder what it reads."""
        return _place(self.hook_out) if self.kind.transcoder else self.site

    @property
    def decode_needs_states(self) -> bool:
        """Whether `decode` has to know what was encoded."""
        return self.kind.skip or (self.normalize in _BY_STATE and not self.kind.transcoder)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Dictionary:
        """Return the same dictionary on another device, or in another precision; None leaves that as it is."""
        moved = {name: w.to(device=device, dtype=dtype) for name, w in self.weights.items()}
        return replace(self, weights=moved)

    def encode(self, x: Tensor) -> Tensor:
        """Compute how strongly each feature is active.

        Args:
            x: States, (…, d_in), or with heads (…, heads, d_head).

        Returns:
            Activations, none below 0: (…, n_features).
        """
        w, pre = self.weights, self._product(x)
        match self.kind.activation:
            case "relu":
                return pre.add_(w["b_enc"]).relu_()
            case "jumprelu":
                pre.add_(w["b_enc"])
                return pre.masked_fill_(pre <= self._floors, 0)
            case "gated":  # SAELens multiplies the states by two matrices, whose columns differ by a factor
                closed = pre <= -w["b_gate"]
                return pre.mul_(self._magnitudes).add_(w["b_mag"]).relu_().masked_fill_(closed, 0)
        pre.add_(w["b_enc"])
        if self.by_decoder_norm:
            pre.mul_(self._norms)
        values, features = pre.topk(self.k or 0, dim=-1, sorted=False)
        return pre.zero_().scatter_(-1, features, values.relu_())

    def active(self, x: Tensor) -> Active:
        """Compute what `encode` does, bit for bit, and return only what is above 0.

        Few features are active, so that this takes one look at all of them after the product, where `encode` takes several.

        Args:
            x: As for `encode`, with one state a row.

        Returns:
            What is active, state by state, with the lowest feature first.
        """
        w, pre = self.weights, self._product(x)
        match self.kind.activation:
            case "relu":
                at = places(pre > -w["b_enc"])
                activations = pre.view(-1)[at] + w["b_enc"][at % self.n_features]
            case "jumprelu":
                # A sum is rounded, so that a value may be above the threshold that is not above the difference, or the other way about.
                floors = self._floors
                rounding = 4 * torch.finfo(self.dtype).eps
                least = (floors - w["b_enc"]) - rounding * (floors.abs() + w["b_enc"].abs())
                at = places(pre > least)
                activations = pre.view(-1)[at] + w["b_enc"][at % self.n_features]
                activations = activations.masked_fill_(activations <= floors[at % self.n_features], 0)
            case "gated":
                at = places(pre > -w["b_gate"])
                feature = at % self.n_features
                activations = pre.view(-1)[at].mul_(self._magnitudes[feature]).add_(w["b_mag"][feature])
            case _:
                pre.add_(w["b_enc"])
                if self.by_decoder_norm:
                    pre.mul_(self._norms)
                values, features = largest(pre, self.k or 0)
                activations = values.view(-1)
                at = (features + torch.arange(len(pre), device=pre.device)[:, None] * self.n_features).view(-1)
        above = activations > 0
        at, activations = at[above], activations[above]
        return Active(torch.bincount(at // self.n_features, minlength=len(pre)), at % self.n_features, activations)

    def decode(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruct states from activations.

        Args:
            z: Activations, (…, n_features).
            x: The states that were encoded; needed only where `decode_needs_states`.

        Returns:
            (…, d_out); or as `x`, where that has heads.

        Raises:
            UsageError: The states are needed, and not given.
        """
        self._check_has_states(x)
        if self.by_decoder_norm:
            z = z * (1 / self._norms)
        return self._finished(z @ self.weights["W_dec"], x)

    def decode_active(self, active: Active, x: Tensor | None = None) -> Tensor:
        """Do what `decode` does, from the active features alone.

        Args:
            active: What is active, as `active` returns it.
            x: As for `decode`.

        Returns:
            (n, d_out), which is that of `decode` but for the order of its sums.

        Raises:
            UsageError: The states are needed, and not given.
        """
        self._check_has_states(x)
        activations = active.activations
        if self.by_decoder_norm:
            activations = activations * (1 / self._norms)[active.features]
        first = active.counts.cumsum(0) - active.counts
        y = nn.functional.embedding_bag(
            active.features, self.weights["W_dec"], first, per_sample_weights=activations, mode="sum"
        )
        return self._finished(y, x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return what is left of states after they are encoded and decoded, (…, d_out)."""
        return self.decode(self.encode(x), x)

    def direction(self, feature: int) -> Tensor:
        """Return what a feature adds to a state per unit of its activation.

        Where each state is normalised by itself, that is its direction and not its length, which differs by state.

        Args:
            feature: Its number, from 0.

        Returns:
            A vector of the model's own space, (d_out,).

        Raises:
            UsageError: There is no such feature.
        """
        if not 0 <= feature < self.n_features:
            raise UsageError(f"{self.name} has the features 0 to {self.n_features - 1}, and no feature {feature}.")
        row = self.weights["W_dec"][feature]
        return row * (1 / self._norms[feature]) if self.by_decoder_norm else row.clone()

    @cached_property
    def _norms(self) -> Tensor:
        return self.weights["W_dec"].norm(dim=-1)

    @cached_property
    def _floors(self) -> Tensor:
        """The largest values that are no activation."""
        return self.weights["threshold"].clamp(min=0)

    @cached_property
    def _magnitudes(self) -> Tensor:
        return self.weights["r_mag"].exp()

    def _product(self, x: Tensor) -> Tensor:
        """Return the products of states with the columns of `W_enc`, before anything is added to them."""
        x = self._normalised(self._flat(x))
        if self.subtract_b_dec and not self.kind.transcoder:
            x = x - self.weights["b_dec"]
        return x @ self.weights["W_enc"]

    def _check_has_states(self, x: Tensor | None) -> None:
        """Raise UsageError where the states are needed to decode, and not given."""
        if x is None and self.decode_needs_states:
            raise UsageError(f"{self.name}: what it reconstructs depends on the states too. Give them to decode.")

    def _finished(self, y: Tensor, x: Tensor | None) -> Tensor:
        """Return the sums of features' directions with all that is added to them, in the shape of the states."""
        y = y.add_(self.weights["b_dec"])
        if x is None:
            return y
        flat = self._flat(x)
        if self.kind.transcoder:
            return y.add_(flat @ self.weights["W_skip"].T) if self.kind.skip else y
        y = self._restored(y, flat)
        return y if x.shape[-1] == self.d_in else y.view(x.shape)

    def _flat(self, x: Tensor) -> Tensor:
        """Return states in our precision, their heads one after the other."""
        x = x.to(self.dtype)
        return x if x.shape[-1] == self.d_in else x.flatten(-2)

    def scale(self, x: Tensor) -> Tensor | float:
        """Return what the sum of the features' directions is multiplied with before it is added to a state.

        Args:
            x: States, (…, d_in).

        Returns:
            (…, 1) where each state is normalised by itself, else 1.
        """
        if self.normalize == "constant_norm_rescale":
            return 1 / self._to_constant_norm(x)
        if self.normalize == "layer_norm":
            return x.std(dim=-1, keepdim=True)
        return 1.0

    def _normalised(self, x: Tensor) -> Tensor:
        if self.normalize == "constant_norm_rescale":
            return x * self._to_constant_norm(x)
        if self.normalize == "layer_norm":
            return layer_normalised(x)
        return x

    def _restored(self, y: Tensor, x: Tensor) -> Tensor:
        """Undo in a reconstruction how its state was normalised."""
        if self.normalize == "constant_norm_rescale":
            return y.div_(self._to_constant_norm(x))
        if self.normalize == "layer_norm":
            mean = x.mean(dim=-1, keepdim=True)
            return y.mul_((x - mean).std(dim=-1, keepdim=True)).add_(mean)
        return y

    def _to_constant_norm(self, x: Tensor) -> Tensor:
        return self.d_in**0.5 / x.norm(dim=-1, keepdim=True)

    def _check(self) -> None:
        """Raise UsageError where the parts do not fit together."""
        if self.architecture not in ARCHITECTURES:
            raise UsageError(
                f"{self.name} has the architecture {self.architecture!r}, which is not read: {', '.join(ARCHITECTURES)}."
            )
        if self.normalize not in NORMALISATIONS:
            raise UsageError(
                f"{self.name} normalises states by {self.normalize!r}, which is not known: {', '.join(NORMALISATIONS)}."
            )
        check_tensors(self.name, self.architecture, self.weights)
        if self.kind.activation == "topk" and not (self.k and 1 <= self.k <= self.n_features):
            raise UsageError(
                f"{self.name} keeps k = {self.k} features of {self.n_features}: k is a number from 1 to that."
            )

    def _hash(self) -> str:
        computed = [self.architecture, self.k, self.normalize, self.subtract_b_dec, self.by_decoder_norm]
        digest = xxhash.xxh3_128(json.dumps(computed).encode())
        for name, w in sorted(self.weights.items()):
            digest.update(f"{name} {w.dtype} {tuple(w.shape)}".encode())
            digest.update(w.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def layer_normalised(x: Tensor) -> Tensor:
    """Return states less their mean, over their standard deviation, each by itself."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.std(dim=-1, keepdim=True) + _EPSILON)


def _place(hook: str | None) -> Place | None:
    """Return the place that a hook is at; None for that after the final norm, whose number a dictionary doesn't tell."""
    place = None if hook is None else find_place(hook, 0)
    return None if place is None or place.site == "hidden" else place
