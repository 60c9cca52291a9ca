"""Finds what a model is made of by watching it: its blocks, its attention, and where both meet the residual stream.

In: a model of transformers. Out: an `Anatomy`, with a `Stack` of `Layer`s for each side, which says for every site the hook
point and the shape of a row. `recording.recorder` hooks what it says; `model_info` writes it into the manifest.

A few random tokens go through the model, every module's input and output is seen (`forward_trace`), and the rest is arithmetic
that has to come out bit for bit:

    block i             the module whose input is `output_hidden_states[i]` and whose output is the next one
    attention, MLP      the modules whose outputs, added to the residual stream, give what is read next (`residual_stream`)
    pre-norm            blocks add to a stream that only norms read (GPT-2, Llama): sites are the sums
    post-norm           a norm's *output* is the stream from there on (BERT): sites are what the norms return
    parallel block      its output is its input plus attention output plus MLP output at once (GPT-NeoX, Phi, Falcon)
    attention formula   the scale, mask, window, … whose probabilities, times v, are attention's output (`attention_formula`)

There is no list of model names. A site that does not come out is left out, and the reason kept: `Stack.missing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from capture.model.anatomy import Anatomy, Layer, Stack
from capture.model.attention_formula import find_formula
from capture.model.body import Body
from capture.model.forward_trace import (
    ForwardTrace,
    ModuleCall,
    State,
    TimedAttentionCall,
    attention_calls,
    trace_forward,
)
from capture.model.residual_stream import BlockSites, find_residual_sites
from capture.model.windows import find_window
from warehouse.errors import TracesError
from warehouse.storage.model_info import LayerAttention

PROVEN_TOKENS = 48
"""Tokens of the input that attention formulas are proven on; the recorder goes on proving them as sequences get longer."""
_PROVEN_WINDOW = 1024
"""Widest sliding window, tokens, that a longer input is made for, so that it reaches past the window."""
_MIN_TOKENS = 12
"""Tokens that a model must be able to read to be examined."""


@dataclass(frozen=True)
class _StackTrace:
    """One side of the model as the trace shows it."""

    side: str
    blocks: list[ModuleCall]
    attention_calls: list[TimedAttentionCall]
    """The calls of the attention function with this side's queries."""
    factors: tuple[float, ...]
    """Numbers that an addition to the residual stream may be multiplied with."""


def examine(model: Any) -> Anatomy:
    """Find a model's blocks, the sites of each, and how attention follows from q and k.

    Args:
        model: A model of transformers, in eval mode.

    Returns:
        The model's anatomy.

    Raises:
        TracesError: The model's blocks cannot be made out, or it reads fewer than 12 tokens: then nothing of it can be recorded.
    """
    longest = min((n for n in find_window(model) if n is not None), default=None)
    if longest is not None and longest < _MIN_TOKENS:
        raise TracesError(
            f"{type(model).__name__} reads at most {longest} tokens; {_MIN_TOKENS} are needed to find out what it is made of."
        )
    body = Body(model)
    trace = trace_forward(body)
    factors = (1.0, *_possible_factors(model.config.to_dict()))
    stacks = {side: _find_stack(body, side, trace, factors) for side in body.sides}
    return Anatomy(body, {side: _prove_formulas(body, stack, longest) for side, stack in stacks.items()})


def _find_stack(body: Body, side: str, trace: ForwardTrace, factors: tuple[float, ...]) -> Stack:
    name = type(body.model).__name__
    states = trace.outputs.hidden.get(side, ())
    if len(states) < 2:
        raise TracesError(f"{name} returns no hidden states, so that its blocks cannot be told from its other modules.")
    hidden = [State(h[0]) for h in states]
    blocks = _find_blocks(trace, hidden, name)
    side_calls = [a for a in trace.attentions if a.call.q.shape[2] == trace.lengths[side]]
    stack = _StackTrace(side, blocks, side_calls, factors)
    layers, sites = zip(*(_find_layer(trace, stack, i) for i in range(len(blocks))), strict=True)
    formulas = [_find_formulas(layer, trace, block) for layer, block in zip(layers, blocks, strict=True)]
    first, last = blocks[0].input, blocks[-1].output
    assert first is not None and last is not None
    return Stack(
        side=side,
        layers=tuple(
            replace(layer, formula=own[0], cross_formula=cross[0])
            for layer, (own, cross) in zip(layers, formulas, strict=True)
        ),
        width=sites[0].width,
        last_width=tuple(hidden[-1].rows.shape[1:]),
        time_first=first.time_first,
        post_norm=sites[0].post_norm,
        final_norm=last.digest != hidden[-1].digest,
        causal=side == "dec",
        embeds=first.digest == hidden[0].digest,
        registered=bool(side_calls),
        attention_error=max(own[1] for own, _ in formulas),
        cross_error=max(cross[1] for _, cross in formulas),
        missing=_merge_missing([s.missing for s in sites], layers),
    )


# -- blocks ------------------------------------------------------------------------------------------------------------


def _find_blocks(trace: ForwardTrace, hidden: list[State], name: str) -> list[ModuleCall]:
    """Find the call of each layer's block.

    Args:
        trace: The trace of a forward pass.
        hidden: `output_hidden_states` of one side, without the batch dimension.
        name: The model's class, for messages.

    Returns:
        A call for each layer.

    Raises:
        TracesError: A layer is not a module of its own.
    """
    blocks: list[ModuleCall] = []
    last = len(hidden) - 2
    for i in range(last + 1):
        candidates = [
            c
            for c in trace.calls
            if c.input is not None
            and c.output is not None
            and c.input.digest == hidden[i].digest
            and (not blocks or c.start > blocks[-1].end)
            and c.output.rows.shape == hidden[i].rows.shape
            and (c.output.digest == hidden[i + 1].digest if i < last else _may_be_last_block(c, blocks))
        ]
        if not candidates and i == last and i > 1 and (first := _find_block_before_first(trace, hidden, blocks)):
            return [first, *blocks]
        if not candidates:
            raise TracesError(
                f"{name}: no module takes hidden state {i} and returns hidden state {i + 1}: its layers are not modules of "
                "their own, or its hidden states are not what its layers exchange."
            )
        blocks.append(min(candidates, key=lambda c: c.start))
    return blocks


def _find_block_before_first(trace: ForwardTrace, hidden: list[State], blocks: list[ModuleCall]) -> ModuleCall | None:
    """Find the first block where hidden states begin with its output (Mamba's do): a sibling of the other blocks."""
    parent = blocks[0].name.rpartition(".")[0]
    siblings = [c for c in trace.calls if c.name.rpartition(".")[0] == parent and c.end < blocks[0].start]
    return next(
        (c for c in siblings if c.output is not None and c.input is not None and c.output.digest == hidden[0].digest),
        None,
    )


def _may_be_last_block(call: ModuleCall, blocks: list[ModuleCall]) -> bool:
    """Return whether a call may be the last block, whose output no hidden state confirms.

    It is a sibling of the block before it, or, where there is none, a member of a list of modules.
    """
    parent, _, name = call.name.rpartition(".")
    if not blocks:
        return name.isdigit()
    return call.module is blocks[-1].module or parent == blocks[-1].name.rpartition(".")[0]


# -- inside a block ----------------------------------------------------------------------------------------------------


def _find_layer(trace: ForwardTrace, stack: _StackTrace, index: int) -> tuple[Layer, BlockSites]:
    """Find one layer's sites, and why it lacks the others."""
    block, side = stack.blocks[index], stack.side
    assert block.input is not None
    sites = BlockSites(tuple(block.input.rows.shape[1:]))
    inside = [c for c in trace.calls if block.start < c.start and c.end < block.end]
    calls = [a for a in stack.attention_calls if block.contains(a.tick)]
    own = [a for a in calls if a.call.k.shape[2] == trace.lengths[side]]
    over_encoder = [a for a in calls if side == "dec" and a.call.k.shape[2] == trace.lengths.get("enc")]
    if len(own) + len(over_encoder) < len(calls):
        own, over_encoder = [], []
        reason = "it attends over other things than the tokens of one side"
        sites.missing |= dict.fromkeys(("q", "k", "v", "attn"), reason)
    attention, cross = _add_attention_sites(sites, own, ""), _add_attention_sites(sites, over_encoder, "cross.")
    attention_tick = own[0].tick if own else None
    if not trace.attentions:
        attention_tick = _add_returned_attention(sites, trace, stack, index, inside)
    find_residual_sites(sites, block, inside, attention_tick, "cross.attn" in sites.shapes, stack.factors)
    return Layer(block.module, sites.shapes, sites.hook_points, attention, cross, sites.parallel), sites


def _add_attention_sites(sites: BlockSites, calls: list[TimedAttentionCall], prefix: str) -> nn.Module | None:
    """Add the shapes of q, k, v and probabilities, and return the module that called the attention interface."""
    if not calls:
        return None
    if len(calls) > 1:
        reason = f"the block calls the attention interface {len(calls)} times"
        sites.missing |= {prefix + site: reason for site in ("q", "k", "v", "attn")}
        return None
    call = calls[0].call
    for site, x in (("q", call.q), ("k", call.k), ("v", call.v)):
        sites.shapes[prefix + site] = (x.shape[1], x.shape[3])
    sites.shapes[prefix + "attn"] = (call.q.shape[1],)
    return call.module


def _add_returned_attention(
    sites: BlockSites, trace: ForwardTrace, stack: _StackTrace, index: int, inside: list[ModuleCall]
) -> int | None:
    """Add the probabilities that a block outside the attention interface returns, and return the tick at which it attended.

    Returns:
        The start of the last module that returned them; None where the block returns none.
    """
    count = len(stack.blocks)
    if (
        stack.side == "dec"
        and (over := _returned_probabilities(trace.outputs.attentions.get("cross", ()), index, count)) is not None
    ):
        sites.shapes["cross.attn"] = (over.shape[1],)
    given = _returned_probabilities(trace.outputs.attentions.get(stack.side, ()), index, count)
    if given is None:
        return None
    sites.missing |= dict.fromkeys(("q", "k", "v"), "its attention does not pass transformers' attention interface")
    if reason := _why_not_attention(given, trace.eager_error, stack.side):
        sites.missing["attn"] = reason
    else:
        sites.shapes["attn"] = (given.shape[1],)
    digest = State(given.detach()).digest
    sources = {c.module for c in trace.eager_calls if digest in c.output_digests}
    return max((c.start for c in inside if c.module in sources), default=None)


def _why_not_attention(given: torch.Tensor, eager_error: float, side: str) -> str | None:
    """Say why the attention that a model returns is not what it computes with; None where it may be."""
    if given.ndim != 4 or given.shape[0] != 1 or given.shape[2] != given.shape[3]:
        return f"what it returns as attention has the shape {tuple(given.shape)}"
    if side == "dec" and bool(given[0].triu(1).any()):
        return "the attention that it returns is not causal, though the model is"
    if float(given.min()) < 0 or float(given.sum(-1).max()) > 1 + 1e-2:
        return "what it returns as attention are not probabilities"
    if eager_error > 1e-3:
        return (
            f"under eager attention, which alone returns probabilities, it computes other states (by {eager_error:.0%})"
        )
    return None


def _returned_probabilities(attentions: tuple[Any, ...], index: int, count: int) -> torch.Tensor | None:
    """Return a layer's attention probabilities where the model returned one tensor for each of its `count` layers."""
    if len(attentions) != count or not isinstance(attentions[index], torch.Tensor):
        return None
    return attentions[index]


def _possible_factors(config: Any) -> Iterator[float]:
    """Yield the numbers in a config that may be multipliers."""
    values: Iterable[Any] = config.values() if isinstance(config, dict) else config
    factors: set[float] = set()
    for value in values:
        if isinstance(value, dict | list):
            factors.update(_possible_factors(value))
        elif isinstance(value, float) and value not in (0.0, 1.0) and 1e-4 < abs(value) < 1e3:
            factors.add(value)
    yield from sorted(factors)


# -- attention ---------------------------------------------------------------------------------------------------------


_Formula = tuple[LayerAttention | None, float]


def _find_formulas(layer: Layer, trace: ForwardTrace, block: ModuleCall) -> tuple[_Formula, _Formula]:
    """Find the formulas of a layer's attention over its own tokens and over the encoder's, each with its error."""

    def formula(module: nn.Module | None) -> _Formula:
        call = next((a.call for a in trace.attentions if a.call.module is module and block.contains(a.tick)), None)
        return (None, 0.0) if call is None else find_formula(call)

    return formula(layer.attention), formula(layer.cross_attention)


def _prove_formulas(body: Body, stack: Stack, longest: int | None) -> Stack:
    """Find the formulas again on a longer input, which reaches past windows and past what sparse attention selects.

    Args:
        body: The model.
        stack: One side of it, with the formulas found so far.
        longest: The most tokens that every side can read; None: any number.

    Returns:
        The stack with what the formulas are on the longer input.
    """
    if not any(x.formula is not None for x in stack.layers):
        return stack
    windows = [x.formula.window for x in stack.layers if x.formula is not None and x.formula.window is not None]
    length = max(PROVEN_TOKENS, *(w + 9 for w in windows if w <= _PROVEN_WINDOW), 0)
    calls = attention_calls(body, length if longest is None else min(length, longest))
    layers, worst = [], stack.attention_error
    for layer in stack.layers:
        if layer.formula is not None and layer.attention in calls:
            formula, error = find_formula(calls[layer.attention])
            layer, worst = replace(layer, formula=formula), max(worst, error)
        layers.append(layer)
    return replace(stack, layers=tuple(layers), attention_error=worst)


_EXPECTED = ("q", "k", "v", "attn", "attn_out", "resid.post_attn", "mlp_out", "mlp_act")


def _merge_missing(reasons: list[dict[str, str]], layers: tuple[Layer, ...]) -> dict[str, str]:
    """Merge the layers' reasons for missing sites, and name the layers where it is not all of them."""
    missing: dict[str, str] = {}
    every = len(layers)
    for site in dict.fromkeys((*_EXPECTED, *(s for layer_reasons in reasons for s in layer_reasons))):
        without = [i for i, layer in enumerate(layers) if site not in layer.shapes]
        if not without or (site not in _EXPECTED and len(without) == every and not any(site in m for m in reasons)):
            continue
        default = "the layer does not attend, or does not show its attention"
        reason = next((reasons[i][site] for i in without if site in reasons[i]), default)
        missing[site] = reason if len(without) == every else f"not in layers {', '.join(map(str, without))}: {reason}"
    return missing
