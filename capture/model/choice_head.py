"""The model's own way from a question with a choice to the choice's logit, for sequences that are recorded."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.nn.functional import pad

from capture.model.body import Body, replace_forward, padding_id, probe_ids
from warehouse.errors import TracesError, UsageError


class ChoiceHead:
    """Remembers what the model's body gave in its last pass; the model's `forward` is then called with a body that gives just
    that, so that pooling and head are its own code. Use as a context manager.
    """

    def __init__(self, body: Body) -> None:
        """Raises UsageError for a model without such a head, TracesError where logits don't follow from what the body gives."""
        self._model, self._body = body.model, body.module
        if not type(body.model).__name__.endswith("ForMultipleChoice"):
            raise UsageError(f"{type(body.model).__name__} has no multiple-choice head.")
        self._given: Any = None
        self._handle: Any = None
        ids = torch.cat([probe_ids(body.model, 12), probe_ids(body.model, 12, seed=1)])
        mask = torch.ones_like(ids)
        with self, torch.no_grad():
            expected = self._model(input_ids=ids[None], attention_mask=mask[None]).logits[0]
            if not torch.equal(self.logits(ids, mask), expected):
                raise TracesError(
                    f"{type(body.model).__name__}: its logits don't follow from what its body gives, so that they would not be "
                    "its own."
                )
            padded, short = pad(ids, (0, 5), value=padding_id(body.model)), pad(mask, (0, 5))
            body({"enc": (padded, short)})
            if not torch.allclose(self.logits(padded, short), expected, atol=1e-2, rtol=1e-2):
                raise UsageError(
                    f"{type(body.model).__name__}: its head reads padding, so that the choices of a question, which differ in "
                    "length, cannot be compared."
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

    def logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Of the sequences of the last pass, whose right-padded ids and mask these are, (B, T) each: (B,)."""
        given, device = self._given, self._model.device
        with replace_forward(self._body, lambda *args, **kw: given), torch.no_grad():
            # each sequence as a question of one choice
            out = self._model(input_ids=ids[:, None].to(device), attention_mask=mask[:, None].to(device))
        found: torch.Tensor = out.logits[:, 0]
        return found
