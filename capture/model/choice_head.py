"""Computes the logit of a question's choice with an encoder's own multiple-choice head, for sequences that are recorded."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.nn.functional import pad

from capture.model.body import Body, padding_id, probe_ids, replace_forward
from warehouse.errors import TracesError, UsageError


class ChoiceHead:
    """Applies the model's own pooler and multiple-choice head to what its body returned in its last pass.

    The model's `forward` is called with a body that returns just that, so that pooling and head are the model's own code. Use as
    a context manager around the passes.
    """

    def __init__(self, body: Body) -> None:
        """Prove on a probe that the head can be applied to what the body returned.

        Raises:
            UsageError: The model has no multiple-choice head, or one that reads padding.
            TracesError: Its logits don't follow from what its body returns.
        """
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
                    f"{type(body.model).__name__}: its logits don't follow from what its body returns, so that they would not be "
                    "its own."
                )
            padded, short = pad(ids, (0, 5), value=padding_id(body.model)), pad(mask, (0, 5))
            body({"enc": (padded, short)})
            if not torch.allclose(self.logits(padded, short), expected, atol=1e-2, rtol=1e-2):
                raise UsageError(
                    f"{type(body.model).__name__}: padding changes its logits, so the choices of a question, which differ in "
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
        """Compute the logits of the sequences in the body's last pass.

        Args:
            ids: (B, T) right-padded ids of that pass.
            mask: (B, T) attention mask of that pass.

        Returns:
            (B,) logits.
        """
        given, device = self._given, self._model.device
        with replace_forward(self._body, lambda *args, **kw: given), torch.no_grad():
            # each sequence as a question of one choice
            out = self._model(input_ids=ids[:, None].to(device), attention_mask=mask[:, None].to(device))
        logits: torch.Tensor = out.logits[:, 0]
        return logits
