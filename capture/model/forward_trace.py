"""Watches one forward pass over a few tokens: what went into every module, what came out, and when.

In: a `Body`. Out: a `ForwardTrace` with every module call (its first input and output tensor, where they have a row for every
token), every call of the attention function, and the hidden states that the model itself returns. A clock that ticks at
the start and end of every call tells which calls ran inside which.

Tensors are kept as copies, since some models change theirs in place, and compared by a hash of their bytes: two are *equal*
here if they agree bit for bit. `anatomy`, `residual_stream` and `final_norm` find a model's structure from a trace; no module
is known by its name.
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
"""Tokens of the probe on each side: different numbers, so that a tensor's shape tells which side it belongs to."""


@dataclass(frozen=True)
class State:
    """A tensor with a row for every token, (T, …)."""

    rows: torch.Tensor
    time_first: bool = False
    """The module exchanged it as (T, B, …), not as (B, T, …)."""

    @cached_property
    def digest(self) -> bytes:
        """The xxh3-128 of its bytes."""
        return _digest(self.rows)


@dataclass(frozen=True)
class ModuleCall:
    """One run of a module: its main input and output, where they have a row for every token of one side."""

    module: nn.Module
    name: str
    start: int
    end: int
    """Ticks of the trace's clock: a call inside another started after it and ended before it."""
    input: State | None
    output: State | None
    output_digests: tuple[bytes, ...]
    """Digests of every tensor in the tuple that it returned; empty where it returned none."""

    def contains(self, tick: int) -> bool:
        """Return whether the tick lies within the call."""
        return self.start < tick < self.end


@dataclass(frozen=True)
class TimedAttentionCall:
    """A call of the attention function, and when it returned."""

    tick: int
    call: AttentionCall


@dataclass
class ForwardTrace:
    """What was seen of one forward pass."""

    calls: list[ModuleCall]
    """In the order in which they ended."""
    attentions: list[TimedAttentionCall]
    outputs: Outputs
    """With hidden states. Where no call passed the attention interface, with the attention probabilities of a second, eager
    pass."""
    lengths: dict[str, int]
    """Tokens by side."""
    eager_calls: list[ModuleCall] = field(default_factory=list)
    """The module calls of that second pass."""
    eager_error: float = 0.0
    """How far that pass's last states are from the first pass's, relative to their largest value."""


def trace_forward(body: Body) -> ForwardTrace:
    """Watch a forward pass over random tokens, and an eager one where attention does not pass transformers' interface."""
    tokens = probe_tokens(body)
    trace = _run_watched(body, tokens)
    if trace.attentions:
        return trace
    with eager_attention(body.model):
        eager = _run_watched(body, tokens, output_attentions=True)
    if any(eager.outputs.attentions.values()):
        trace.outputs = replace(trace.outputs, attentions=eager.outputs.attentions)
        trace.eager_calls = eager.calls
        for side, x in trace.outputs.last.items():
            error = (eager.outputs.last[side] - x).abs().max() / x.abs().max()
            trace.eager_error = max(trace.eager_error, float(error))
    return trace


def probe_tokens(body: Body, lengths: dict[str, int] | None = None) -> Tokens:
    """Return one sequence of random tokens for each side.

    Args:
        body: The model.
        lengths: The number of tokens by side; None: `DEC_TOKENS` and `ENC_TOKENS`.

    Returns:
        Ids and mask by side, (1, T) each.
    """
    sizes = lengths or {"dec": DEC_TOKENS, "enc": ENC_TOKENS}
    ids = {side: probe_ids(body.model, sizes[side], seed=i) for i, side in enumerate(body.sides)}
    return {side: (x, torch.ones_like(x)) for side, x in ids.items()}


def attention_calls(body: Body, length: int) -> dict[nn.Module, AttentionCall]:
    """Return each module's call of the attention function over `length` random tokens; its last where it makes several."""
    calls = attention_outputs(body, probe_tokens(body, {"dec": length, "enc": length - 1}))
    return {call.module: call for call in calls}


def attention_outputs(body: Body, tokens: Tokens) -> list[AttentionCall]:
    """Return every call of the attention function in one pass over `tokens`."""
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
        digests = tuple(_digest(t) for t in _tensors(output)) if isinstance(output, tuple) else ()
        calls.append(ModuleCall(module, names[module], start, next(clock), x, y, digests))

    def on_attention(call: AttentionCall) -> None:
        copies = {name: getattr(call, name).detach().clone() for name in ("q", "k", "v", "out")}
        attentions.append(TimedAttentionCall(next(clock), replace(call, **copies)))

    with ExitStack() as stack, torch.no_grad():
        for module in names:
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, always_call=True).remove)
        stack.enter_context(listen_to_attention(body.model, on_attention))
        outputs = body(tokens, output_hidden_states=True, **options)
    return ForwardTrace(calls, attentions, outputs, lengths)


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Return a module's main input: the first tensor among its arguments; None where there is none."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)), None)


def first_output(output: Any) -> torch.Tensor | None:
    """Return a module's main output: the first tensor in what it returned; None where there is none."""
    return next(_tensors(output), None)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        yield from (x for x in output.values() if isinstance(x, torch.Tensor))
    elif isinstance(output, tuple | list):
        yield from (x for x in output if isinstance(x, torch.Tensor))


def _state(x: torch.Tensor | None, lengths: dict[str, int]) -> State | None:
    """Copy a tensor (1, T, …), (T, 1, …) or (T, D); None where it has another shape or holds no floating-point numbers."""
    if x is None or not x.is_floating_point() or x.ndim < 2:
        return None
    if x.ndim > 2 and x.shape[0] == 1 and x.shape[1] in lengths.values():
        return State(x.detach()[0].clone())
    if x.ndim > 2 and x.shape[1] == 1 and x.shape[0] in lengths.values():
        return State(x.detach()[:, 0].clone(), time_first=True)
    return State(x.detach().clone()) if x.ndim == 2 and x.shape[0] in lengths.values() else None


def _digest(x: torch.Tensor) -> bytes:
    return xxhash.xxh3_128_digest(x.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
