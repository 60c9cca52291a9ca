"""Finds how the heads of a layer make what attention adds to the residual stream, so that each head's share of it is known.

In: a model's anatomy. Out: for every layer a `HeadOutputs`, the weights from each head's output to the stream and the bias, or the
reason why there are none. `influences` takes them to say which head read what from which token.

In a watched pass, the module is found whose input is, bit for bit, what the attention function returned, and whose output is (up to
the factor that the block multiplies it with) what attention adds. Its weights are what it makes of unit vectors, its bias what it
makes of zero: so it may be a Linear, a Conv1D or quantised. That the heads and the bias add up to attention's output is then proven
on the pass. Where something stands between, as a norm or a gate does, no head has a share of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from capture.model.anatomy import Anatomy, Layer
from capture.model.forward_trace import ForwardTrace, ModuleCall, State, first_output, trace_forward
from capture.model.tolerances import formula_tolerance


@dataclass(frozen=True)
class HeadOutputs:
    """The linear map from the outputs of a layer's heads to what attention adds to the stream."""

    weight: torch.Tensor
    """(H, d, D) float32, on the model's device: what head h adds is its output (d,) times weight[h]."""
    bias: torch.Tensor
    """(D,) float32: added once, by no head."""


def find_head_outputs(anatomy: Anatomy) -> list[HeadOutputs | str]:
    """Find how heads add to the residual stream, layer by layer of the decoder, or of the encoder where there is no decoder.

    Returns:
        For each layer the map, or why there is none.
    """
    trace = trace_forward(anatomy.body)
    runs: Counter[object] = Counter()
    found: list[HeadOutputs | str] = []
    for layer in anatomy.main.layers:
        calls = sorted((c for c in trace.calls if c.module is layer.block), key=lambda c: c.start)
        found.append(_find_outputs(layer, trace, calls[runs[layer.block]], anatomy.main.missing))
        runs[layer.block] += 1
    return found


def _find_outputs(
    layer: Layer, trace: ForwardTrace, block: ModuleCall, missing: Mapping[str, str]
) -> HeadOutputs | str:
    point = layer.hook_points.get("attn_out")
    if layer.attention is None:
        return missing.get("v") or "the layer does not attend, or does not show its attention"
    if point is None:
        return missing.get("attn_out") or "what attention adds to the stream is not known"
    inside = [c for c in trace.calls if block.start < c.start and c.end < block.end]
    attended = next(a for a in trace.attentions if a.call.module is layer.attention and block.contains(a.tick))
    heads, width = attended.call.out.shape[2:]
    joined = State(attended.call.out[0].flatten(1))
    added = next(c for c in inside if c.module is point.module).output
    assert added is not None
    module = next(
        (
            c.module
            for c in inside
            if c.start > attended.tick
            and c.input is not None
            and c.output is not None
            and c.input.rows.shape == joined.rows.shape
            and c.input.digest == joined.digest
            and c.output.digest == added.digest
        ),
        None,
    )
    if module is None:
        return (
            "no module turns the heads' outputs into what attention adds to the stream: a norm or a gate stands between"
        )
    rows = joined.rows
    with torch.no_grad():
        try:
            bias = _apply(module, rows.new_zeros((1, rows.shape[1])))[0]
            weight = _apply(module, torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)) - bias
        except (TypeError, ValueError, RuntimeError):  # it takes more than the heads' outputs
            return "what the heads' outputs go through takes more than them"
        expected = _apply(module, rows)
        error = (rows.float() @ weight + bias - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    if not error <= formula_tolerance(rows.dtype):
        return "what attention adds to the stream is not the sum of its heads' outputs, each through a matrix"
    return HeadOutputs(weight.mul(point.factor).view(heads, width, -1), bias.mul(point.factor))


def _apply(module: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Return what a module makes of rows (n, H·d): (n, D) float32."""
    output = first_output(module(rows[None]))
    assert output is not None
    return output[0].float()
