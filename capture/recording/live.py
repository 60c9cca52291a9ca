"""Tensors of a model as it runs, given to the user and not stored: `record` listens while the user calls the model.

In go a model's anatomy and sites with layers, `resid.post_mlp@15,attn@3`; out comes a dict that is filled at each forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from capture.model.anatomy import Anatomy, Stack
from capture.model.attention_hook import eager_attention
from capture.model.forward_trace import first_input
from capture.recording.site_hooks import SiteHooks
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key

Name = tuple[str, int | None]
"""A site and its layer, as the user names them; the layer of `resid.embed` is None."""

_GROUPS = {
    **{name: group for name, group in sites.GROUPS.items() if name not in ("means", "heads", "hidden")},
    **{site: (site,) for site in sites.STORED_ORDER if not site.startswith(sites.MEAN)},
    "resid.pre_attn": ("resid.pre_attn",),
}
"""What can be named, and the sites behind each name."""


class Wanted(NamedTuple):
    """A site that the user names, and the layers: numbers, `mid`, `last`, or `all`."""

    side: str | None
    """None: the model's main side."""
    name: str
    layers: tuple[str, ...]


def parse_sites(text: str) -> list[Wanted]:
    """Parse sites with layers.

    Args:
        text: Such as `resid.post_mlp@15,attn@3,8`: names with commas between them, each with layers after @, or all of them.

    Returns:
        A site with its layers for each name.

    Raises:
        UsageError: A layer is no number, or nothing is named.
        NotFoundError: A name is no site.
    """
    found: list[Wanted] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, at, layer = part.partition("@")
        if not at and found and found[-1].layers != ("all",) and _is_layer(name):
            found[-1] = found[-1]._replace(layers=(*found[-1].layers, name))
            continue
        side, site = ("enc", name.removeprefix("enc.")) if name.startswith("enc.") else (None, name)
        if site not in _GROUPS:
            raise NotFoundError("site", site, _GROUPS, "Write SITE@LAYERS, as in resid.post_mlp@15,attn@3.")
        if at and not _is_layer(layer):
            raise UsageError(f"{part}: write a layer after @, or mid, last or all.")
        found.append(Wanted(side, site, (layer,) if at else ("all",)))
    if not found:
        raise UsageError("Name what to record, as in resid.post_mlp@15,attn@3.")
    return found


def _is_layer(text: str) -> bool:
    return text in ("mid", "last", "all") or (text.isdecimal() and len(text) < 10)


def resolve(anatomy: Anatomy, wanted: list[Wanted], model: str) -> dict[Name, Key]:
    """Find the tensors behind the names.

    Args:
        anatomy: The model's.
        wanted: What the user names.
        model: What messages call the model.

    Returns:
        The user's names, and the tensor behind each.

    Raises:
        UsageError: The model has no such site or layer; the message says why.
    """
    names: dict[Name, Key] = {}
    for w in wanted:
        side = w.side or anatomy.main.side
        if side not in anatomy.stacks:
            raise UsageError(f"{model} has no encoder: leave out the enc. before {w.name}.")
        stack, prefix = anatomy.stacks[side], "enc." if w.side == "enc" and len(anatomy.stacks) > 1 else ""
        before = len(names)
        for site in _GROUPS[w.name]:
            for layer, key in _keys(stack, site).items():
                if layer is None or any(_names_layer(text, layer, site, stack, model) for text in w.layers):
                    names[prefix + site, layer] = key
        if len(names) == before:
            reason = next((stack.missing[s] for s in _GROUPS[w.name] if s in stack.missing), "the layer has none")
            raise UsageError(f"{model} has no {w.name} there: {reason}.")
    return names


def _keys(stack: Stack, site: str) -> dict[int | None, Key]:
    """Return the tensors of a site by layer, where others determine it, those."""
    n = len(stack.layers)
    embed = Key(stack.side, "resid.embed", None)
    if site == "resid.embed":
        return {None: embed}
    if site in ("resid.pre_attn", "hidden"):
        inputs: dict[int | None, Key] = {i: Key(stack.side, "resid.post_mlp", i - 1) if i else embed for i in range(n)}
        return {**inputs, n: Key(stack.side, "hidden", n)} if site == "hidden" else inputs
    return {i: Key(stack.side, site, i) for i, layer in enumerate(stack.layers) if site in layer.shapes}


def _names_layer(text: str, layer: int, site: str, stack: Stack, model: str) -> bool:
    """Return whether a word of the user's names a layer; raise UsageError for one that the model does not have."""
    last = len(stack.layers) - (site != "hidden")
    if text.isdecimal() and int(text) > last:
        raise UsageError(f"{site}@{text}: {model} has {site} of layers 0 to {last}.")
    named = {"all": layer, "mid": len(stack.layers) // 2, "last": last}
    return layer == (named[text] if text in named else int(text))


class _Seen:
    """Takes the tensors of each forward pass, under the names that the user gave them."""

    def __init__(self, anatomy: Anatomy, names: Mapping[Name, Key]) -> None:
        self.running: tuple[str, int] | None = None
        self.tensors: dict[Name, torch.Tensor] = {}
        self._anatomy = anatomy
        self._names: dict[Key, list[Name]] = {}
        for name, key in names.items():
            self._names.setdefault(key, []).append(name)
        self._begun: dict[str, int] = {}
        self._shapes: dict[str, torch.Size] = {}

    def begin(self, side: str) -> None:
        """Note that a forward pass of a side begins."""
        self._begun[side] = 0

    def enter_block(self, side: str) -> int:
        i = self._begun.get(side, 0) % len(self._anatomy.stacks[side].layers)
        self._begun[side] = i + 1
        self.running = (side, i)
        return i

    def note_shape(self, side: str, x: torch.Tensor | None) -> None:
        """Note how many sequences and tokens a pass has, from the input of its first block."""
        if x is not None and self._begun.get(side, 0) <= 1:
            stack = self._anatomy.stacks[side]
            shape = x.shape[: x.ndim - len(stack.width)]
            self._shapes[side] = torch.Size(reversed(shape)) if stack.time_first else shape

    def keep(self, key: Key, x: torch.Tensor | None) -> None:
        if x is None:
            return
        stack = self._anatomy.stacks[key.side]
        if not key.site.endswith("attn"):
            source = "enc" if key.site in ("cross.k", "cross.v") else key.side
            if self._anatomy.stacks[source].time_first and key.site != "hidden" and x.ndim > 2:
                x = x.transpose(0, 1)
            width = self._row_shape(stack, key)
            if x.ndim == len(width) + 1 and source in self._shapes:  # mixtures of experts see all tokens in one row
                x = x.reshape(*self._shapes[source], *width)
        for name in self._names.get(key, ()):
            self.tensors[name] = x.clone()  # the model may go on to change its own

    def _row_shape(self, stack: Stack, key: Key) -> tuple[int, ...]:
        if key.site == "resid.embed":
            return stack.width
        if key.site == "hidden":
            return stack.last_width
        assert key.layer is not None
        return tuple(stack.layers[key.layer].shapes[key.site])


@contextmanager
def listen(anatomy: Anatomy, names: Mapping[Name, Key], model: str) -> Iterator[dict[Name, torch.Tensor]]:
    """Fill a dict with tensors of a model at each of its forward passes, while the context is open.

    Args:
        anatomy: The model's.
        names: The tensors, from `resolve`.
        model: What messages call the model.

    Yields:
        The dict: by site and layer, the tensors of the last forward pass.

    Raises:
        UsageError: Attention is wanted of a model that shows it through `output_attentions` alone.
    """
    seen = _Seen(anatomy, names)
    hooks = SiteHooks(anatomy, set(names.values()))
    if hooks.from_outputs:
        raise UsageError(f"{model} computes attention on its own: call it with output_attentions=True instead.")
    with ExitStack() as stack:
        if any(key.site.endswith("attn") and not key.site.startswith("resid") for key in names.values()):
            stack.enter_context(eager_attention(anatomy.body.model))
        for side in anatomy.stacks:
            _hook_side(stack, anatomy, side, seen)
        hooks.open(stack)
        hooks.sink = seen
        yield seen.tensors


def _hook_side(stack: ExitStack, anatomy: Anatomy, side: str, seen: _Seen) -> None:
    """Set hooks on a side's whole stack of blocks: a pass begins, its shape, and the last hidden state."""
    body = anatomy.body
    module: Any = body.module
    if body.encoder_decoder:
        module = body.model.get_encoder() if side == "enc" else body.model.get_decoder()

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        last = getattr(output, "last_hidden_state", None)
        seen.keep(Key(side, "hidden", len(anatomy.stacks[side].layers)), output[0] if last is None else last)

    def before_block(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.note_shape(side, first_input(args, kwargs))

    stack.callback(module.register_forward_pre_hook(lambda *_: seen.begin(side)).remove)
    stack.callback(module.register_forward_hook(after).remove)
    block = anatomy.stacks[side].layers[0].block
    stack.callback(block.register_forward_pre_hook(before_block, with_kwargs=True).remove)
