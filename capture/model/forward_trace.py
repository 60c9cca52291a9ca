"""One forward pass over a few tokens, watched closely: what went into every module, and what came out.

Tensors are kept as copies (some models change theirs in place) and compared by a hash of their bytes, so that *equal* here
always means bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any

import torch
import xxhash
from torch import nn

from capture.model.attention_hook import AttentionCall, eager_attention, listen_to_attention
from capture.model.body import Body, Outputs, Tokens, probe_ids

DEC_TOKENS, ENC_TOKENS = 11, 7
"""Different, so that a tensor's shape tells which side it belongs to."""


@dataclass(frozen=True)
class State:
    """A tensor with a row for every token, (T, …)."""

    rows: torch.Tensor
    time_first: bool = False
    """It came as (T, B, …), not as (B, T, …)."""

    @cached_property
    def digest(self) -> bytes:
        return xxhash.xxh3_128_digest(self.rows.contiguous().cpu().flatten().view(torch.uint8).numpy())


@dataclass(frozen=True)
class ModuleCall:
    """A module's run: its main input and output, where they have a row for every token of one side."""

    module: nn.Module
    name: str
    start: int
    end: int
    """Ticks of the probe's clock: a call within another began after it and ended before it."""
    input: State | None
    output: State | None
    output_digests: tuple[bytes, ...]
    """Digests of every tensor among its outputs."""

    def contains(self, tick: int) -> bool:
        return self.start < tick < self.end


@dataclass(frozen=True)
class TimedAttentionCall:
    """A call of the attention function, and when."""

    tick: int
    call: AttentionCall


@dataclass
class ForwardTrace:
    calls: list[ModuleCall]
    """In the order in which they ended."""
    attentions: list[TimedAttentionCall]
    outputs: Outputs
    """With hidden states, and where no call passed the attention interface, with the attention probabilities of a second,
    eager pass."""
    lengths: dict[str, int]
    eager_calls: list[ModuleCall] = field(default_factory=list)
    """The calls of a second pass, under eager attention, where no call passed the attention interface."""
    eager_error: float = 0.0
    """How far its last states are from the first pass's, relative to their size."""


def trace_forward(body: Body) -> ForwardTrace:
    tokens = probe_tokens(body)
    found = _run_watched(body, tokens)
    if found.attentions:
        return found
    with eager_attention(body.model):
        again = _run_watched(body, tokens, output_attentions=True)
    if any(again.outputs.attentions.values()):
        found.outputs = replace(found.outputs, attentions=again.outputs.attentions)
        found.eager_calls = again.calls
        for side, x in found.outputs.last.items():
            error = (again.outputs.last[side] - x).abs().max() / x.abs().max()
            found.eager_error = max(found.eager_error, float(error))
    return found


def probe_tokens(body: Body, lengths: dict[str, int] | None = None) -> Tokens:
    """One sequence a side, random ids."""
    sizes = lengths or {"dec": DEC_TOKENS, "enc": ENC_TOKENS}
    ids = {side: probe_ids(body.model, sizes[side], seed=i) for i, side in enumerate(body.sides)}
    return {side: (x, torch.ones_like(x)) for side, x in ids.items()}


def attention_calls(body: Body, length: int) -> dict[nn.Module, AttentionCall]:
    """The calls of the attention function over sequences of that length; the last of a module that makes several."""
    calls = attention_outputs(body, probe_tokens(body, {"dec": length, "enc": length - 1}))
    return {call.module: call for call in calls}


def attention_outputs(body: Body, tokens: Tokens) -> list[AttentionCall]:
    """Every call of the attention function in one pass."""
    calls: list[AttentionCall] = []
    with torch.no_grad(), listen_to_attention(body.model, calls.append):
        body(tokens)
    return calls


def _run_watched(body: Body, tokens: Tokens, **options: Any) -> ForwardTrace:
    lengths = {side: ids.shape[1] for side, (ids, _) in tokens.items()}
    clock = count()
    names = {module: name for name, module in body.model.named_modules()}
    begun: list[tuple[nn.Module, int, State | None]] = []
    calls: list[ModuleCall] = []
    attentions: list[TimedAttentionCall] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        begun.append((module, next(clock), _state(first_input(args, kwargs), lengths)))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        _, start, x = begun.pop()
        y = _state(first_output(output), lengths)
        gave = tuple(_digest(t) for t in _tensors(output)) if isinstance(output, tuple) else ()
        calls.append(ModuleCall(module, names[module], start, next(clock), x, y, gave))

    def heard(call: AttentionCall) -> None:
        kept = {name: getattr(call, name).detach().clone() for name in ("q", "k", "v", "out")}
        attentions.append(TimedAttentionCall(next(clock), replace(call, **kept)))

    with ExitStack() as stack, torch.no_grad():
        for module in names:
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, always_call=True).remove)
        stack.enter_context(listen_to_attention(body.model, heard))
        outputs = body(tokens, output_hidden_states=True, **options)
    return ForwardTrace(calls, attentions, outputs, lengths)


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """A module's main input: its first tensor."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)), None)


def first_output(output: Any) -> torch.Tensor | None:
    return next(_tensors(output), None)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        yield from (x for x in output.values() if isinstance(x, torch.Tensor))
    elif isinstance(output, tuple | list):
        yield from (x for x in output if isinstance(x, torch.Tensor))


def _state(x: torch.Tensor | None, lengths: dict[str, int]) -> State | None:
    """A copy of a tensor (1, T, …) or (T, …), None where it is of another shape or holds no numbers."""
    if x is None or not x.is_floating_point() or x.ndim < 2:
        return None
    if x.ndim > 2 and x.shape[0] == 1 and x.shape[1] in lengths.values():
        return State(x.detach()[0].clone())
    if x.ndim > 2 and x.shape[1] == 1 and x.shape[0] in lengths.values():
        return State(x.detach()[:, 0].clone(), time_first=True)
    return State(x.detach().clone()) if x.ndim == 2 and x.shape[0] in lengths.values() else None


def _digest(x: torch.Tensor) -> bytes:
    return xxhash.xxh3_128_digest(x.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
