"""Changes values inside a model while it runs: at heads, q, k, v, what a block adds to the stream, and the stream itself.

In go a model's anatomy and an edit for each site; while the context is open, every forward pass goes on with what the edits return.
An edit gets the tensor as the model has it, (B, T, *row_shape), and returns it (nothing changes, not a bit), or another one of its
shape. `intervene` makes edits of what users write, `restart` and `effects` of many rows of a batch, `traits` steers by them.

Where a site is changed:

    heads            what the attention function returns, before the output projection: (B, T, H, d)
    q, k, v          what it is called with: (B, T, H or H_kv, d); with a cache, k and v of all tokens so far
    attn_out, …      the output of the module that the block adds to the stream; a factor that the block multiplies it with comes after
    resid.post_attn  the sum itself, in place: what the MLP reads, and what its output is added to
    resid.post_mlp   what the block returns; resid.pre_attn and resid.embed what it is called with
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from capture.model.anatomy import Anatomy, Stack
from capture.model.attention_hook import change_attention
from capture.model.forward_trace import first_input, first_output
from warehouse.errors import TracesError, UsageError
from warehouse.schema.sites import Key

Edit = Callable[[torch.Tensor], torch.Tensor]
"""Takes (B, T, *row_shape) and returns it, or another tensor of its shape; it must not change it in place."""

INPUTS = ("q", "k", "v")
SITES = ("heads", *INPUTS, "attn_out", "mlp_out", "resid.embed", "resid.pre_attn", "resid.post_attn", "resid.post_mlp")
"""What can be changed; with `cross.` before heads, q, k, v and attn_out, attention over an encoder's tokens."""


def why_not(anatomy: Anatomy, key: Key) -> str | None:
    """Say why a site cannot be changed in a layer.

    Args:
        anatomy: The model's.
        key: The site; its layer is one of the model's, or None for `resid.embed`.

    Returns:
        The reason; None where it can be.
    """
    stack = anatomy.stacks[key.side]
    site = key.site.removeprefix("cross.")
    if site not in SITES:
        return f"interventions are made at {', '.join(SITES)}"
    if key.site in ("resid.embed", "resid.pre_attn", "resid.post_mlp"):
        return None
    assert key.layer is not None
    layer = stack.layers[key.layer]
    if site in ("heads", *INPUTS):
        module = layer.cross_attention if key.site.startswith("cross.") else layer.attention
        return None if module is not None else _reason(stack, key.site.replace("heads", "q"))
    if key.site == "resid.post_attn" and layer.parallel:
        return "attention and MLP are added to the stream at once: change attn_out or mlp_out"
    return None if key.site in layer.hook_points else _reason(stack, key.site)


def _reason(stack: Stack, site: str) -> str:
    return stack.missing.get(site, "the layer has none")


def check_editable(anatomy: Anatomy, key: Key) -> None:
    """Raise UsageError where a site cannot be changed, or the model has no such layer."""
    name = type(anatomy.body.model).__name__
    if key.side not in anatomy.stacks:
        raise UsageError(f"{name} has no {'encoder' if key.side == 'enc' else 'decoder'}.")
    n = len(anatomy.stacks[key.side].layers)
    if (key.layer is None) != (key.site == "resid.embed") or not 0 <= (key.layer or 0) < n:
        at = "resid.embed has no layer" if key.site == "resid.embed" else f"{name} has layers 0 to {n - 1}"
        raise UsageError(f"{key.site}{'' if key.layer is None else f'@{key.layer}'}: {at}.")
    if reason := why_not(anatomy, key):
        where = key.site if key.layer is None else f"{key.site} of layer {key.layer}"
        raise UsageError(f"{name}: {where} cannot be changed: {reason}.")


def head_count(anatomy: Anatomy, key: Key) -> int | None:
    """Return how many heads a site has in a layer; None for a site without heads."""
    site = key.site.replace("heads", "q")
    if site.removeprefix("cross.") not in INPUTS or key.layer is None:
        return None
    shape = anatomy.stacks[key.side].layers[key.layer].shapes.get(site)
    return None if shape is None else shape[0]


def chain_edits(edits: Sequence[Edit]) -> Edit:
    """Return an edit that makes several at one place, one after the other."""

    def edit(x: torch.Tensor) -> torch.Tensor:
        for each in edits:
            x = each(x)
        return x

    return edit


@dataclass
class ForwardState:
    """Where in a forward pass a model is, for edits that have to know which token a column is of."""

    running: tuple[str, int] | None = None
    """The side and layer whose block is running."""
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By side: (B, T) of the pass."""
    padding: dict[str, torch.Tensor] = field(default_factory=dict)
    """By side: padding before each sequence, (B,); absent where nothing says so."""
    cached: dict[str, int] = field(default_factory=dict)
    """By side: the columns that earlier passes have left in the cache."""
    lengths: dict[str, torch.Tensor] = field(default_factory=dict)
    """By side: the tokens of each sequence in its first pass, (B,): of its prompt, while it is gone on with."""
    begun: dict[str, int] = field(default_factory=dict)
    """By side: the blocks of the pass that have begun."""

    def begin_pass(self, side: str, options: Mapping[str, Any]) -> None:
        """Note that a pass begins, from what the stack of blocks is called with; called again by a stack inside a stack."""
        if self.begun.get(side, 1):
            self.padding.pop(side, None)
            self.cached[side] = 0
        self.begun[side], self.running = 0, None
        cache, mask = options.get("past_key_values"), options.get("attention_mask")
        if cache is not None and hasattr(cache, "get_seq_length"):
            self.cached[side] = int(cache.get_seq_length())
        if not self.cached[side]:
            self.lengths.pop(side, None)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            self.padding[side] = (mask != 0).int().argmax(1)
            if not self.cached[side]:
                self.lengths[side] = mask.sum(1)

    def enter_block(self, part: Stack, block: nn.Module, x: torch.Tensor | None) -> int:
        """Note that a block begins, and return the number of its layer; `x` is its input."""
        side = part.side
        i = self.begun.get(side, 0) % len(part.layers)
        self.begun[side] = i + 1
        if part.layers[i].block is not block:
            raise TracesError("Blocks ran in another order than when the model was examined.")
        self.running = (side, i)
        if i == 0 and x is not None:
            shape = x.shape[: x.ndim - len(part.width)]
            self.shapes[side] = (shape[1], shape[0]) if part.time_first else (shape[0], shape[1])
            if not self.cached.get(side) and side not in self.lengths:
                self.lengths[side] = torch.full((self.shapes[side][0],), self.shapes[side][1])
        return i

    def positions(self, side: str, x: torch.Tensor) -> torch.Tensor:
        """Return which token of its sequence each column of an edit's tensor is: (B, T), below 0 where it is padding before it."""
        batch, length = self.shapes[side]
        columns = x.shape[1]
        start = self.cached.get(side, 0) + length - columns
        places = torch.arange(start, start + columns, device=x.device)[None].expand(batch, columns)
        padding = self.padding.get(side)
        return places if padding is None else places - padding.to(x.device)[:, None]

    def is_real(self, side: str, places: torch.Tensor) -> torch.Tensor:
        """Return which columns are tokens and not padding, (B, T), from `positions`."""
        real = places >= 0
        if not self.cached.get(side) and side in self.lengths:
            real &= places < self.lengths[side].to(places.device)[:, None]
        return real


@contextmanager
def edit_sites(anatomy: Anatomy, edits: Mapping[Key, Edit]) -> Iterator[ForwardState]:
    """Change a model's values in every forward pass while the context is open.

    Hooks that are set later, a recorder's, see the changed values, as the rest of the model does.

    Args:
        anatomy: The model's.
        edits: What changes each site.

    Yields:
        Where in a forward pass the model is, for edits to ask.

    Raises:
        UsageError: A site cannot be changed there.
    """
    for key in edits:
        check_editable(anatomy, key)
    state = ForwardState()
    with ExitStack() as stack:
        for side in anatomy.stacks:
            _hook_side(stack, anatomy, side, state, edits)
        if any(_is_attention(key) for key in edits):
            stack.enter_context(change_attention(anatomy.body.model, _AttentionEdits(anatomy, state, edits)))
        yield state


def _is_attention(key: Key) -> bool:
    return key.site.removeprefix("cross.") in ("heads", *INPUTS)


def _hook_side(stack: ExitStack, anatomy: Anatomy, side: str, state: ForwardState, edits: Mapping[Key, Edit]) -> None:
    """Set the hooks of one side: its blocks, which are counted, and the modules inside them that hold a site."""
    layers = anatomy.stacks[side].layers
    _hook_pass(stack, anatomy, side, state)
    for block in dict.fromkeys(layer.block for layer in layers):
        _hook_block(stack, anatomy, side, block, state, edits)
    points: dict[tuple[nn.Module, str], dict[tuple[str, int], Key]] = {}
    for i, layer in enumerate(layers):
        for site in ("attn_out", "cross.attn_out", "mlp_out", "resid.post_attn"):
            if (key := Key(side, site, i)) in edits:
                point = layer.hook_points[site]
                points.setdefault((point.module, point.end), {})[side, i] = key
    for (module, end), keys in points.items():
        _hook_module(stack, anatomy, module, end, keys, state, edits)


def _hook_pass(stack: ExitStack, anatomy: Anatomy, side: str, state: ForwardState) -> None:
    """Set hooks that hear a pass begin, on the stack of blocks and on the module around it, which some models leave out."""
    body = anatomy.body
    if body.encoder_decoder:
        modules = [body.model.get_encoder() if side == "enc" else body.model.get_decoder()]
    else:
        modules = [body.module, body.model.get_decoder()]

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state.begin_pass(side, kwargs)

    for module in dict.fromkeys(m for m in modules if isinstance(m, nn.Module)):
        stack.callback(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True).remove)


def _hook_block(
    stack: ExitStack, anatomy: Anatomy, side: str, block: nn.Module, state: ForwardState, edits: Mapping[Key, Edit]
) -> None:
    """Set hooks on a block: its n-th run in a pass is the n-th layer that it is the block of."""
    part = anatomy.stacks[side]

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = first_input(args, kwargs)
        i = state.enter_block(part, block, x)
        for key in (Key(side, "resid.embed", None), Key(side, "resid.pre_attn", i)):
            if key in edits and x is not None and (i == 0 or key.layer is not None):
                new = _edited(part, state, key, x, edits)
                if new is not x:
                    args, kwargs, x = *_with_first_input(args, kwargs, new), new
        return args, kwargs

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if state.running is None:
            return None
        key = Key(side, "resid.post_mlp", state.running[1])
        state.running = None
        return _changed_output(part, state, key, output, edits) if key in edits else None

    stack.callback(block.register_forward_pre_hook(before, with_kwargs=True, prepend=True).remove)
    stack.callback(block.register_forward_hook(after, prepend=True).remove)


def _hook_module(
    stack: ExitStack,
    anatomy: Anatomy,
    module: nn.Module,
    end: str,
    keys: Mapping[tuple[str, int], Key],
    state: ForwardState,
    edits: Mapping[Key, Edit],
) -> None:
    """Set a hook on a module whose input or output is a site of the layers in `keys`."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key, x = keys.get(state.running or ("", 0)), first_input(args, kwargs)
        if key is None or x is None:
            return
        new = _edited(anatomy.stacks[key.side], state, key, x, edits)
        if new is not x:
            x.copy_(new)  # the block goes on to add to this very tensor

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        key = keys.get(state.running or ("", 0))
        return None if key is None else _changed_output(anatomy.stacks[key.side], state, key, output, edits)

    if end == "input":
        stack.callback(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True).remove)
    else:
        stack.callback(module.register_forward_hook(after, prepend=True).remove)


def _changed_output(part: Stack, state: ForwardState, key: Key, output: Any, edits: Mapping[Key, Edit]) -> Any:
    """Return a module's output with its main tensor changed; None where the edit changes nothing."""
    x = first_output(output)
    if x is None:
        return None
    new = _edited(part, state, key, x, edits)
    return None if new is x else _with_first_output(output, x, new)


def _edited(part: Stack, state: ForwardState, key: Key, x: torch.Tensor, edits: Mapping[Key, Edit]) -> torch.Tensor:
    """Return an edit's tensor, in the shape that the model exchanges; `x` itself where nothing changes."""
    batch, length = state.shapes[key.side]
    turned = part.time_first and x.shape[:2] == (length, batch) and x.ndim > 1 + len(part.width)
    flat = not turned and x.ndim == 1 + len(part.width)  # mixtures of experts see all tokens in one row
    seen = x.transpose(0, 1) if turned else x.view(batch, length, *part.width) if flat else x
    new = edits[key](seen)
    if new is seen:
        return x
    return new.transpose(0, 1) if turned else new.reshape(x.shape) if flat else new


def _with_first_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], new: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call's arguments with its main input replaced: the first tensor among them."""
    for i, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            return (*args[:i], new, *args[i + 1 :]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return args, {**kwargs, name: new}


def _with_first_output(output: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    """Return what a module returned with its main tensor replaced."""
    if isinstance(output, torch.Tensor):
        return new
    if isinstance(output, dict):
        changed = {name: new if value is old else value for name, value in output.items()}
        return type(output)(**changed)
    return type(output)(new if value is old else value for value in output)


class _AttentionEdits:
    """Applies the edits of heads, q, k and v to the calls of the attention function."""

    def __init__(self, anatomy: Anatomy, state: ForwardState, edits: Mapping[Key, Edit]) -> None:
        self._anatomy, self._state, self._edits = anatomy, state, edits

    def before(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the q (B, H, T, d), k and v (B, H_kv, S, d) that the function is called with."""
        return self._apply(module, "q", q), self._apply(module, "k", k), self._apply(module, "v", v)

    def after(self, module: nn.Module, out: torch.Tensor) -> torch.Tensor:
        """Return what the function is to have returned, (B, T, H, d)."""
        key = self._key(module, "heads")
        return out if key is None else self._edits[key](out)

    def _apply(self, module: nn.Module, site: str, x: torch.Tensor) -> torch.Tensor:
        key = self._key(module, site)
        if key is None:
            return x
        seen = x.transpose(1, 2)
        new = self._edits[key](seen)
        return x if new is seen else new.transpose(1, 2)

    def _key(self, module: nn.Module, site: str) -> Key | None:
        """Return the key of a site of the layer that is running, where an edit changes it."""
        if self._state.running is None:
            return None
        side, i = self._state.running
        layer = self._anatomy.stacks[side].layers[i]
        prefix = "cross." if module is layer.cross_attention else "" if module is layer.attention else None
        key = None if prefix is None else Key(side, prefix + site, i)
        return key if key in self._edits else None
