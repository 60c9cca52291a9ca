"""What a model is made of, found out by looking: its blocks, its attention modules, and where the two halves of a block meet.

transformers declares which modules are blocks (`_can_record_outputs`), and routes attention through a registry. The rest
shows on a short probe input: the module inside a block whose input *is* the block's input plus the attention's output
stands at the post-attention point. No list of model names; what doesn't fit is refused with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from warehouse.attention import per_query_head, probabilities
from warehouse.errors import TracesError
from warehouse.manifest import LayerAttention
from warehouse.sites import Dims

_PROBE_TOKENS = 12

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""How far derived probabilities times v may be from the model's attention output, relative to its largest value: rounding of
the dtype it computes in, with room for kernels that sum in another order."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of the attention function: its arguments after position encoding, and what it returned."""

    module: nn.Module
    q: torch.Tensor
    """(B, H, T, d)"""
    k: torch.Tensor
    """(B, H_kv, T, d)"""
    v: torch.Tensor
    options: dict[str, Any]
    out: torch.Tensor
    """(B, T, H, d)"""


@dataclass(frozen=True)
class Anatomy:
    blocks: tuple[nn.Module, ...]
    """In the order in which they run."""
    attentions: tuple[nn.Module, ...]
    """One for each block: the module that calls the attention function."""
    post_attention: tuple[nn.Module, ...]
    """One for each block: its input is the residual stream after attention."""
    dims: Dims
    layer_attention: tuple[LayerAttention, ...] | None
    """How q and k become attention; None where derived probabilities don't reproduce the model's attention."""
    attention_error: float


def examine(model: Any) -> Anatomy:
    """Looks at a causal language model. Raises TracesError where it is not built in a way that can be recorded in full."""
    name = type(model).__name__
    blocks = _declared_blocks(model)
    probe = _Probe(model, blocks)
    with torch.no_grad():
        ids = _probe_ids(model)
        last = probe.run(ids)
        _check_head(model, name, ids, last)
        _check_causal(model, name, ids, last)
    order = sorted(blocks, key=lambda b: probe.order[b])
    expected = model.config.get_text_config().num_hidden_layers
    if len(order) != expected:
        raise TracesError(f"{name} declares {expected} layers, but {len(order)} blocks ran: it cannot be recorded yet.")
    attentions = []
    for i, block in enumerate(order):
        inside = [m for m in block.modules() if m in probe.calls]
        if len(inside) != 1:
            raise TracesError(
                f"{name}: layer {i} called transformers' attention interface {len(inside)} times from "
                "modules of its own; only blocks with one attention can be recorded yet."
            )
        attentions.append(inside[0])
    post = [probe.meeting_point(b, a) for b, a in zip(order, attentions, strict=True)]
    if any(p is None for p in post):
        raise TracesError(
            f"{name}: no module in layer {post.index(None)} reads the residual stream after attention "
            "(a parallel or post-norm block?); only blocks that do can be recorded yet."
        )
    dims = _dims(model, probe, attentions)
    layers, error = _derivation(probe, attentions)
    return Anatomy(tuple(order), tuple(attentions), tuple(p for p in post if p is not None), dims, layers, error)


@contextmanager
def listen_to_attention(model: Any, heard: Callable[[AttentionCall], None]) -> Iterator[None]:
    """While open, `heard` is told of every attention call of `model`; the call itself goes on as it would have.

    The entry of the model's own implementation in the registry is wrapped, under its own name: masks and every test of that
    name in model code see what they see without us, which is what keeps results bit-identical.
    """
    name = model.config.get_text_config()._attn_implementation
    original = ALL_ATTENTION_FUNCTIONS.get(name)
    ours = set(model.modules())

    def wrapped(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kw: Any
    ) -> Any:
        function = original or inspect.getmodule(type(module)).eager_attention_forward  # type: ignore[union-attr]
        result = function(module, query, key, value, *args, **kw)
        if module in ours:
            heard(AttentionCall(module, query, key, value, kw, result[0]))
        return result

    if getattr(original, "listens", False):
        raise RuntimeError("a model is already being recorded in this process")
    wrapped.listens = True  # type: ignore[attr-defined]
    ALL_ATTENTION_FUNCTIONS[name] = wrapped
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]


class Head:
    """The model's own way from the last normed hidden state to logits, for any rows of it.

    The model's `forward` is called with its body replaced by one that returns the given rows, so that whatever it does
    after the body (a head, a scale, a soft-cap) is done by its own code, slice by slice: the full logits of a batch never
    exist. A plain linear head writes into a buffer that is kept: a fresh one of this size costs time of its own, for the
    system hands it out page by page.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        with torch.no_grad():
            one = torch.zeros((1, 1), dtype=torch.long, device=model.device)
            self._output_class = type(model.base_model(input_ids=one, use_cache=False))
        self._linear = _plain_linear(model.get_output_embeddings())
        self._buffer: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, D) in the model's dtype → logits (n, V), good until the next call."""
        body = self._output_class(last_hidden_state=rows[None])
        ids = torch.zeros((1, len(rows)), dtype=torch.long, device=rows.device)
        with ExitStack() as stack:
            stack.enter_context(_forward_replaced(self._model.base_model, lambda *args, **kw: body))
            if self._linear is not None:
                stack.enter_context(_forward_replaced(self._linear, self._multiply))
            logits: torch.Tensor = self._model(input_ids=ids, use_cache=False).logits[0]
        return logits

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """(1, n, D) → (1, n, V), the linear head's own multiplication."""
        assert self._linear is not None
        weight, n = self._linear.weight, x.shape[1]
        if self._buffer is None or len(self._buffer) < n or self._buffer.device != weight.device:
            self._buffer = torch.empty((n, len(weight)), dtype=weight.dtype, device=weight.device)
        return torch.mm(x[0], weight.t(), out=self._buffer[:n])[None]


def _plain_linear(head: Any) -> nn.Linear | None:
    return head if type(head) is nn.Linear and head.bias is None else None


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = module.__dict__.get("forward")  # set on the instance by accelerate, where it spreads a model over devices
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """A module's main input: its first positional tensor, or the one that blocks call `hidden_states`."""
    if args and isinstance(args[0], torch.Tensor):
        return args[0]
    value = kwargs.get("hidden_states")
    return value if isinstance(value, torch.Tensor) else None


def first_output(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


class _Probe:
    """One forward pass over a few tokens, watched closely."""

    def __init__(self, model: Any, blocks: list[nn.Module]) -> None:
        self._model, self._blocks = model, blocks
        self.order: dict[nn.Module, int] = {}
        self.inputs: dict[nn.Module, torch.Tensor] = {}
        self.outputs: dict[nn.Module, torch.Tensor] = {}
        self.calls: dict[nn.Module, AttentionCall] = {}

    def run(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the last hidden state, (1, T, D)."""
        with ExitStack() as stack:
            for block in self._blocks:
                for module in block.modules():
                    for handle in (
                        module.register_forward_pre_hook(self._before, with_kwargs=True),
                        module.register_forward_hook(self._after),
                    ):
                        stack.callback(handle.remove)
            stack.enter_context(listen_to_attention(self._model, self._heard))
            last: torch.Tensor = self._model.base_model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
            ).last_hidden_state
        missing = [b for b in self._blocks if b not in self.order]
        if missing:
            raise TracesError(f"{type(self._model).__name__}: {len(missing)} of its blocks never ran on a probe input.")
        return last

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first_tensor(args, kwargs)
        if x is not None:
            self.inputs[module] = x
        if module in self._blocks:
            self.order.setdefault(module, len(self.order))

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        x = first_output(output)
        if isinstance(x, torch.Tensor):
            self.outputs[module] = x

    def _heard(self, call: AttentionCall) -> None:
        self.calls[call.module] = call

    def meeting_point(self, block: nn.Module, attention: nn.Module) -> nn.Module | None:
        """The first module in the block whose input is the block's input plus the attention's output, bit for bit."""
        stream = self.inputs[block] + self.outputs[attention]
        for module in block.modules():
            if module is not block and (x := self.inputs.get(module)) is not None and torch.equal(x, stream):
                return module
        return None


def _declared_blocks(model: Any) -> list[nn.Module]:
    """The modules that transformers records hidden states from, however the model's class declares them."""
    declared = getattr(type(model.base_model), "_can_record_outputs", None) or {}
    if "hidden_states" not in declared:
        raise TracesError(
            f"{type(model).__name__} does not declare its blocks to transformers (_can_record_outputs): "
            "it cannot be recorded yet."
        )
    spec = declared["hidden_states"]
    blocks = [
        module
        for name, module in model.base_model.named_modules()
        if any(_matches(one, name, module) for one in (spec if isinstance(spec, list) else [spec]))
    ]
    if not blocks:
        raise TracesError(f"{type(model).__name__}: none of its modules is of the class that it declares as its block.")
    return blocks


def _matches(spec: Any, name: str, module: nn.Module) -> bool:
    if isinstance(spec, str):
        return name.endswith(spec) or type(module).__name__ == spec
    if isinstance(spec, type):
        return isinstance(module, spec)
    if spec.layer_name is not None and f".{spec.layer_name.strip('.')}." not in f".{name}.":
        return False
    if spec.target_class is not None:
        return isinstance(module, spec.target_class)
    return spec.class_name is not None and name.endswith(spec.class_name)


def _probe_ids(model: Any) -> torch.Tensor:
    """(1, T) token ids, the same for every model with the same vocabulary size."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (1, _PROBE_TOKENS), generator=generator).to(model.device)


def _check_head(model: Any, name: str, ids: torch.Tensor, last: torch.Tensor) -> None:
    expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    if not torch.equal(Head(model)(last[0]), expected):
        raise TracesError(
            f"{name}: its logits don't follow from its last hidden state alone; it cannot be recorded yet."
        )


def _check_causal(model: Any, name: str, ids: torch.Tensor, last: torch.Tensor) -> None:
    """A token must not be seen by those before it, or next-token probabilities mean nothing."""
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % model.get_input_embeddings().weight.shape[0]
    again = model.base_model(input_ids=other, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    if not torch.allclose(again[0, :-1], last[0, :-1], rtol=1e-3, atol=1e-3):
        raise TracesError(
            f"{name} is not causal: a token changes what comes before it. Next-token traces need a decoder."
        )


def _dims(model: Any, probe: _Probe, attentions: list[nn.Module]) -> Dims:
    name = type(model).__name__
    calls = [probe.calls[a] for a in attentions]
    shapes = {(c.q.shape[1], c.q.shape[3], c.k.shape[1], c.k.shape[3], c.v.shape[1], c.v.shape[3]) for c in calls}
    if len(shapes) != 1:
        raise TracesError(f"{name}: its layers' heads differ in number or size; it cannot be recorded yet.")
    heads, d_head, k_heads, d_key, v_heads, d_value = shapes.pop()
    if d_head != d_key or k_heads != v_heads or heads % k_heads:
        raise TracesError(
            f"{name}: q, k and v don't fit together ({heads}×{d_head}, {k_heads}×{d_key}, {v_heads}×{d_value})."
        )
    d_model = probe.inputs[next(iter(probe.order))].shape[-1]
    return Dims(len(attentions), d_model, heads, k_heads, d_head, d_value)


def _derivation(probe: _Probe, attentions: list[nn.Module]) -> tuple[tuple[LayerAttention, ...] | None, float]:
    """How each layer's probabilities follow from q and k, proven on the probe: times v they must give its output.

    Returns None where they don't (a position bias or a sink, say), and the largest relative error seen.
    """
    layers, worst, exact = [], 0.0, True
    for call in (probe.calls[a] for a in attentions):
        scale = call.options.get("scaling")
        layer = LayerAttention(
            scale=call.q.shape[-1] ** -0.5 if scale is None else float(scale),
            window=call.options.get("sliding_window"),
            softcap=call.options.get("softcap"),
        )
        q, k, v = (x[0].float().cpu().numpy() for x in (call.q, call.k, call.v))
        attention = probabilities(q, per_query_head(k, len(q)), layer)
        derived = np.matmul(attention, per_query_head(v, len(q))).swapaxes(0, 1)
        out = call.out[0].float().cpu().numpy()
        error = float(np.abs(derived - out).max() / max(np.abs(out).max(), 1e-30))
        worst = max(worst, error)
        exact &= error <= _TOLERANCE.get(call.out.dtype, 1e-4)
        layers.append(layer)
    return (tuple(layers) if exact else None), worst
