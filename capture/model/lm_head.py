"""Computes logits from any rows of the last hidden state with a model's own language-model head."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from capture.model.body import Body, explain_non_finite, probe_ids, replace_forward
from warehouse.errors import TracesError


class LMHead:
    """Applies the model's own head, scale and soft-cap to rows of the last hidden state, slice by slice.

    The model's `forward` is called with its body (an encoder-decoder's decoder) replaced by one that returns the given rows, so
    that whatever comes after the body is the model's own code, and the full logits of a batch never exist. A plain linear head
    writes into a buffer that is kept: a fresh one of this size takes long, as the system hands it out page by page.
    """

    vocabulary: int
    """The number of tokens that it has a logit for: not always the number of rows of the embedding."""

    def __init__(self, body: Body) -> None:
        """Prove on a probe that logits follow from the last hidden state alone.

        Raises:
            TracesError: The model has no language-model head, its logits follow from more than the last hidden state, or they
                are NaN or infinity.
        """
        self._model = model = body.model
        if model.get_output_embeddings() is None:
            raise TracesError(f"{type(model).__name__} predicts no tokens: it has no language-model head.")
        self._seq2seq = body.encoder_decoder
        self._linear = _plain_linear(model.get_output_embeddings())
        self._buffer: torch.Tensor | None = None
        ids = probe_ids(model, 12)
        mask = torch.ones_like(ids)
        outputs: dict[Any, Any] = {}

        def keep(module: nn.Module, _args: Any, output: Any) -> None:
            outputs[module] = output

        encoder = model.get_encoder() if self._seq2seq else None
        inner = model.get_decoder()
        watched = dict.fromkeys((inner, encoder) if self._seq2seq else (body.module, inner))
        handles = [m.register_forward_hook(keep) for m in watched if isinstance(m, nn.Module)]
        with torch.no_grad():
            try:
                more = {"decoder_input_ids": ids} if self._seq2seq else {}
                expected = model(input_ids=ids, attention_mask=mask, **more).logits[0]
            finally:
                for handle in handles:
                    handle.remove()
            # What the forward calls for its body: some models bypass the module that wraps it (OPT).
            bypassed = self._seq2seq or (body.module not in outputs and inner in outputs)
            self._replaced = inner if bypassed else body.module
            encoded, output = outputs.get(encoder), outputs[self._replaced]
            self._encoder_class = type(encoded) if isinstance(encoded, dict) else BaseModelOutput
            if not bool((expected < torch.inf).all()):  # -infinity rules a token out
                raise TracesError(explain_non_finite(model))
            self.vocabulary = expected.shape[-1]
            self._output_class = type(output)
            if not torch.equal(self(output[0][0]), expected):
                raise TracesError(
                    f"{type(model).__name__}: its logits don't follow from its last hidden state alone, so that next-token "
                    "diagnostics would not be its own. traces capture encode records it without them."
                )

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute the logits of rows of the last hidden state.

        Args:
            rows: (n, D) in the model's dtype.

        Returns:
            (n, V) logits, valid until the next call.
        """
        body = self._output_class(last_hidden_state=rows[None])
        ids = torch.zeros((1, len(rows)), dtype=torch.long, device=rows.device)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._seq2seq:
            inputs = {"encoder_outputs": self._encoder_class(last_hidden_state=rows[None]), "decoder_input_ids": ids}
        with ExitStack() as stack:
            stack.enter_context(replace_forward(self._replaced, lambda *args, **kw: body))
            if self._linear is not None:
                stack.enter_context(replace_forward(self._linear, self._multiply))
            logits: torch.Tensor = self._model(**inputs, use_cache=False).logits[0]
        return logits

    def check_targets(self, true_ids: np.ndarray) -> None:
        """Check that the head has a logit for each token: some embeddings have more rows than that.

        Args:
            true_ids: Token ids that are to be predicted, of any shape.

        Raises:
            TracesError: A token has no logit.
        """
        if (largest := int(true_ids.max(initial=0))) >= self.vocabulary:
            raise TracesError(
                f"{type(self._model).__name__} has no logit for token {largest}: its head predicts {self.vocabulary:,} tokens. Leave "
                "out the texts that have it, or record them without predictions: traces capture encode."
            )

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (1, n, D) by the linear head's weights into (1, n, V), as the head itself does."""
        assert self._linear is not None
        weight, n = self._linear.weight, x.shape[1]
        if x.requires_grad:  # a gradient needs a tensor of its own
            return torch.mm(x[0], weight.t())[None]
        if self._buffer is None or len(self._buffer) < n or self._buffer.device != weight.device:
            self._buffer = torch.empty((n, len(weight)), dtype=weight.dtype, device=weight.device)
        return torch.mm(x[0], weight.t(), out=self._buffer[:n])[None]


def _plain_linear(head: Any) -> nn.Linear | None:
    return head if type(head) is nn.Linear and head.bias is None else None
