"""What a model is made of, found out by looking: its blocks, its attention, and where everything meets the residual stream.

A short probe input goes through the model, every module's input and output is seen (`capture.probe`), and the rest is
arithmetic that has to come out bit for bit:

    block i          the module whose input is `output_hidden_states[i]` and whose output is the next one
    an addition      stream + what a module gave, times a number from the config where there is one (Granite's multipliers)
    post-attention   the module that reads the stream after the addition of attention
    post-norm        where that module's *output* is the stream from there on (BERT's kind), the streams are those after norms
    parallel         where the block's output is its input plus attention plus MLP at once (GPT-NeoX, Phi, Falcon)

No list of model names. What doesn't come out is not there, and the reason is kept: `Stack.missing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from capture.body import Body
from capture.derive import derivation
from capture.listen import AttentionCall
from capture.probe import Attention, Call, Probe, State, attention_calls, probe
from warehouse.errors import TracesError
from warehouse.manifest import LayerAttention

_PROVEN_TOKENS, _PROVEN_WINDOW = 48, 1024
"""How attention follows from q and k is proven on an input of so many tokens, and of more than a window's where it is so wide
at most. The recorder goes on proving it as sequences get longer."""


@dataclass(frozen=True)
class Tap:
    """Where a tensor passes: a module's input or output, times a factor."""

    module: nn.Module
    at: str
    """`input` or `output`"""
    factor: float = 1.0
    through: tuple[nn.Module, ...] = ()
    """For mlp_act: what it passes from there until it is mlp_out."""


@dataclass(frozen=True)
class Layer:
    block: nn.Module
    """A module may be the block of several layers (ALBERT's)."""
    shapes: Mapping[str, tuple[int, ...]]
    """Site → the shape of one row. Sites that are not here are not in this layer."""
    taps: Mapping[str, Tap]
    """For each site that is a module's input or output."""
    attention: nn.Module | None = None
    """The module that calls the attention interface, over its own tokens; None where none does."""
    cross: nn.Module | None = None
    """The same, over the encoder's tokens."""
    parallel: bool = False
    """Attention and MLP are added at once."""
    attends: LayerAttention | None = None
    """How q and k become attention; None where derived probabilities don't reproduce the model's."""
    cross_attends: LayerAttention | None = None


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
        return bool(found) and all(self.layers[i].attends is not None for i in found)

    @property
    def cross_derivable(self) -> bool:
        return all(layer.cross_attends is not None for layer in self.layers if "cross.attn" in layer.shapes)


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
    body = Body(model)
    seen = probe(body)
    factors = (1.0, *_numbers(model.config.to_dict()))
    stacks = {side: _stack(body, side, seen, factors) for side in body.sides}
    return Anatomy(body, {side: _proven(body, stack) for side, stack in stacks.items()})


def _stack(body: Body, side: str, seen: Probe, factors: tuple[float, ...]) -> Stack:
    name = type(body.model).__name__
    states = seen.outputs.hidden.get(side, ())
    if len(states) < 2:
        raise TracesError(f"{name} gives no hidden states, so that its blocks cannot be told from its other modules.")
    hidden = [State(h[0]) for h in states]
    blocks = _blocks(seen, hidden, name)
    called = [a for a in seen.attentions if a.call.q.shape[2] == seen.lengths[side]]
    layers, reasons = [], list[dict[str, str]]()
    for i, block in enumerate(blocks):
        layer, missing = _layer(seen, side, i, block, [a for a in called if block.holds(a.tick)], len(blocks), factors)
        layers.append(layer)
        reasons.append(missing)
    last = blocks[-1].y
    assert last is not None and blocks[0].x is not None
    formulas = [_formulas(layer, seen, block) for layer, block in zip(layers, blocks, strict=True)]
    layers = [
        replace(layer, attends=own[0], cross_attends=cross[0])
        for layer, (own, cross) in zip(layers, formulas, strict=True)
    ]
    return Stack(
        side=side,
        layers=tuple(layers),
        width=tuple(blocks[0].x.rows.shape[1:]),
        last_width=tuple(hidden[-1].rows.shape[1:]),
        time_first=blocks[0].x.time_first,
        post_norm=any(_is_post_norm(seen, block, factors) for block in blocks[:1]),
        final_norm=last.digest != hidden[-1].digest,
        causal=side == "dec",
        embeds=blocks[0].x.digest == hidden[0].digest,
        registered=bool(called),
        attention_error=max(own[1] for own, _ in formulas),
        cross_error=max(cross[1] for _, cross in formulas),
        missing=_merged(reasons, layers),
    )


# -- blocks ------------------------------------------------------------------------------------------------------------


def _blocks(seen: Probe, hidden: list[State], name: str) -> list[Call]:
    """The call that is layer i, for every layer."""
    found: list[Call] = []
    last = len(hidden) - 2
    for i in range(last + 1):
        candidates = [
            c
            for c in seen.calls
            if c.x is not None
            and c.y is not None
            and c.x.digest == hidden[i].digest
            and (not found or c.start > found[-1].end)
            and c.y.rows.shape == hidden[i].rows.shape
            and (c.y.digest == hidden[i + 1].digest if i < last else _alike(c, found))
        ]
        if not candidates and i == last and i > 1 and (first := _shifted(seen, hidden, found)):
            return [first, *found]
        if not candidates:
            raise TracesError(
                f"{name}: no module takes hidden state {i} and gives hidden state {i + 1}: its layers are not modules of "
                "their own, or its hidden states are not what its layers exchange."
            )
        found.append(min(candidates, key=lambda c: c.start))
    return found


def _shifted(seen: Probe, hidden: list[State], found: list[Call]) -> Call | None:
    """The first block, where hidden states begin with its output (Mamba's do): a sibling of the others."""
    parent = found[0].name.rpartition(".")[0]
    siblings = [c for c in seen.calls if c.name.rpartition(".")[0] == parent and c.end < found[0].start]
    return next((c for c in siblings if c.y is not None and c.x is not None and c.y.digest == hidden[0].digest), None)


def _alike(call: Call, found: list[Call]) -> bool:
    """Whether a call may be the last layer, whose output nothing vouches for: a sibling of the one before it, or, where
    there is none, a member of a list of modules."""
    parent, _, own = call.name.rpartition(".")
    if not found:
        return own.isdigit()
    return call.module is found[-1].module or parent == found[-1].name.rpartition(".")[0]


# -- inside a block ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Addition:
    """stream + factor · what `call` gave; `reader` reads the sum, none where it is the block's output."""

    call: Call
    factor: float
    reader: Call | None
    post_norm: bool
    """The reader's output is the stream from here on."""


def _additions(inside: list[Call], block: Call, factors: tuple[float, ...]) -> list[_Addition] | None:
    """What a block adds to its input, one after the other, until its output is reached; None where that doesn't come out."""
    assert block.x is not None and block.y is not None
    readers: dict[bytes, Call] = {}
    for call in sorted(inside, key=lambda c: c.start):
        if call.x is not None:
            readers.setdefault(call.x.digest, call)
    return _walk(block.x, block.start, inside, readers, block.y, factors, depth=4)


def _walk(
    stream: State,
    after: int,
    inside: list[Call],
    readers: Mapping[bytes, Call],
    goal: State,
    factors: tuple[float, ...],
    depth: int,
) -> list[_Addition] | None:
    if not depth:
        return None
    for call in inside:
        if call.end < after or call.y is None or call.y.rows.shape != stream.rows.shape:
            continue
        for factor in factors:
            total = _plus(stream, call.y, factor)
            if total.digest == stream.digest:
                continue
            if total.digest == goal.digest:
                return [_Addition(call, factor, None, False)]
            reader = readers.get(total.digest)
            if reader is None or reader.start < call.end:
                continue
            if rest := _walk(total, reader.start, inside, readers, goal, factors, depth - 1):
                return [_Addition(call, factor, reader, False), *rest]
            normed = reader.y
            if normed is None or normed.rows.shape != stream.rows.shape:
                continue
            if normed.digest == goal.digest:
                return [_Addition(call, factor, reader, True)]
            if rest := _walk(normed, reader.end, inside, readers, goal, factors, depth - 1):
                return [_Addition(call, factor, reader, True), *rest]
    return None


def _parallel(inside: list[Call], block: Call, attended: int | None) -> tuple[Call, Call] | None:
    """The calls whose outputs are added to the block's input at once: attention's and the MLP's."""
    assert block.x is not None and block.y is not None
    x, goal = block.x.rows, block.y.digest
    wide = [c for c in inside if c.y is not None and c.y.rows.shape == x.shape]
    unique = list({c.y.digest: c for c in wide if c.y is not None}.values())
    for a in unique:
        for m in unique:
            if a is m or a.y is None or m.y is None:
                continue
            p, q = a.y.rows, m.y.rows
            if any(State(total).digest == goal for total in ((x + p) + q, (p + q) + x)):
                return (m, a) if attended is not None and not _holds_attention(a, attended, wide) else (a, m)
    return None


def _holds_attention(call: Call, attended: int, calls: list[Call]) -> bool:
    """Whether `call`, or one with the same output, ran around or after the attention function, and no MLP did."""
    same = [c for c in calls if c.y is not None and call.y is not None and c.y.digest == call.y.digest]
    if any(c.holds(attended) for c in same):
        return True
    followers = [c for c in calls if c.start > attended]
    return bool(followers) and min(followers, key=lambda c: c.end) in same


def _layer(
    seen: Probe,
    side: str,
    index: int,
    block: Call,
    attentions: list[Attention],
    count: int,
    factors: tuple[float, ...],
) -> tuple[Layer, dict[str, str]]:
    inside = _inside(seen, block)
    width = tuple(block.x.rows.shape[1:]) if block.x is not None else ()
    missing: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {"resid.post_mlp": width}
    taps = {"resid.post_mlp": Tap(block.module, "output")}

    own = [a for a in attentions if a.call.k.shape[2] == seen.lengths[side]]
    over_encoder = [a for a in attentions if side == "dec" and a.call.k.shape[2] == seen.lengths.get("enc")]
    if len(own) + len(over_encoder) < len(attentions):
        own, over_encoder = [], []
        for site in ("q", "k", "v", "attn"):
            missing[site] = "it attends over other things than the tokens of one side"
    attention = _interface(own, "", shapes, missing)
    cross = _interface(over_encoder, "cross.", shapes, missing)
    attended = own[0].tick if own else None
    if not seen.attentions:
        attended = _shown_attention(seen, side, index, count, inside, shapes, missing)
        if (
            side == "dec"
            and (probabilities := _given(seen.outputs.attentions.get("cross", ()), index, count)) is not None
        ):
            shapes["cross.attn"] = (probabilities.shape[1],)

    parallel = False
    additions = _additions(inside, block, factors)
    if additions is not None:
        _sequential(additions, attended, over_encoder, inside, width, shapes, taps, missing)
    elif (pair := _parallel(inside, block, attended)) is not None:
        parallel = True
        for site, call in zip(("attn_out", "mlp_out"), pair, strict=True):
            shapes[site], taps[site] = width, Tap(call.module, "output")
        shapes["resid.post_attn"] = width
        _activation(pair[1], inside, shapes, taps, missing)
    else:
        _before_mlp(inside, block, attended, width, shapes, taps, missing)
    layer = Layer(block.module, shapes, taps, attention, cross, parallel)
    return layer, missing


def _inside(seen: Probe, block: Call) -> list[Call]:
    """The calls within a block, those of modules left out that ran more than once in it: they are several places."""
    calls = [c for c in seen.calls if block.start < c.start and c.end < block.end]
    times: dict[nn.Module, int] = {}
    for c in calls:
        times[c.module] = times.get(c.module, 0) + 1
    return [c for c in calls if times[c.module] == 1]


def _interface(
    calls: list[Attention], prefix: str, shapes: dict[str, tuple[int, ...]], missing: dict[str, str]
) -> nn.Module | None:
    """The module that called the attention interface; fills in the shapes of its q, k, v and probabilities."""
    if not calls:
        return None
    if len(calls) > 1:
        for site in ("q", "k", "v", "attn"):
            missing[prefix + site] = f"the block calls the attention interface {len(calls)} times"
        return None
    call = calls[0].call
    for site, x in (("q", call.q), ("k", call.k), ("v", call.v)):
        shapes[prefix + site] = (x.shape[1], x.shape[3])
    shapes[prefix + "attn"] = (call.q.shape[1],)
    return call.module


def _shown_attention(
    seen: Probe,
    side: str,
    index: int,
    count: int,
    inside: list[Call],
    shapes: dict[str, tuple[int, ...]],
    missing: dict[str, str],
) -> int | None:
    """When a block that doesn't use the interface attended, told from where its probabilities come out."""
    given = _given(seen.outputs.attentions.get(side, ()), index, count)
    if given is None:
        return None
    for site in ("q", "k", "v"):
        missing[site] = "its attention does not pass transformers' attention interface"
    if reason := _not_attention(given, seen.eager_error, side):
        missing["attn"] = reason
    else:
        shapes["attn"] = (given.shape[1],)
    digest = State(given.detach()).digest
    sources = {c.module for c in seen.sources if digest in c.gave}
    return max((c.start for c in inside if c.module in sources), default=None)


def _not_attention(given: torch.Tensor, eager_error: float, side: str) -> str | None:
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


def _given(found: tuple[Any, ...], index: int, count: int) -> torch.Tensor | None:
    """A layer's attention probabilities among those that the model gives, one a layer."""
    if len(found) != count or not isinstance(found[index], torch.Tensor):
        return None
    return found[index]


def _sequential(
    additions: list[_Addition],
    attended: int | None,
    over_encoder: list[Attention],
    inside: list[Call],
    width: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
    taps: dict[str, Tap],
    missing: dict[str, str],
) -> None:
    """Names a block's additions: attention (or another mixer of tokens) first, over the encoder's tokens next, the MLP last."""
    crosses = bool(over_encoder) or "cross.attn" in shapes
    names = ["attn_out", *(["cross.attn_out"] if crosses else []), "mlp_out"]
    if len(additions) == 1:
        mixes = attended is not None and attended < additions[0].call.end
        mixes |= any(isinstance(c.module, nn.Conv1d) for c in inside)  # a state-space mixer's
        names = ["attn_out" if mixes else "mlp_out"]
        missing["resid.post_attn"] = "the block adds once to the stream: what follows is its output, resid.post_mlp"
        for site in ("mlp_out", "mlp_act") if names == ["attn_out"] else ("attn_out",):
            missing[site] = "the block has no such half"
    elif len(additions) != len(names):
        missing["mlp_out"] = missing["mlp_act"] = f"the block adds {len(additions)} times to the stream"
        names = ["attn_out"] + [""] * (len(additions) - 1)
    after = {"attn_out": "resid.post_attn", "cross.attn_out": "resid.post_cross"}
    for name, addition in zip(names, additions, strict=True):
        if not name:
            continue
        shapes[name], taps[name] = width, Tap(addition.call.module, "output", addition.factor)
        if name in after and addition.reader is not None and len(additions) > 1:
            at = "output" if addition.post_norm else "input"
            shapes[after[name]], taps[after[name]] = width, Tap(addition.reader.module, at)
        if addition.post_norm and addition.reader is not None and addition is additions[-1]:
            taps["resid.post_mlp"] = Tap(addition.reader.module, "output")
        if name == "mlp_out":
            _activation(addition.call, inside, shapes, taps, missing)


def _before_mlp(
    inside: list[Call],
    block: Call,
    attended: int | None,
    width: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
    taps: dict[str, Tap],
    missing: dict[str, str],
) -> None:
    """Where the first half doesn't come out, the second may: a module's input that the block's output is a sum with."""
    assert block.x is not None and block.y is not None
    reason = "nothing that a module of the block gives adds up, bit for bit, to what the next one reads"
    for site in ("attn_out", "mlp_out", "mlp_act", "resid.post_attn"):
        missing[site] = reason
    wide = [c for c in inside if c.x is not None and c.x.rows.shape == block.x.rows.shape]
    for reader in wide:
        if reader.x is None or reader.x.digest == block.x.digest or (attended is not None and reader.start < attended):
            continue
        for call in inside:
            if call.y is None or call.start < reader.start or call.y.rows.shape != block.x.rows.shape:
                continue
            if _plus(reader.x, call.y, 1.0).digest == block.y.digest:
                for site in ("mlp_out", "mlp_act", "resid.post_attn"):
                    del missing[site]
                shapes["resid.post_attn"], taps["resid.post_attn"] = width, Tap(reader.module, "input")
                shapes["mlp_out"], taps["mlp_out"] = width, Tap(call.module, "output")
                _activation(call, inside, shapes, taps, missing)
                return


def _activation(
    added: Call,
    inside: list[Call],
    shapes: dict[str, tuple[int, ...]],
    taps: dict[str, Tap],
    missing: dict[str, str],
) -> None:
    """The MLP's hidden activations: the input of the linear module whose output is added, norms in between allowed."""
    assert added.y is not None
    wanted, end = added.y.digest, added.end
    through: list[nn.Module] = []
    for _ in range(4):
        makers = [c for c in inside if c.y is not None and c.y.digest == wanted and c.end <= end]
        linear = next((c for c in makers if _is_linear(c.module) and c.x is not None), None)
        if linear is not None and linear.x is not None:
            shapes["mlp_act"] = tuple(linear.x.rows.shape[1:])
            taps["mlp_act"] = Tap(linear.module, "input", through=(linear.module, *through))
            return
        leaf = next((c for c in makers if not any(True for _ in c.module.children()) and c.x is not None), None)
        if leaf is None or leaf.x is None:
            break
        through.insert(0, leaf.module)
        wanted, end = leaf.x.digest, leaf.start
    missing["mlp_act"] = "its MLP has no single last projection (a mixture of experts has one an expert)"


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not any(True for _ in module.children())


def _is_post_norm(seen: Probe, block: Call, factors: tuple[float, ...]) -> bool:
    additions = _additions(_inside(seen, block), block, factors)
    return additions is not None and any(a.post_norm for a in additions)


def _plus(stream: State, y: State, factor: float) -> State:
    return State(stream.rows + (y.rows if factor == 1.0 else y.rows * factor))


def _numbers(config: Any) -> Iterator[float]:
    """Numbers in a config that may be multipliers."""
    values: Iterable[Any] = config.values() if isinstance(config, dict) else config
    found: set[float] = set()
    for value in values:
        if isinstance(value, dict | list):
            found.update(_numbers(value))
        elif isinstance(value, float) and value not in (0.0, 1.0) and 1e-4 < abs(value) < 1e3:
            found.add(value)
    yield from sorted(found)


# -- attention ---------------------------------------------------------------------------------------------------------


def _call_in(seen: Probe, module: nn.Module | None, block: Call) -> AttentionCall | None:
    return next((a.call for a in seen.attentions if a.call.module is module and block.holds(a.tick)), None)


_Formula = tuple[LayerAttention | None, float]


def _formulas(layer: Layer, seen: Probe, block: Call) -> tuple[_Formula, _Formula]:
    """How a layer's q and k become attention, and its attention over the encoder's tokens, with the errors seen."""
    calls = (_call_in(seen, module, block) for module in (layer.attention, layer.cross))
    own, cross = ((None, 0.0) if call is None else derivation(call) for call in calls)
    return own, cross


def _proven(body: Body, stack: Stack) -> Stack:
    """Formulas are held against a longer input too: it reaches past windows, and past what sparse attention selects."""
    if not any(x.attends is not None for x in stack.layers):
        return stack
    windows = [x.attends.window for x in stack.layers if x.attends is not None and x.attends.window is not None]
    length = max(_PROVEN_TOKENS, *(w + 9 for w in windows if w <= _PROVEN_WINDOW), 0)
    limit = getattr(body.model.config.get_text_config(), "max_position_embeddings", None)
    calls = attention_calls(body, min(length, limit - 9 if isinstance(limit, int) and limit > 32 else length))
    layers, worst = [], stack.attention_error
    for layer in stack.layers:
        if layer.attends is not None and layer.attention in calls:
            formula, error = derivation(calls[layer.attention])
            layer, worst = replace(layer, attends=formula), max(worst, error)
        layers.append(layer)
    return replace(stack, layers=tuple(layers), attention_error=worst)


_EXPECTED = ("q", "k", "v", "attn", "attn_out", "resid.post_attn", "mlp_out", "mlp_act")


def _merged(reasons: list[dict[str, str]], layers: list[Layer]) -> dict[str, str]:
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
