"""Trains a top-k autoencoder on batches of states, after Gao et al., "Scaling and evaluating sparse autoencoders" (2024).

A state x is encoded as the k largest of W_enc (x - b_dec) + b_enc, negative ones cut off, and decoded as z W_dec + b_dec. The loss is the
squared error over that of the mean state, and a 32nd of the same for a second reconstruction: of what is left of x by as many dead features
as half its width, those that come closest to being active. A feature is dead when no token of the last `dead_after` needed it. The rows of W_dec
have length 1 after every step, and no gradient along themselves. W_enc begins as W_dec transposed, b_dec as the states' geometric median.

Only the k chosen features of a state take part in its decoding and the gradient of that. The trainer knows nothing of files and runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from capture.features.largest import largest

_AUXILIARY = 1 / 32
_BETAS, _EPSILON = (0.9, 0.999), 6.25e-10
_WARM_UP, _DECAY = 0.05, 0.2
"""Shares of the steps in which the learning rate rises, and in the end falls to 0."""
_MEDIAN_ROUNDS = 50
_TRAINED = ("W_enc", "W_dec", "b_enc", "b_dec")


@dataclass(frozen=True)
class Recipe:
    """How an autoencoder is trained."""

    features: int
    k: int
    lr: float
    steps: int
    dead_after: int
    """Tokens without activity after which a feature is dead."""
    seed: int = 0


class Step(NamedTuple):
    """What a step measured before it changed anything."""

    unexplained: float
    """The squared error over that of the mean state."""
    dead: int
    """Dead features."""


class TopKTrainer:
    """An autoencoder in training."""

    def __init__(self, sample: Tensor, recipe: Recipe) -> None:
        """Begin a training.

        Args:
            sample: Some of the states, (m, d), on the device to train on.
            recipe: How to train.
        """
        self.recipe = recipe
        self.done = 0
        """Steps."""
        width = sample.shape[1]
        drawn = torch.randn(recipe.features, width, generator=torch.Generator().manual_seed(recipe.seed))
        decoder = nn.functional.normalize(drawn, dim=1).to(sample.device)
        b_dec = geometric_median(sample)
        self.weights = {
            "W_enc": decoder.T.contiguous(), "W_dec": decoder, "b_enc": torch.zeros_like(decoder[:, 0]), "b_dec": b_dec
        }  # fmt: skip
        for w in self.weights.values():
            w.requires_grad_()
        self._unused = torch.zeros(recipe.features, dtype=torch.int64, device=sample.device)
        self._variance = (sample - sample.mean(0)).square().sum(1).mean()
        self._kept: Tensor | None = None
        self._adam = torch.optim.Adam(self.weights.values(), lr=recipe.lr, betas=_BETAS, eps=_EPSILON, fused=True)

    def dead(self) -> Tensor:
        """Return the numbers of the features that are dead."""
        return (self._unused >= self.recipe.dead_after).nonzero()[:, 0]

    def step(self, x: Tensor) -> Step:
        """Train on a batch of states, (n, d)."""
        w = self.weights
        with torch.no_grad():
            read = x - w["b_dec"]
            pre = torch.addmm(w["b_enc"], read, w["W_enc"], out=self._memory(len(x)))
            chosen, features = largest(pre, self.recipe.k)
        values = chosen.relu_().requires_grad_()
        y = nn.functional.embedding_bag(features, w["W_dec"], per_sample_weights=values, mode="sum") + w["b_dec"]
        error = x - y
        unexplained = error.square().sum(1).mean() / self._variance
        dead = self.dead()
        near = pre[:, dead].requires_grad_()
        loss = unexplained + _AUXILIARY * self._auxiliary(near, error.detach(), dead) if len(dead) else unexplained
        self._adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert values.grad is not None
            pre.zero_().scatter_(1, features, values.grad * (values > 0))
            if near.grad is not None:
                pre.index_add_(1, dead, near.grad)
            self._pass_to_encoder(read, pre)
            self._update()
        self._unused += len(x)
        self._unused[features[values > 0]] = 0
        self.done += 1
        return Step(unexplained.item(), len(dead))

    def _auxiliary(self, pre: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Return how much of the error the dead features leave when they are to give it back; `pre` is what they make of the states."""
        values, features = pre.topk(min(error.shape[1] // 2, len(dead)), sorted=False)
        z = torch.zeros_like(pre).scatter(1, features, values.relu())
        left = (error - z @ self.weights["W_dec"][dead]).square().sum()
        return (left / error.square().sum()).nan_to_num(0)

    def _memory(self, n: int) -> Tensor:
        """Return memory for what every feature of n states makes, the same in every step: fresh memory costs as much as a product's sums."""
        if self._kept is None or len(self._kept) != n:
            self._kept = self._unused.new_empty((n, self.recipe.features), dtype=torch.float32)
        return self._kept

    def _pass_to_encoder(self, read: Tensor, gradient: Tensor) -> None:
        """Set the encoder's gradients from that of what every feature made of the states that were read.

        That of b_dec, which was taken off all states, is a sum over them: no product by state is needed.
        """
        w, total = self.weights, gradient.sum(0)
        w["W_enc"].grad, w["b_enc"].grad = read.T @ gradient, total
        through_decoder = w["b_dec"].grad
        assert through_decoder is not None
        through_decoder.sub_(w["W_enc"] @ total)

    def _update(self) -> None:
        decoder = self.weights["W_dec"]
        gradient = decoder.grad
        assert gradient is not None
        gradient.addcmul_(decoder, (gradient * decoder).sum(1, keepdim=True), value=-1)
        nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self._adam.param_groups[0]["lr"] = self.recipe.lr * self._share_of_rate()
        self._adam.step()
        decoder.div_(decoder.norm(dim=1, keepdim=True))

    def _share_of_rate(self) -> float:
        steps = self.recipe.steps
        rising = (self.done + 1) / (_WARM_UP * steps)
        falling = (steps - self.done) / (_DECAY * steps)
        return min(1.0, rising, falling)

    def state(self) -> dict[str, Tensor]:
        """Return all that a training goes on from."""
        found = {"unused": self._unused, "variance": self._variance, "done": torch.tensor(self.done)}
        for name, w in self.weights.items():
            moments = self._adam.state[w]
            found |= {name: w.detach()} | {
                f"{name}.{moment}": moments[moment] for moment in ("step", "exp_avg", "exp_avg_sq")
            }
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        device = self._unused.device
        self.done = int(state["done"].item())
        self._unused, self._variance = state["unused"].to(device), state["variance"].to(device)
        for name, w in self.weights.items():
            w.data = state[name].to(device)
            self._adam.state[w] = {m: state[f"{name}.{m}"].to(device) for m in ("step", "exp_avg", "exp_avg_sq")}


def geometric_median(x: Tensor) -> Tensor:
    """Return the point with the least sum of distances to states, (n, d), by Weiszfeld's iteration."""
    at = x.mean(0)
    for _ in range(_MEDIAN_ROUNDS):
        weights = 1 / (x - at).norm(dim=1).clamp(min=1e-6)
        at = (weights @ x) / weights.sum()
    return at
