"""How far two ways of computing the same thing may differ: every tolerance that more than one check uses.

Two dtypes matter, and they are not the same: the dtype that a model *computes* in ("float32", "bfloat16", …) bounds how far
two kernels, or a formula and a kernel, can agree; the dtype that a run *stores* ("F16", "BF16", …) bounds what comes back.
Every name says which of the two it takes. Callers: `capture.model` (proofs on a probe), `capture.recording`, `capture.jobs` and
`capture.traits` (proofs on a run's own data), `capture.verification` (a model or a run checked afterwards). What a single check
alone allows stays beside that check.
"""

from __future__ import annotations

import torch

_FORMULA_COMPUTED = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}

_STATES_COMPUTED = {torch.float32: 1e-4, torch.float64: 1e-4}
_STATES_COMPUTED_HALF = 0.05

SUMMATION_PROBABILITIES = 1e-5
"""Absolute, on attention probabilities: sums in another order, in float32."""

EAGER_PROBABILITIES_COMPUTED = {"float32": 0.0, "float16": 1e-2, "bfloat16": 1e-1}
"""Absolute, on attention probabilities, by the dtype computed in: eager attention rounds the scores themselves to it, and derived
attention does not. A score near 50 moves by up to 0.125 in bfloat16, and a probability of one half by a quarter of that."""

PROBABILITIES_STORED = {"F16": 5e-3, "BF16": 3e-2, "F32": SUMMATION_PROBABILITIES}
"""Absolute, on attention probabilities, by the dtype stored: q and k rounded to F16 were seen to move them by 2.1e-3, to BF16 by
1.6e-2."""


def formula_tolerance(computed: torch.dtype) -> float:
    """Return how far derived probabilities times v may be from the model's attention output.

    Args:
        computed: The dtype that the model computes in.

    Returns:
        A difference relative to the output's largest value: the dtype's rounding, with room for kernels that sum in another
        order.
    """
    return _FORMULA_COMPUTED.get(computed, 1e-4)


def states_tolerance(computed: torch.dtype) -> float:
    """Return how far states or logits may differ between two batches of other shapes.

    Args:
        computed: The dtype that the model computes in.

    Returns:
        A difference relative to the largest value: kernels round otherwise for other shapes.
    """
    return _STATES_COMPUTED.get(computed, _STATES_COMPUTED_HALF)
