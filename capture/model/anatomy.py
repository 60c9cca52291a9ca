"""What a model is made of, found out by looking: its blocks, its attention, and where everything meets the residual stream.

A short probe input goes through the model, every module's input and output is seen (`capture.model.forward_trace`), and the rest is
arithmetic that has to come out bit for bit:

    block i          the module whose input is `output_hidden_states[i]` and whose output is the next one
    an addition      stream + what a module gave, times a number from the config where there is one (Granite's multipliers)
    post-attention   the module that reads the stream after the addition of attention (`capture.model.residual_stream`)
    post-norm        where that module's *output* is the stream from there on (BERT's kind), the streams are those after norms
    parallel         where the block's output is its input plus attention plus MLP at once (GPT-NeoX, Phi, Falcon)
    attention        the formula whose probabilities, times v, are what attention gave (`capture.model.attention_formula`)

No list of model names. What doesn't come out is not there, and the reason is kept: `Stack.missing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from capture.model.attention_formula import find_formula
from capture.model.body import Body
from capture.model.forward_trace import TimedAttentionCall, ModuleCall, ForwardTrace, State, attention_calls, trace_forward
from capture.model.residual_stream import BlockSites, HookPoint, find_residual_sites
from capture.model.windows import find_window
from warehouse.errors import TracesError
from warehouse.storage.manifest import LayerAttention

PROVEN_TOKENS = 48
"""How attention follows from q and k is proven on an input of so many tokens; the recorder goes on proving it as sequences get
longer."""
_PROVEN_WINDOW = 1024
"""And on more tokens than a window has, where it is so wide at most."""
_MIN_TOKENS = 12
"""Tokens that a model must be able to read, so that it can be looked at."""


@dataclass(frozen=True)
class Layer:
    block: nn.Module
    """A module may be the block of several layers (ALBERT's)."""
    shapes: Mapping[str, tuple[int, ...]]
    """Site → the shape of one row. Sites that are not here are not in this layer."""
    hook_points: Mapping[str, HookPoint]
    """For each site that is a module's input or output."""
    attention: nn.Module | None = None
    """The module that calls the attention interface, over its own tokens; None where none does."""
    cross_attention: nn.Module | None = None
    """The same, over the encoder's tokens."""
    parallel: bool = False
    """Attention and MLP are added at once."""
    formula: LayerAttention | None = None
    """How q and k become attention; None where derived probabilities don't reproduce the model's."""
    cross_formula: LayerAttention | None = None


@dataclass(frozen=True)
class _StackTrace:
    """One side of the model as the probe saw it."""

    side: str
    blocks: list[ModuleCall]
    attention_calls: list[TimedAttentionCall]
    """The calls of the attention function with this side's queries."""
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Stack:
    """The blocks that one side's tokens pass."""

    side: str
    layers: tuple[Layer, ...]
    width: tuple[int, ...]
    """The shape of a token's row of the residual stream: (D,), but more where the model has several streams."""
    last_width: tuple[int, ...]
    """The same of the last hidden state, which some models project."""
    time_first: bool
    """Blocks exchange (T, B, D), not (B, T, D)."""
    post_norm: bool
    """Streams are those after the norms."""
    final_norm: bool
    """The last hidden state is not the last block's output, but normed."""
    causal: bool
    embeds: bool
    """`output_hidden_states` begins with what enters the first block, not with what leaves it (Mamba's does)."""
    registered: bool
    """Attention passes transformers' interface; else it shows through `output_attentions` alone."""
    attention_error: float
    """The largest difference between attention outputs and derived probabilities times v, relative to their size."""
    cross_error: float
    """The same for attention over the encoder's tokens."""
    missing: Mapping[str, str]
    """Site → why it cannot be recorded in any layer, or in some."""

    @property
    def attention_layers(self) -> list[int]:
        return [i for i, layer in enumerate(self.layers) if "attn" in layer.shapes]

    @property
    def derivable(self) -> bool:
        """Whether attention follows from q and k in every layer that has it."""
        found = self.attention_layers
        return bool(found) and all(self.layers[i].formula is not None for i in found)

    @property
    def cross_derivable(self) -> bool:
        return all(layer.cross_formula is not None for layer in self.layers if "cross.attn" in layer.shapes)


@dataclass(frozen=True)
class Anatomy:
    body: Body
    stacks: Mapping[str, Stack]
    """By side."""

    @property
    def main(self) -> Stack:
        """The decoder, or the encoder of a model that has no decoder."""
        return next(iter(self.stacks.values()))


def examine(model: Any) -> Anatomy:
    """Raises TracesError where the model's blocks cannot be made out: then nothing of it can be recorded."""
    reads = min((n for n in find_window(model) if n is not None), default=_MIN_TOKENS)
    if reads < _MIN_TOKENS:
        raise TracesError(
            f"{type(model).__name__} reads at most {reads} tokens, and what it is made of is found out on {_MIN_TOKENS}."
        )
    body = Body(model)
    seen = trace_forward(body)
    factors = (1.0, *_possible_factors(model.config.to_dict()))
    stacks = {side: _find_stack(body, side, seen, factors) for side in body.sides}
    return Anatomy(body, {side: _prove_formulas(body, stack) for side, stack in stacks.items()})


def _find_stack(body: Body, side: str, seen: ForwardTrace, factors: tuple[float, ...]) -> Stack:
    name = type(body.model).__name__
    states = seen.outputs.hidden.get(side, ())
    if len(states) < 2:
        raise TracesError(f"{name} gives no hidden states, so that its blocks cannot be told from its other modules.")
    hidden = [State(h[0]) for h in states]
    blocks = _find_blocks(seen, hidden, name)
    called = [a for a in seen.attentions if a.call.q.shape[2] == seen.lengths[side]]
    outline = _StackTrace(side, blocks, called, factors)
    layers, places = zip(*(_find_layer(seen, outline, i) for i in range(len(blocks))), strict=True)
    formulas = [_find_formulas(layer, seen, block) for layer, block in zip(layers, blocks, strict=True)]
    first, last = blocks[0].input, blocks[-1].output
    assert first is not None and last is not None
    return Stack(
        side=side,
        layers=tuple(
            replace(layer, formula=own[0], cross_formula=cross[0])
            for layer, (own, cross) in zip(layers, formulas, strict=True)
        ),
        width=places[0].width,
        last_width=tuple(hidden[-1].rows.shape[1:]),
        time_first=first.time_first,
        post_norm=places[0].post_norm,
        final_norm=last.digest != hidden[-1].digest,
        causal=side == "dec",
        embeds=first.digest == hidden[0].digest,
        registered=bool(called),
        attention_error=max(own[1] for own, _ in formulas),
        cross_error=max(cross[1] for _, cross in formulas),
        missing=_merge_missing([p.missing for p in places], layers),
    )


# -- blocks ------------------------------------------------------------------------------------------------------------


def _find_blocks(seen: ForwardTrace, hidden: list[State], name: str) -> list[ModuleCall]:
    """The call that is layer i, for every layer."""
    found: list[ModuleCall] = []
    last = len(hidden) - 2
    for i in range(last + 1):
        candidates = [
            c
            for c in seen.calls
            if c.input is not None
            and c.output is not None
            and c.input.digest == hidden[i].digest
            and (not found or c.start > found[-1].end)
            and c.output.rows.shape == hidden[i].rows.shape
            and (c.output.digest == hidden[i + 1].digest if i < last else _may_be_last_block(c, found))
        ]
        if not candidates and i == last and i > 1 and (first := _find_block_before_first(seen, hidden, found)):
            return [first, *found]
        if not candidates:
            raise TracesError(
                f"{name}: no module takes hidden state {i} and gives hidden state {i + 1}: its layers are not modules of "
                "their own, or its hidden states are not what its layers exchange."
            )
        found.append(min(candidates, key=lambda c: c.start))
    return found


def _find_block_before_first(seen: ForwardTrace, hidden: list[State], found: list[ModuleCall]) -> ModuleCall | None:
    """The first block, where hidden states begin with its output (Mamba's do): a sibling of the others."""
    parent = found[0].name.rpartition(".")[0]
    siblings = [c for c in seen.calls if c.name.rpartition(".")[0] == parent and c.end < found[0].start]
    return next((c for c in siblings if c.output is not None and c.input is not None and c.output.digest == hidden[0].digest), None)


def _may_be_last_block(call: ModuleCall, found: list[ModuleCall]) -> bool:
    """Whether a call may be the last layer, whose output nothing vouches for: a sibling of the one before it, or, where
    there is none, a member of a list of modules.
    """
    parent, _, own = call.name.rpartition(".")
    if not found:
        return own.isdigit()
    return call.module is found[-1].module or parent == found[-1].name.rpartition(".")[0]


# -- inside a block ----------------------------------------------------------------------------------------------------


def _find_layer(seen: ForwardTrace, stack: _StackTrace, index: int) -> tuple[Layer, BlockSites]:
    block, side = stack.blocks[index], stack.side
    assert block.input is not None
    places = BlockSites(tuple(block.input.rows.shape[1:]))
    inside = [c for c in seen.calls if block.start < c.start and c.end < block.end]
    calls = [a for a in stack.attention_calls if block.contains(a.tick)]
    own = [a for a in calls if a.call.k.shape[2] == seen.lengths[side]]
    over_encoder = [a for a in calls if side == "dec" and a.call.k.shape[2] == seen.lengths.get("enc")]
    if len(own) + len(over_encoder) < len(calls):
        own, over_encoder = [], []
        reason = "it attends over other things than the tokens of one side"
        places.missing |= dict.fromkeys(("q", "k", "v", "attn"), reason)
    attention, cross = _add_attention_sites(places, own, ""), _add_attention_sites(places, over_encoder, "cross.")
    attended = own[0].tick if own else None
    if not seen.attentions:
        attended = _add_returned_attention(places, seen, stack, index, inside)
    find_residual_sites(places, block, inside, attended, "cross.attn" in places.shapes, stack.factors)
    return Layer(block.module, places.shapes, places.hook_points, attention, cross, places.parallel), places


def _add_attention_sites(sites: BlockSites, calls: list[TimedAttentionCall], prefix: str) -> nn.Module | None:
    """The module that called the attention interface; fills in the shapes of its q, k, v and probabilities."""
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
    sites: BlockSites, seen: ForwardTrace, stack: _StackTrace, index: int, inside: list[ModuleCall]
) -> int | None:
    """When a block that doesn't use the interface attended, told from where its probabilities come out."""
    count = len(stack.blocks)
    if stack.side == "dec" and (over := _returned_probabilities(seen.outputs.attentions.get("cross", ()), index, count)) is not None:
        sites.shapes["cross.attn"] = (over.shape[1],)
    given = _returned_probabilities(seen.outputs.attentions.get(stack.side, ()), index, count)
    if given is None:
        return None
    sites.missing |= dict.fromkeys(("q", "k", "v"), "its attention does not pass transformers' attention interface")
    if reason := _why_not_attention(given, seen.eager_error, stack.side):
        sites.missing["attn"] = reason
    else:
        sites.shapes["attn"] = (given.shape[1],)
    digest = State(given.detach()).digest
    sources = {c.module for c in seen.eager_calls if digest in c.output_digests}
    return max((c.start for c in inside if c.module in sources), default=None)


def _why_not_attention(given: torch.Tensor, eager_error: float, side: str) -> str | None:
    """Why what a model gives as attention probabilities are not those that it computes with."""
    if given.ndim != 4 or given.shape[0] != 1 or given.shape[2] != given.shape[3]:
        return f"what it gives as attention has the shape {tuple(given.shape)}"
    if side == "dec" and bool(given[0].triu(1).any()):
        return "the attention that it gives is not causal, though the model is"
    if float(given.min()) < 0 or float(given.sum(-1).max()) > 1 + 1e-2:
        return "what it gives as attention are not probabilities"
    if eager_error > 1e-3:
        return (
            f"under eager attention, which alone gives probabilities, it computes other states (by {eager_error:.0%})"
        )
    return None


def _returned_probabilities(found: tuple[Any, ...], index: int, count: int) -> torch.Tensor | None:
    """A layer's attention probabilities among those that the model gives, one a layer."""
    if len(found) != count or not isinstance(found[index], torch.Tensor):
        return None
    return found[index]


def _possible_factors(config: Any) -> Iterator[float]:
    """Numbers in a config that may be multipliers."""
    values: Iterable[Any] = config.values() if isinstance(config, dict) else config
    found: set[float] = set()
    for value in values:
        if isinstance(value, dict | list):
            found.update(_possible_factors(value))
        elif isinstance(value, float) and value not in (0.0, 1.0) and 1e-4 < abs(value) < 1e3:
            found.add(value)
    yield from sorted(found)


# -- attention ---------------------------------------------------------------------------------------------------------


_Formula = tuple[LayerAttention | None, float]


def _find_formulas(layer: Layer, seen: ForwardTrace, block: ModuleCall) -> tuple[_Formula, _Formula]:
    """How a layer's q and k become attention, and its attention over the encoder's tokens, with the errors seen."""

    def formula(module: nn.Module | None) -> _Formula:
        call = next((a.call for a in seen.attentions if a.call.module is module and block.contains(a.tick)), None)
        return (None, 0.0) if call is None else find_formula(call)

    return formula(layer.attention), formula(layer.cross_attention)


def _prove_formulas(body: Body, stack: Stack) -> Stack:
    """Formulas are held against a longer input too: it reaches past windows, and past what sparse attention selects."""
    if not any(x.formula is not None for x in stack.layers):
        return stack
    windows = [x.formula.window for x in stack.layers if x.formula is not None and x.formula.window is not None]
    length = max(PROVEN_TOKENS, *(w + 9 for w in windows if w <= _PROVEN_WINDOW), 0)
    calls = attention_calls(body, min((length, *(n for n in find_window(body.model) if n is not None))))
    layers, worst = [], stack.attention_error
    for layer in stack.layers:
        if layer.formula is not None and layer.attention in calls:
            formula, error = find_formula(calls[layer.attention])
            layer, worst = replace(layer, formula=formula), max(worst, error)
        layers.append(layer)
    return replace(stack, layers=tuple(layers), attention_error=worst)


_EXPECTED = ("q", "k", "v", "attn", "attn_out", "resid.post_attn", "mlp_out", "mlp_act")


def _merge_missing(reasons: list[dict[str, str]], layers: tuple[Layer, ...]) -> dict[str, str]:
    """Site → reason, with the layers that it holds for, where not for all."""
    found: dict[str, str] = {}
    every = len(layers)
    for site in dict.fromkeys((*_EXPECTED, *(s for missing in reasons for s in missing))):
        without = [i for i, layer in enumerate(layers) if site not in layer.shapes]
        if not without or (site not in _EXPECTED and len(without) == every and not any(site in m for m in reasons)):
            continue
        default = "the layer does not attend, or does not show its attention"
        reason = next((reasons[i][site] for i in without if site in reasons[i]), default)
        found[site] = reason if len(without) == every else f"not in layers {', '.join(map(str, without))}: {reason}"
    return found
