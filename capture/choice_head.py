"""The model's own way from a question with a choice to the choice's logit, for sequences that are recorded."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch

from capture.body import Body, forward_replaced, probe_ids
from warehouse.errors import TracesError, UsageError


class ChoiceHead:
    """Remembers what the model's body gave in its last pass; the model's `forward` is then called with a body that gives just
    that, so that pooling and head are its own code. Use as a context manager."""

    def __init__(self, body: Body) -> None:
        """Raises UsageError for a model without such a head, TracesError where logits don't follow from what the body gives."""
        self._model, self._body = body.model, body.module
        if not type(body.model).__name__.endswith("ForMultipleChoice"):
            raise UsageError(f"{type(body.model).__name__} has no multiple-choice head.")
        self._given: Any = None
        self._handle: Any = None
        ids = torch.cat([probe_ids(body.model, 12), probe_ids(body.model, 12, seed=1)])
        with self, torch.no_grad():
            expected = self._model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0]
            if not torch.equal(self.logits(), expected):
                raise TracesError(
                    f"{type(body.model).__name__}: its logits don't follow from what its body gives, so that they would not be "
                    "its own."
                )

    def __enter__(self) -> ChoiceHead:
        def remember(_module: Any, _args: Any, output: Any) -> None:
            self._given = output

        self._handle = self._body.register_forward_hook(remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def logits(self) -> torch.Tensor:
        """(B,), one for each sequence of the last pass."""
        given = self._given
        ids = torch.zeros(
            (len(given[0]), 1, 1), dtype=torch.long, device=given[0].device
        )  # each a question of one choice
        with forward_replaced(self._body, lambda *args, **kw: given), torch.no_grad():
            found: torch.Tensor = self._model(input_ids=ids).logits[:, 0]
        return found
