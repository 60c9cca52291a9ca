"""Where everything meets the residual stream inside one block, told from one watched run of it.

What a block adds to its input, one addition after the other, must come out bit for bit at its output: `stream + factor · what a
module gave` is read by the next module, or is the block's output. From those additions follow the taps: the module inputs and
outputs at which the recorder takes its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from capture.model.forward_trace import Call, State

_DEEPEST = 4
"""Most additions in a block: attention, attention over the encoder's tokens, MLP, and one that is none of them."""


@dataclass(frozen=True)
class Tap:
    """Where a tensor passes: a module's input or output, times a factor."""

    module: nn.Module
    at: str
    """`input` or `output`"""
    factor: float = 1.0
    through: tuple[nn.Module, ...] = ()
    """For mlp_act: what it passes from there until it is mlp_out."""


@dataclass
class BlockSites:
    """What is found of a block, site by site."""

    width: tuple[int, ...]
    """The shape of a token's row of the residual stream."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The shape of one row of each site that is there."""
    taps: dict[str, Tap] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a site is not there."""
    parallel: bool = False
    post_norm: bool = False

    def put(self, site: str, tap: Tap, shape: tuple[int, ...] | None = None) -> None:
        self.shapes[site], self.taps[site] = self.width if shape is None else shape, tap
        self.missing.pop(site, None)


@dataclass(frozen=True)
class _Addition:
    """stream + factor · what `call` gave; `reader` reads the sum, none where it is the block's output."""

    call: Call
    factor: float
    reader: Call | None
    post_norm: bool
    """The reader's output is the stream from here on."""


def find_streams(
    places: BlockSites, block: Call, calls: list[Call], attended: int | None, crosses: bool, factors: tuple[float, ...]
) -> None:
    """Fills in the sites of the residual stream, what is added to it, and the MLP's activations.

    `calls` are those within the block; `attended` is when it attended to its own tokens, None where it does not; `crosses`
    says that it attends to the encoder's too; `factors` are numbers that an addition may be multiplied with.
    """
    inside = _single(calls)
    places.put("resid.post_mlp", Tap(block.module, "output"))
    if (additions := _additions(inside, block, factors)) is not None:
        _sequential(places, additions, inside, attended, crosses)
    elif (pair := _parallel(inside, block, attended)) is not None:
        places.parallel = True
        places.shapes["resid.post_attn"] = places.width
        for site, call in zip(("attn_out", "mlp_out"), pair, strict=True):
            places.put(site, Tap(call.module, "output"))
        _activation(places, pair[1], inside)
    else:
        _before_mlp(places, inside, block, attended)


def _single(calls: list[Call]) -> list[Call]:
    """Those of modules that ran once: one that ran more often stands for several places."""
    times: dict[nn.Module, int] = {}
    for c in calls:
        times[c.module] = times.get(c.module, 0) + 1
    return [c for c in calls if times[c.module] == 1]


def _additions(inside: list[Call], block: Call, factors: tuple[float, ...]) -> list[_Addition] | None:
    """What a block adds to its input, one after the other, until its output is reached; None where that doesn't come out."""
    assert block.x is not None and block.y is not None
    readers: dict[bytes, Call] = {}
    for call in sorted(inside, key=lambda c: c.start):
        if call.x is not None:
            readers.setdefault(call.x.digest, call)
    return _walk(block.x, block.start, inside, readers, block.y, factors, _DEEPEST)


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


def _sequential(
    places: BlockSites, additions: list[_Addition], inside: list[Call], attended: int | None, crosses: bool
) -> None:
    """Names a block's additions: attention (or another mixer of tokens) first, over the encoder's tokens next, the MLP last."""
    names = ["attn_out", *(["cross.attn_out"] if crosses else []), "mlp_out"]
    if len(additions) == 1:
        mixes = attended is not None and attended < additions[0].call.end
        mixes |= any(isinstance(c.module, nn.Conv1d) for c in inside)  # a state-space mixer's
        names = ["attn_out" if mixes else "mlp_out"]
        places.missing["resid.post_attn"] = (
            "the block adds once to the stream: what follows is its output, resid.post_mlp"
        )
        for site in ("mlp_out", "mlp_act") if mixes else ("attn_out",):
            places.missing[site] = "the block has no such half"
    elif len(additions) != len(names):
        reason = f"the block adds {len(additions)} times to the stream"
        places.missing |= {"mlp_out": reason, "mlp_act": reason}
        names = ["attn_out"]
    after = {"attn_out": "resid.post_attn", "cross.attn_out": "resid.post_cross"}
    for name, addition in zip(names, additions, strict=False):
        places.put(name, Tap(addition.call.module, "output", addition.factor))
        if name in after and addition.reader is not None and len(additions) > 1:
            places.put(after[name], Tap(addition.reader.module, "output" if addition.post_norm else "input"))
        if name == "mlp_out":
            _activation(places, addition.call, inside)
    last = additions[-1]
    if last.post_norm and last.reader is not None:
        places.put("resid.post_mlp", Tap(last.reader.module, "output"))
    places.post_norm = any(addition.post_norm for addition in additions)


def _before_mlp(places: BlockSites, inside: list[Call], block: Call, attended: int | None) -> None:
    """Where the first half doesn't come out, the second may: a module's input that the block's output is a sum with."""
    assert block.x is not None and block.y is not None
    reason = "nothing that a module of the block gives adds up, bit for bit, to what the next one reads"
    places.missing |= dict.fromkeys(("attn_out", "mlp_out", "mlp_act", "resid.post_attn"), reason)
    for reader in inside:
        if reader.x is None or reader.x.rows.shape != block.x.rows.shape or reader.x.digest == block.x.digest:
            continue
        if attended is not None and reader.start < attended:
            continue
        for call in inside:
            if call.y is None or call.start < reader.start or call.y.rows.shape != block.x.rows.shape:
                continue
            if _plus(reader.x, call.y, 1.0).digest == block.y.digest:
                places.put("resid.post_attn", Tap(reader.module, "input"))
                places.put("mlp_out", Tap(call.module, "output"))
                _activation(places, call, inside)
                return


def _activation(places: BlockSites, added: Call, inside: list[Call]) -> None:
    """The MLP's hidden activations: the input of the linear module whose output is added, norms in between allowed."""
    assert added.y is not None
    wanted, end = added.y.digest, added.end
    through: list[nn.Module] = []
    for _ in range(_DEEPEST):
        makers = [c for c in inside if c.y is not None and c.x is not None and c.y.digest == wanted and c.end <= end]
        for c in makers:
            if c.x is not None and _is_linear(c.module):
                tap = Tap(c.module, "input", through=(c.module, *through))
                places.put("mlp_act", tap, tuple(c.x.rows.shape[1:]))
                return
        leaf = next((c for c in makers if _is_leaf(c.module)), None)
        if leaf is None or leaf.x is None:
            break
        through.insert(0, leaf.module)
        wanted, end = leaf.x.digest, leaf.start
    places.missing["mlp_act"] = (
        "what the MLP adds is not what one projection gives (a mixture of experts has one an expert)"
    )


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return _is_leaf(module) and isinstance(weight, torch.Tensor) and weight.ndim == 2


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _plus(stream: State, y: State, factor: float) -> State:
    return State(stream.rows + (y.rows if factor == 1.0 else y.rows * factor))
