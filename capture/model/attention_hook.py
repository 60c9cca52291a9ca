"""Hears what passes transformers' attention interface, and changes it: queries, keys, values, and what each head gives.

transformers routes attention through a registry of functions (`ALL_ATTENTION_FUNCTIONS`): eager, sdpa, flash, flex. Wrapping the
registry's entries shows every attention call of every model that uses it, without code per model. A model that computes
attention on its own shows it through `output_attentions` alone, under `eager_attention`.

Calls are changed (`change_attention`) before they are heard (`listen_to_attention`), whichever was opened first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass(frozen=True)
class AttentionCall:
    """One call of the attention function: its arguments after position encoding, and what it returned."""

    module: nn.Module
    q: torch.Tensor
    """(B, H, T, d)"""
    k: torch.Tensor
    """(B, H_kv, S, d)"""
    v: torch.Tensor
    """(B, H_kv, S, d)"""
    options: dict[str, Any]
    """The call's keyword arguments: scaling, sliding_window, softcap, s_aux, …"""
    out: torch.Tensor
    """(B, T, H, d)"""
    probabilities: torch.Tensor | None
    """(B, H, T, S), where the implementation computes them: eager does."""
    unchanged: torch.Tensor | None = None
    """(B, T, H, d) what the function itself returned, where a change may have taken its place in `out`."""


class AttentionChange(Protocol):
    """Changes attention calls: what goes into the attention function, and what comes out of it."""

    def before(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the q (B, H, T, d), k and v (B, H_kv, S, d) that the function is called with."""
        ...

    def after(self, module: nn.Module, out: torch.Tensor) -> torch.Tensor:
        """Return what the function is to have returned, (B, T, H, d)."""
        ...


@contextmanager
def listen_to_attention(model: Any, on_call: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Call `on_call` after every attention call of `model` while the context is open; the calls go on as they would have.

    The entries of the implementations that the model uses are wrapped in the registry, under their own names: masks and every
    test of those names in model code see what they see without us, which is what keeps results bit-identical.

    Args:
        model: A model of transformers.
        on_call: Receives each call, with its arguments and its result.

    Yields:
        Nothing.

    Raises:
        RuntimeError: A model is already being recorded in this process.
    """
    names = _attention_implementations(model)
    ours = set(model.modules())
    if any(entry.listeners for name in names if (entry := _wrapped.get(name))):
        raise RuntimeError("a model is already being recorded in this process")
    with _wrapped_entries(names) as entries:
        for entry in entries:
            entry.listeners.append((ours, on_call))
        try:
            yield
        finally:
            for entry in entries:
                entry.listeners.remove((ours, on_call))


@contextmanager
def change_attention(model: Any, change: AttentionChange) -> Iterator[None]:
    """Have `change` change every attention call of `model` while the context is open, under whichever implementation.

    Several may be open: what was opened first changes first.

    Args:
        model: A model of transformers.
        change: Changes its calls.

    Yields:
        Nothing.
    """
    ours = set(model.modules())
    with _wrapped_entries({"eager", *_attention_implementations(model)}) as entries:
        for entry in entries:
            entry.changes.append((ours, change))
        try:
            yield
        finally:
            for entry in entries:
                entry.changes.remove((ours, change))


def attention_implementation(model: Any) -> str:
    """Return the name of the attention implementation that a model computes with."""
    return str(model.config.get_text_config()._attn_implementation)


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Have the model compute attention step by step while the context is open: only so does it return its probabilities.

    Models outside the attention interface only warn of `set_attn_implementation` and go on as they were, returning probabilities
    that they did not compute with (Falcon's are then not even causal): their configs are changed directly.

    Yields:
        Nothing.
    """
    before = attention_implementation(model)
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    kept = [(c, c._attn_implementation) for c in configs if getattr(c, "_attn_implementation", None) is not None]
    model.set_attn_implementation("eager")
    for config, name in kept:
        if name == before and config._attn_implementation == before != "eager":
            config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        for config, name in kept:
            if config._attn_implementation != name:
                config._attn_implementation = name


def _attention_implementations(model: Any) -> set[str]:
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    names = {attention_implementation(model)}
    names.update(getattr(c, "_attn_implementation", None) or "" for c in configs.values())
    return {name for name in names if isinstance(name, str) and name}


@dataclass
class _Entry:
    """What one entry of the registry calls before and after its function."""

    changes: list[tuple[set[nn.Module], AttentionChange]] = field(default_factory=list)
    listeners: list[tuple[set[nn.Module], Callable[[AttentionCall], None]]] = field(default_factory=list)


_wrapped: dict[str, _Entry] = {}
"""The entries of the registry that are wrapped now, by name."""


@contextmanager
def _wrapped_entries(names: Collection[str]) -> Iterator[list[_Entry]]:
    """Wrap entries of the registry; each is put back when nobody changes it or listens to it any more."""
    for name in names:
        if name not in _wrapped:
            _wrapped[name] = _Entry()
            ALL_ATTENTION_FUNCTIONS[name] = _wrap(ALL_ATTENTION_FUNCTIONS.get(name), _wrapped[name])
    try:
        yield [_wrapped[name] for name in names]
    finally:
        for name in names:
            if (entry := _wrapped.get(name)) and not entry.changes and not entry.listeners:
                del ALL_ATTENTION_FUNCTIONS[name], _wrapped[name]


def _wrap(original: Any, entry: _Entry) -> Callable[..., Any]:
    def wrapped(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kw: Any
    ) -> Any:
        function = original or inspect.getmodule(type(module)).eager_attention_forward  # type: ignore[union-attr]
        changes = [change for ours, change in entry.changes if module in ours]
        for change in changes:
            query, key, value = change.before(module, query, key, value)
        result = function(module, query, key, value, *args, **kw)
        unchanged = result[0] if changes else None
        for change in changes:
            result = (change.after(module, result[0]), *result[1:])
        for ours, on_call in entry.listeners:
            if module in ours:
                on_call(AttentionCall(module, query, key, value, kw, result[0], result[1], unchanged))
        return result

    return wrapped
