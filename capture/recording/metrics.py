"""How well a prompt is answered: a number for each row of logits, from a signed set of tokens.

In go the logits where prompts end, and `Targets`: for each prompt the tokens that are right (+1) and wrong (-1). Out comes one
number a prompt, in float64. The capture of a task and every run that intervenes on it call this, so that their numbers compare.
Knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

METRICS = ("logit_diff", "prob_diff", "logprob", "kl")
"""The metrics by name; `metric` says what each is."""

SIGNED = ("logit_diff", "prob_diff")
"""Those that are above 0 where the model prefers a right answer to a wrong one."""

LEAST_DIFFERENCE = {"logit_diff": 0.1, "prob_diff": 0.01, "logprob": 0.1, "kl": 0.01}
"""How far a metric of the clean and of the corrupted prompt must be apart, at least, for a ratio to their difference to mean
something: in logits, probability, nats, nats."""


@dataclass(frozen=True)
class Targets:
    """The tokens that the metrics of N prompts are about, padded to K."""

    ids: torch.Tensor
    """(N, K) int64 token ids; 0 where padded."""
    signs: torch.Tensor
    """(N, K) int8: 1 for a right answer, -1 for a wrong one, 0 where padded."""

    @classmethod
    def of(cls, signed: Sequence[Mapping[int, int]]) -> Targets:
        """Return the targets of prompts that are given as token id → sign."""
        shape = (len(signed), max(map(len, signed), default=0))
        ids, signs = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int8)
        for i, tokens in enumerate(signed):
            ids[i, : len(tokens)] = torch.tensor(list(tokens))
            signs[i, : len(tokens)] = torch.tensor(list(tokens.values()), dtype=torch.int8)
        return cls(ids, signs)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: torch.Tensor) -> Targets:
        """Return the targets of the prompts `rows` (R,), which may repeat."""
        return Targets(self.ids[rows], self.signs[rows])


def metric(
    name: str, logits: torch.Tensor, targets: Targets, clean_log_probs: torch.Tensor | None = None
) -> np.ndarray:
    """Compute a metric of N prompts, as `metric_tensor` does: (N,) float64."""
    values: np.ndarray = metric_tensor(name, logits, targets, clean_log_probs).cpu().numpy()
    return values


def metric_tensor(
    name: str, logits: torch.Tensor, targets: Targets, clean_log_probs: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute a metric of N prompts, differentiable by their logits.

    `logit_diff`: the mean logit of the right answers minus that of the wrong ones. `prob_diff`: the summed probability of the right
    answers minus that of the wrong ones. `logprob`: ln of the summed probability of the right answers, nats. `kl`: the
    divergence KL(clean ‖ this), nats. Where a prompt has no wrong answer, the first two are the right ones' part alone.

    Args:
        name: One of `METRICS`.
        logits: (N, V), where the prompts end.
        targets: Of the N prompts; not used by `kl`.
        clean_log_probs: (N, V) `log_probs` of what the prompts are compared with; only used by `kl`.

    Returns:
        (N,) float64.

    Raises:
        ValueError: There is no such metric, or `kl` has nothing to compare with.
    """
    if name == "kl":
        if clean_log_probs is None:
            raise ValueError("kl compares with a distribution: give clean_log_probs")
        return _divergence(clean_log_probs, log_probs(logits))
    ids = targets.ids.to(logits.device)
    if name == "logit_diff":
        given = _widened(logits.gather(1, ids))
        right, wrong = _masks(targets, given.device)
        return _mean(given, right) - _mean(given, wrong)
    given = log_probs(logits)
    given = given.gather(1, ids.to(given.device))
    right, wrong = _masks(targets, given.device)
    if name == "prob_diff":
        probs = given.exp()
        return (probs * right).sum(1) - (probs * wrong).sum(1)
    if name == "logprob":
        return given.masked_fill(~right, -torch.inf).logsumexp(1)
    raise ValueError(f"no metric '{name}'")


def log_probs(logits: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities (N, V), nats and float64, of N rows of logits."""
    return _widened(logits).log_softmax(1)


def _widened(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor as float64, on the host where its device has no such numbers."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _masks(targets: Targets, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of the (N, K) targets are right, and which are wrong."""
    signs = targets.signs.to(device)
    return signs > 0, signs < 0


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of each row's values under the mask, (N,); 0 where there is none."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def _divergence(clean: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return KL(clean ‖ other) of N pairs of log-probabilities; a token that the clean prompt rules out adds nothing."""
    p = clean.exp()
    terms = torch.where(p > 0, p * (clean - other), 0.0)
    return terms.sum(1).clamp(min=0)  # below 0 by rounding alone
