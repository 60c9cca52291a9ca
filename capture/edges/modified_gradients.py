"""Changes what a backward pass computes, as GIM does (Edin et al. 2025), and nothing of the forward pass.

Three things: a norm's statistics count as constants; the softmax of attention has the gradient that it has at a temperature of 2; the
gradients of q and k are multiplied by 1/4, those of v by 1/2, as each is one factor of a product. `edge_scores` computes the method `gim`
under it. Norms and softmaxes are known by the functions of PyTorch that they call, so that no family needs code of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from capture.model.anatomy import Anatomy
from capture.model.attention_hook import change_attention, eager_attention

_TEMPERATURE = 2.0
GRADIENT_SCALES = {"q": 0.25, "k": 0.25, "v": 0.5}
"""What the gradients of each port are multiplied with."""

_RECIPROCAL_ROOTS = (torch.rsqrt, torch.Tensor.rsqrt)
_SOFTMAXES = (functional.softmax, torch.softmax, torch.Tensor.softmax)


@contextmanager
def modified_gradients(anatomy: Anatomy) -> Iterator[None]:
    """Have forward passes of a model leave a graph whose gradients are GIM's, while the context is open.

    Attention is computed step by step: no other implementation has a softmax whose gradient could be another.

    Args:
        anatomy: The model's.

    Yields:
        Nothing.
    """
    mode = _Modified()
    with ExitStack() as stack:
        stack.enter_context(eager_attention(anatomy.body.model))
        stack.enter_context(change_attention(anatomy.body.model, mode))
        stack.enter_context(mode)
        yield


class _Modified(TorchFunctionMode):
    """Replaces norms' statistics everywhere, and the softmax inside of the attention function."""

    def __init__(self) -> None:
        super().__init__()
        self._attending = False

    def before(
        self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Note that attention begins, and scale the gradients of what it reads."""
        self._attending = True
        scaled = [_scaled(x, GRADIENT_SCALES[port]) for port, x in zip("qkv", (q, k, v), strict=True)]
        return scaled[0], scaled[1], scaled[2]

    def after(self, module: torch.nn.Module, out: torch.Tensor) -> torch.Tensor:
        """Note that attention has ended."""
        self._attending = False
        return out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RECIPROCAL_ROOTS:
            return func(*args, **kwargs).detach()
        if func is functional.layer_norm:
            return _layer_norm(*args, **kwargs)
        if func is functional.rms_norm:
            return _rms_norm(*args, **kwargs)
        if self._attending and func in _SOFTMAXES:
            x, dim, dtype = _softmax_arguments(args, kwargs)
            x = x if dtype is None else x.to(dtype)
            return _Softmax.apply(x, dim)
        return func(*args, **kwargs)


class _Softmax(torch.autograd.Function):
    """A softmax with the gradient that it has at another temperature."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the softmax of x over a dimension."""
        ctx.dim = dim
        ctx.save_for_backward(x)
        return x.softmax(dim)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient by x."""
        (gradient,) = gradients
        (x,) = ctx.saved_tensors
        p = (x / _TEMPERATURE).softmax(ctx.dim)
        return p * (gradient - (gradient * p).sum(ctx.dim, keepdim=True)), None


class _Scale(torch.autograd.Function):
    """Returns a tensor as it is, and its gradient times a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        """Return x."""
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient by x."""
        return gradients[0] * ctx.scale, None


def _scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    scaled: torch.Tensor = _Scale.apply(x, scale)
    return scaled


def _softmax_arguments(args: Any, kwargs: Any) -> tuple[torch.Tensor, int, torch.dtype | None]:
    x = args[0] if args else kwargs.get("input", kwargs.get("self"))
    dim = kwargs["dim"] if "dim" in kwargs else args[1]
    return x, dim, kwargs.get("dtype")


def _layer_norm(
    x: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Return the layer norm, its mean a linear function of x and its scale a constant."""
    dims = tuple(range(-len(normalized_shape), 0))
    wide = x.float()
    centred = wide - wide.mean(dims, keepdim=True)
    scale = (centred.square().mean(dims, keepdim=True) + eps).rsqrt().detach()
    y = (centred * scale).to(x.dtype)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(
    x: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """Return the root-mean-square norm, its scale a constant."""
    dims = tuple(range(-len(normalized_shape), 0))
    wide = x.float()
    least = torch.finfo(x.dtype).eps if eps is None else eps
    scale = (wide.square().mean(dims, keepdim=True) + least).rsqrt().detach()
    y = (wide * scale).to(x.dtype)
    return y if weight is None else y * weight
