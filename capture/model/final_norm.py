"""Applies a model's own final norm to any rows of its residual stream, as the logit lens needs it."""

from __future__ import annotations

import torch
from torch import nn

from capture.model.anatomy import Anatomy
from capture.model.forward_trace import ModuleCall, State, first_output, trace_forward
from warehouse.errors import UsageError


class FinalNorm:
    """The modules that run between the last block's output and the last hidden state.

    That is a norm, in some models with a projection after it; in models that norm inside their blocks there are none. They are
    found by their inputs and outputs on a probe, never by their names, and what they return for the probe's rows must be the
    last hidden state bit for bit.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        """Find the modules of the decoder, or of the encoder where there is no decoder.

        Raises:
            UsageError: No such modules are found, or they read more than a token's own state.
        """
        main, seen = anatomy.main, trace_forward(anatomy.body)
        name = type(anatomy.body.model).__name__
        block = next(c for c in reversed(seen.calls) if c.module is main.layers[-1].block)
        assert block.output is not None
        wanted = State(seen.outputs.last[main.side][0])
        modules = _find_path(block, seen.calls, wanted.digest)
        if modules is None:
            raise UsageError(
                f"{name}: no modules were found that turn its last block's output into its last hidden state, so that earlier "
                "layers cannot be read as it reads its last one."
            )
        self._modules = modules
        rows = block.output.rows
        with torch.no_grad():
            try:
                proven = torch.equal(self(rows), wanted.rows) and torch.equal(self(rows[3:7]), wanted.rows[3:7])
            except (TypeError, ValueError, RuntimeError):  # it takes more than the rows
                proven = False
        if not proven:
            raise UsageError(
                f"{name}: its final norm ({', '.join(type(m).__name__ for m in modules)}) does not follow from a token's own "
                "state alone, so that earlier layers cannot be read as it reads its last one."
            )

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Norm rows of the residual stream.

        Args:
            rows: (n, *width of the stream) in the model's dtype.

        Returns:
            (n, D) rows as the language-model head reads them.
        """
        if not self._modules:
            return rows
        x: torch.Tensor | None = rows[None]
        for module in self._modules:
            x = first_output(module(x))
        assert x is not None
        return x[0]


def _find_path(block: ModuleCall, calls: list[ModuleCall], wanted: bytes) -> tuple[nn.Module, ...] | None:
    """Find the fewest modules that ran after the block and turned its output into the wanted state; None where none did."""
    assert block.output is not None
    paths: dict[bytes, tuple[nn.Module, ...]] = {block.output.digest: ()}
    for call in sorted((c for c in calls if c.start > block.end), key=lambda c: c.start):
        if call.input is not None and call.output is not None and call.input.digest in paths:
            paths.setdefault(call.output.digest, (*paths[call.input.digest], call.module))
    return paths.get(wanted)
