"""What a step of `traces features train` costs, against the same step with dense products and autograd.

Both take batches of 2,048 made-up states of width 576 to a dictionary of 4,096 features, 32 of a state, with the same Adam. The other step
scatters the chosen features into a matrix and multiplies that; autograd has the rest. Their first errors are checked to be equal. Both have
one thread, as several wait for each other where a machine does something else too.

    python benchmarks/dictionary_training.py [--rounds 5] [--steps 10] [--features 4096] [--batch 2048]
"""

from __future__ import annotations

import argparse
import statistics

import torch
from common import in_turns, parsed, record
from torch import Tensor, nn

from capture.features.topk_trainer import Recipe, TopKTrainer

WIDTH, K = 576, 32


class DenseStep:
    """The step as one writes it."""

    def __init__(self, trainer: TopKTrainer, sample: Tensor) -> None:
        self.weights = {name: nn.Parameter(w.detach().clone()) for name, w in trainer.weights.items()}
        self.variance = (sample - sample.mean(0)).square().sum(1).mean()
        self.adam = torch.optim.Adam(self.weights.values(), lr=trainer.recipe.lr, fused=True)

    def step(self, x: Tensor) -> float:
        w = self.weights
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        values, features = pre.topk(K, sorted=False)
        z = torch.zeros_like(pre).scatter(1, features, values.relu())
        error = (x - (z @ w["W_dec"] + w["b_dec"])).square().sum(1).mean() / self.variance
        self.adam.zero_grad()
        error.backward()
        with torch.no_grad():
            decoder, gradient = w["W_dec"], w["W_dec"].grad
            assert gradient is not None
            gradient -= (gradient * decoder).sum(1, keepdim=True) * decoder
            nn.utils.clip_grad_norm_(w.values(), 1.0)
            self.adam.step()
            decoder /= decoder.norm(dim=1, keepdim=True)
        return float(error.item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=2048)
    args = parsed(parser, rounds=1, steps=2, features=128, batch=64)
    torch.set_num_threads(1)
    states = torch.randn(args.batch * args.steps, WIDTH, generator=torch.Generator().manual_seed(0))
    batches = states.split(args.batch)
    # no feature is dead in so few steps, and so neither trains dead ones
    ours = TopKTrainer(states, Recipe(args.features, K, 1e-4, 1000, dead_after=1 << 40))
    other = DenseStep(ours, states)
    torch.testing.assert_close(ours.step(batches[0]).unexplained, other.step(batches[0]), rtol=1e-4, atol=0)
    mine, theirs = in_turns(
        lambda: [ours.step(x) for x in batches], lambda: [other.step(x) for x in batches], args.rounds
    )
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    record(
        "dictionary_training#step",
        f"a step of a dictionary's training, {args.batch:,} states of width {WIDTH}, {args.features:,} features, k {K}, one thread",
        "the same step with dense products and autograd",
        f"{statistics.median(mine) / args.steps * 1e3:.0f} ms",
        f"{statistics.median(theirs) / args.steps * 1e3:.0f} ms",
        f"{statistics.median(ratios):.2f} times its time ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)",
        "at most 0.60",
    )


if __name__ == "__main__":
    main()
