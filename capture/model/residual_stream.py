"""Finds where attention and MLP meet the residual stream inside one block, from one watched run of it.

In: the block's call and the calls inside it (`forward_trace`). Out: `BlockSites`, which module input or output holds each
site, so that the recorder can hook it.

A pre-norm block computes h' = h + attention(norm(h)), then h'' = h' + mlp(norm(h')). So for every module output y inside the
block we try whether h + factor · y is, bit for bit, what a later module reads (a norm: the sum is then `resid.post_attn`, and y
is the attention output `attn_out`) or what the block returns (y is the MLP output `mlp_out`). In a post-norm block the reader is
a norm whose *output* is the stream from there on. In a parallel block the output is (h + attention) + MLP at once. `factor` is 1
or a number from the config (Granite's residual multipliers). `mlp_act`, the MLP's hidden activations, is the input of the
linear module whose output `mlp_out` is. A site that does not come out is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from capture.model.forward_trace import ModuleCall, State

_MAX_ADDITIONS = 4
"""Most additions in a block: attention, cross-attention, MLP, and one more."""


@dataclass(frozen=True)
class HookPoint:
    """Where the recorder takes a tensor: at a module's input or output, times a factor."""

    module: nn.Module
    end: str
    """`input` or `output`"""
    factor: float = 1.0
    modules_to_output: tuple[nn.Module, ...] = ()
    """For mlp_act: the modules that it passes until it is mlp_out."""


@dataclass
class BlockSites:
    """What is known of a block, site by site; filled in as it is found."""

    width: tuple[int, ...]
    """The shape of a token's row of the residual stream."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Site → the shape of one row."""
    hook_points: dict[str, HookPoint] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Site → why the block does not have it."""
    parallel: bool = False
    """Attention and MLP are added at once."""
    post_norm: bool = False
    """The stream is what the norms return."""

    def add(self, site: str, hook_point: HookPoint, shape: tuple[int, ...] | None = None) -> None:
        """Add a site with its hook point; the shape of a row is the stream's if left out."""
        self.shapes[site], self.hook_points[site] = self.width if shape is None else shape, hook_point
        self.missing.pop(site, None)


@dataclass(frozen=True)
class _Addition:
    """stream + factor · the output of `call`; `reader` reads the sum, None where it is the block's output."""

    call: ModuleCall
    factor: float
    reader: ModuleCall | None
    post_norm: bool
    """The reader is a norm, and its output is the stream from there on."""


def find_residual_sites(
    sites: BlockSites,
    block: ModuleCall,
    calls: list[ModuleCall],
    attention_tick: int | None,
    has_cross_attention: bool,
    factors: tuple[float, ...],
) -> None:
    """Add the sites of the residual stream, of what is added to it, and of the MLP's activations.

    Args:
        sites: The block's sites, filled in here.
        block: The block's call.
        calls: The calls inside the block.
        attention_tick: The tick at which it attended to its own tokens; None where it does not.
        has_cross_attention: It attends to the encoder's tokens as well.
        factors: Numbers that an addition may be multiplied with.
    """
    inside = _calls_of_modules_run_once(calls)
    sites.add("resid.post_mlp", HookPoint(block.module, "output"))
    if (additions := _find_additions(inside, block, factors)) is not None:
        _add_sequential_sites(sites, additions, inside, attention_tick, has_cross_attention)
    elif (pair := _find_parallel_pair(inside, block, attention_tick)) is not None:
        sites.parallel = True
        sites.shapes["resid.post_attn"] = sites.width
        for site, call in zip(("attn_out", "mlp_out"), pair, strict=True):
            sites.add(site, HookPoint(call.module, "output"))
        _add_mlp_activation(sites, pair[1], inside)
    else:
        _add_mlp_sites_alone(sites, inside, block, attention_tick)


def _calls_of_modules_run_once(calls: list[ModuleCall]) -> list[ModuleCall]:
    """Keep the calls of modules that ran once: one that ran more often stands for several places."""
    times: dict[nn.Module, int] = {}
    for c in calls:
        times[c.module] = times.get(c.module, 0) + 1
    return [c for c in calls if times[c.module] == 1]


def _find_additions(inside: list[ModuleCall], block: ModuleCall, factors: tuple[float, ...]) -> list[_Addition] | None:
    """Find what a block adds to its input, one after the other, until its output is reached; None where that fails."""
    assert block.input is not None and block.output is not None
    readers: dict[bytes, ModuleCall] = {}
    for call in sorted(inside, key=lambda c: c.start):
        if call.input is not None:
            readers.setdefault(call.input.digest, call)
    return _search_additions(block.input, block.start, inside, readers, block.output, factors, _MAX_ADDITIONS)


def _search_additions(
    stream: State,
    after: int,
    inside: list[ModuleCall],
    readers: Mapping[bytes, ModuleCall],
    goal: State,
    factors: tuple[float, ...],
    depth: int,
) -> list[_Addition] | None:
    """Search depth-first for at most `depth` additions that lead from `stream` to `goal` bit for bit.

    Args:
        stream: The residual stream so far.
        after: The tick after which the next addition ends.
        inside: The calls inside the block.
        readers: Digest of a state → the first call that reads it.
        goal: The block's output.
        factors: Numbers that an addition may be multiplied with.
        depth: The most additions left.

    Returns:
        The additions in order; None where there are none that lead there.
    """
    if not depth:
        return None
    for call in inside:
        if call.end < after or call.output is None or call.output.rows.shape != stream.rows.shape:
            continue
        for factor in factors:
            total = _add(stream, call.output, factor)
            if total.digest == stream.digest:
                continue
            if total.digest == goal.digest:
                return [_Addition(call, factor, None, False)]
            reader = readers.get(total.digest)
            if reader is None or reader.start < call.end:
                continue
            if rest := _search_additions(total, reader.start, inside, readers, goal, factors, depth - 1):
                return [_Addition(call, factor, reader, False), *rest]
            normed = reader.output
            if normed is None or normed.rows.shape != stream.rows.shape:
                continue
            if normed.digest == goal.digest:
                return [_Addition(call, factor, reader, True)]
            if rest := _search_additions(normed, reader.end, inside, readers, goal, factors, depth - 1):
                return [_Addition(call, factor, reader, True), *rest]
    return None


def _find_parallel_pair(
    inside: list[ModuleCall], block: ModuleCall, attention_tick: int | None
) -> tuple[ModuleCall, ModuleCall] | None:
    """Find the two calls, attention's and the MLP's, whose outputs are added to the block's input at once; else None."""
    assert block.input is not None and block.output is not None
    x, goal = block.input.rows, block.output.digest
    wide = [c for c in inside if c.output is not None and c.output.rows.shape == x.shape]
    unique = list({c.output.digest: c for c in wide if c.output is not None}.values())
    for a in unique:
        for m in unique:
            if a is m or a.output is None or m.output is None:
                continue
            p, q = a.output.rows, m.output.rows
            if any(State(total).digest == goal for total in ((x + p) + q, (p + q) + x)):
                return (
                    (m, a)
                    if attention_tick is not None and not _contains_attention(a, attention_tick, wide)
                    else (a, m)
                )
    return None


def _contains_attention(call: ModuleCall, attention_tick: int, calls: list[ModuleCall]) -> bool:
    """Return whether `call`, or one with the same output, holds the attention function or is the first to end after it."""
    same = [
        c for c in calls if c.output is not None and call.output is not None and c.output.digest == call.output.digest
    ]
    if any(c.contains(attention_tick) for c in same):
        return True
    followers = [c for c in calls if c.start > attention_tick]
    return bool(followers) and min(followers, key=lambda c: c.end) in same


def _add_sequential_sites(
    sites: BlockSites,
    additions: list[_Addition],
    inside: list[ModuleCall],
    attention_tick: int | None,
    has_cross_attention: bool,
) -> None:
    """Add the sites of a block whose halves follow each other: attention (or another mixer of tokens), cross-attention, MLP."""
    names = ["attn_out", *(["cross.attn_out"] if has_cross_attention else []), "mlp_out"]
    if len(additions) == 1:
        mixes = attention_tick is not None and attention_tick < additions[0].call.end
        mixes |= any(isinstance(c.module, nn.Conv1d) for c in inside)  # a state-space mixer has one
        names = ["attn_out" if mixes else "mlp_out"]
        sites.missing["resid.post_attn"] = (
            "the block adds once to the stream: what follows is its output, resid.post_mlp"
        )
        for site in ("mlp_out", "mlp_act") if mixes else ("attn_out",):
            sites.missing[site] = "the block has no such half"
    elif len(additions) != len(names):
        reason = f"the block adds {len(additions)} times to the stream"
        sites.missing |= {"mlp_out": reason, "mlp_act": reason}
        names = ["attn_out"]
    after = {"attn_out": "resid.post_attn", "cross.attn_out": "resid.post_cross"}
    for name, addition in zip(names, additions, strict=False):
        sites.add(name, HookPoint(addition.call.module, "output", addition.factor))
        if name in after and addition.reader is not None and len(additions) > 1:
            sites.add(after[name], HookPoint(addition.reader.module, "output" if addition.post_norm else "input"))
        if name == "mlp_out":
            _add_mlp_activation(sites, addition.call, inside)
    last = additions[-1]
    if last.post_norm and last.reader is not None:
        sites.add("resid.post_mlp", HookPoint(last.reader.module, "output"))
    sites.post_norm = any(addition.post_norm for addition in additions)


def _add_mlp_sites_alone(
    sites: BlockSites, inside: list[ModuleCall], block: ModuleCall, attention_tick: int | None
) -> None:
    """Add the MLP's sites alone, where attention's addition is not found: a module's input plus the MLP output is the output."""
    assert block.input is not None and block.output is not None
    reason = "no output of a module in the block adds up, bit for bit, to what the next one reads"
    sites.missing |= dict.fromkeys(("attn_out", "mlp_out", "mlp_act", "resid.post_attn"), reason)
    for reader in inside:
        if (
            reader.input is None
            or reader.input.rows.shape != block.input.rows.shape
            or reader.input.digest == block.input.digest
        ):
            continue
        if attention_tick is not None and reader.start < attention_tick:
            continue
        for call in inside:
            if call.output is None or call.start < reader.start or call.output.rows.shape != block.input.rows.shape:
                continue
            if _add(reader.input, call.output, 1.0).digest == block.output.digest:
                sites.add("resid.post_attn", HookPoint(reader.module, "input"))
                sites.add("mlp_out", HookPoint(call.module, "output"))
                _add_mlp_activation(sites, call, inside)
                return


def _add_mlp_activation(sites: BlockSites, added: ModuleCall, inside: list[ModuleCall]) -> None:
    """Add `mlp_act`: the input of the linear module whose output is added to the stream, with norms in between allowed."""
    assert added.output is not None
    wanted, end = added.output.digest, added.end
    through: list[nn.Module] = []
    for _ in range(_MAX_ADDITIONS):
        makers = [
            c
            for c in inside
            if c.output is not None and c.input is not None and c.output.digest == wanted and c.end <= end
        ]
        for c in makers:
            if c.input is not None and _is_linear(c.module):
                tap = HookPoint(c.module, "input", modules_to_output=(c.module, *through))
                sites.add("mlp_act", tap, tuple(c.input.rows.shape[1:]))
                return
        leaf = next((c for c in makers if _is_leaf(c.module)), None)
        if leaf is None or leaf.input is None:
            break
        through.insert(0, leaf.module)
        wanted, end = leaf.input.digest, leaf.start
    sites.missing["mlp_act"] = (
        "what the MLP adds is not the output of one projection (a mixture of experts has one for each expert)"
    )


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return _is_leaf(module) and isinstance(weight, torch.Tensor) and weight.ndim == 2


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _add(stream: State, y: State, factor: float) -> State:
    return State(stream.rows + (y.rows if factor == 1.0 else y.rows * factor))
