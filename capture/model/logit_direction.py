"""Turns logits into linear functions of the final residual stream, the final norm's scale held at its value there.

In: a model's anatomy. Out: a `LogitReader`, which reads logits off rows of the stream by the model's own norm and head, and gives for
a row and some tokens a `LogitDirection`: a vector u and a bias, with u · row + bias = their logit (or mean of one set of tokens less
that of another). What makes up the row, each part times u, so makes up the logit: direct logit attribution (Elhage et al. 2021).

Neither norm nor head is known by name. Of the norm is found, by what it makes of a few vectors: its bias (of zero), its gain (of a
large vector without a mean), and whether it takes the mean away; its scale is fitted at each row. Of the head: its bias, a constant
that it multiplies with, and a cap, where logits grow no further: then the direction is that of the logit before its cap. Each is held
against the model's own numbers, and refused where it does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from capture.model.anatomy import Anatomy
from capture.model.final_norm import FinalNorm
from capture.model.forward_trace import probe_tokens
from capture.model.lm_head import LMHead
from capture.model.tolerances import formula_tolerance
from warehouse.errors import UsageError

_LARGE = 1024.0
"""A size at which a norm's epsilon no longer counts, and at which a capped logit is its cap."""
_UNCAPPED = 0.9
"""The part of its cap up to which a logit tells what it was before it."""


@dataclass(frozen=True)
class LogitDirection:
    """A logit, or a mean of some less a mean of others, as a linear function of one row of the residual stream."""

    vector: torch.Tensor
    """u, (D,) float64, on the CPU."""
    bias: float
    """What the biases of norm and head add."""
    logit: float
    """The same by the model's own norm and head."""


class LogitReader:
    """A model's final norm and head, taken apart."""

    quantity: str
    """`logit`, or `logit before its soft-cap`."""

    def __init__(self, anatomy: Anatomy) -> None:
        """Find out norm and head on a probe.

        Raises:
            UsageError: The norm or the head is of another kind, or the model has several residual streams.
            TracesError: The model has no language-model head.
        """
        model = anatomy.body.model
        self._name, self._tolerance = type(model).__name__, formula_tolerance(model.dtype)
        self._dtype, self._device = model.dtype, model.device
        if len(anatomy.main.width) != 1:
            raise UsageError(f"{self._name} has several residual streams, so that its logits do not follow from one.")
        self._norm, self._head = FinalNorm(anatomy), LMHead(anatomy.body)
        self.vocabulary = self._head.vocabulary
        with torch.no_grad():
            rows = _final_rows(anatomy)
            self._find_norm(rows)
            self._find_head(model.get_output_embeddings(), self._norm(rows))

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits (n, V), float32 on the CPU and valid until the next call, of rows (n, D) of the final residual stream."""
        with torch.no_grad():
            return self._head(self._norm(rows.to(self._device, self._dtype))).float().cpu()

    def direction(
        self, row: torch.Tensor, logits: torch.Tensor, plus: Sequence[int], minus: Sequence[int]
    ) -> LogitDirection:
        """Return the direction of the mean logit of some tokens, less that of others, at a row.

        Args:
            row: (D,) of the final residual stream.
            logits: (V,) of that row.
            plus: Ids of the tokens.
            minus: Ids of those whose mean is taken away; none: nothing is.

        Returns:
            The direction.

        Raises:
            UsageError: The norm is not linear at that row, but for its scale.
        """
        with torch.no_grad():
            normed = self._norm(row[None].to(self._device, self._dtype))[0].double().cpu()
        scale, error = self._fit_scale(row[None].double().cpu(), normed[None] - self._norm_bias, self._centred)
        if not error <= self._tolerance:
            raise UsageError(f"{self._name}: {_NOT_A_NORM}, off by {error:.1e} of it.")
        head, bias = self._head_vector(plus, minus)
        vector = head * self._gain * scale
        if self._centred:
            vector -= vector.mean()
        if self.quantity == "logit":
            logit = self._mean(logits.double(), plus) - (self._mean(logits.double(), minus) if minus else 0.0)
        else:
            logit = float(head @ normed) + bias
        return LogitDirection(vector, float(head @ self._norm_bias) + bias, logit)

    def values(self, rows: torch.Tensor, plus: Sequence[int], minus: Sequence[int]) -> np.ndarray:
        """Return the logit of some tokens, less that of others, as `direction` explains it: (n,) of rows (n, D) of the stream."""
        with torch.no_grad():
            normed = self._norm(rows.to(self._device, self._dtype)).double().cpu()
        head, bias = self._head_vector(plus, minus)
        values: np.ndarray = (normed @ head + bias).numpy()
        return values

    def _head_vector(self, plus: Sequence[int], minus: Sequence[int]) -> tuple[torch.Tensor, float]:
        """Return what the head multiplies a normed state with, (D,), and the bias that it adds."""
        head, bias = self._head_row(plus), self._mean(self._head_bias, plus)
        if minus:
            return head - self._head_row(minus), bias - self._mean(self._head_bias, minus)
        return head, bias

    def _head_row(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._weight[list(tokens)].double().cpu().mean(0) * self._factor

    @staticmethod
    def _mean(values: torch.Tensor, tokens: Sequence[int]) -> float:
        return float(values[list(tokens)].mean())

    # -- taking apart ----------------------------------------------------------------------------------------------

    def _find_norm(self, rows: torch.Tensor) -> None:
        width = rows.shape[1]
        signs = torch.ones(width, dtype=torch.float64)
        signs[1::2] = -1
        if width % 2:
            signs[-1] = 0  # and the vector turned by one shows what this one hides
        both = torch.stack([signs, signs.roll(1)])
        zero_and_signs = torch.cat([torch.zeros(1, width), both * _LARGE]).to(rows.device, rows.dtype)
        zero, one, other = self._norm(zero_and_signs).double().cpu()
        if len(zero) != width:
            raise UsageError(f"{self._name}: {_NOT_A_NORM}.")
        self._norm_bias = zero
        self._gain = torch.where(both[0] != 0, (one - zero) * both[0], (other - zero) * both[1])
        normed = self._norm(rows).double().cpu() - zero
        errors = {centred: self._fit_scale(rows.double().cpu(), normed, centred)[1] for centred in (False, True)}
        self._centred = errors[True] < errors[False]
        if not errors[self._centred] <= self._tolerance:
            raise UsageError(f"{self._name}: {_NOT_A_NORM}, off by {errors[self._centred]:.1e} of it.")

    def _fit_scale(self, rows: torch.Tensor, normed: torch.Tensor, centred: bool) -> tuple[float, float]:
        """Fit what multiplies each row in the norm; return that of the last, and the largest relative error of all."""
        if centred:
            rows = rows - rows.mean(1, keepdim=True)
        linear = rows * self._gain
        scales = (linear * normed).sum(1) / linear.square().sum(1).clamp(min=1e-300)
        errors = (scales[:, None] * linear - normed).abs().amax(1) / normed.abs().amax(1).clamp(min=1e-300)
        return float(scales[-1]), float(errors.max())

    def _find_head(self, head: object, states: torch.Tensor) -> None:
        weight = getattr(head, "weight", None)
        if not (
            isinstance(weight, torch.Tensor)
            and weight.is_floating_point()
            and weight.ndim == 2
            and weight.shape[0] >= self.vocabulary
            and weight.shape[1] == states.shape[1]
        ):
            raise UsageError(f"{self._name}: {_NOT_A_HEAD}.")
        self._weight = weight[: self.vocabulary]
        logits = self._head(states).double().cpu()
        largest = float(self._head(states * _LARGE).double().abs().max())
        capped = largest < _LARGE / 2 * float(logits.abs().max())
        self.quantity = "logit before its soft-cap" if capped else "logit"
        self._head_bias = self._uncapped(self._head(torch.zeros_like(states[:1])).double().cpu()[0], largest, capped)
        products = (states.to(weight.dtype) @ self._weight.t()).double().cpu()
        known = logits.abs() < (_UNCAPPED * largest if capped else torch.inf)
        z, before = products[known], (self._uncapped(logits, largest, capped) - self._head_bias)[known]
        self._factor = float((z @ before) / z.square().sum().clamp(min=1e-300))
        linear = self._factor * products + self._head_bias
        fitted = largest * torch.tanh(linear / largest) if capped else linear
        finite = logits > -torch.inf  # a token that is ruled out
        error = float((fitted - logits).abs()[finite].max() / logits[finite].abs().max())
        if not error <= self._tolerance:
            raise UsageError(f"{self._name}: {_NOT_A_HEAD}, off by {error:.1e} of it.")

    @staticmethod
    def _uncapped(logits: torch.Tensor, cap: float, capped: bool) -> torch.Tensor:
        return cap * torch.atanh((logits / cap).clamp(-1, 1)) if capped else logits


_NOT_A_NORM = "what stands between its last block and its head is no norm with a gain and a bias alone"
_NOT_A_HEAD = "its logits are not its last state times the weights of its head, up to a factor, a bias and a cap"


def _final_rows(anatomy: Anatomy) -> torch.Tensor:
    """Return the rows (T, D) that the final norm reads in a pass over random tokens."""
    outputs: list[torch.Tensor] = []
    block = anatomy.main.layers[-1].block

    def keep(_module: object, _args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        outputs.append(output if isinstance(output, torch.Tensor) else output[0])

    handle = block.register_forward_hook(keep)
    try:
        anatomy.body(probe_tokens(anatomy.body))
    finally:
        handle.remove()
    return outputs[-1].reshape(-1, outputs[-1].shape[-1])
