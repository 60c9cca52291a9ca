"""How a model is fine-tuned, and how far it is: what callers and the parts of training share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from capture.jobs.job import check_option_values
from warehouse.errors import UsageError


@dataclass(frozen=True)
class Options:
    """How a model is fine-tuned."""

    epochs: int = 3
    lr: float = 5e-5
    batch_size: int = 8
    """Questions in a step, each with all its choices."""
    seed: int = 0
    gradient_checkpointing: bool = False
    limit: int | None = None
    """Train only on this many questions, the first ones; None: on all."""
    max_len: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for numbers out of range."""
        check_option_values(self, {"seed": (1 << 32) - 1})
        if not 0 <= self.lr < math.inf:
            raise UsageError(f"--lr {self.lr}: write a number from 0 up.")


@dataclass
class TrainingProgress:
    """How far training is; reported after every optimizer step."""

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    accuracy: float | None = None
    """The latest on the questions held out."""


Report = Callable[[TrainingProgress], None]
