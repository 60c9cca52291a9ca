"""Names of places in a model → our sites.

TransformerLens and SAELens have hooks (`blocks.3.hook_resid_post`); nnsight saves go by the modules of transformers (`model.layers.3.output.0`);
our own exports have names of our sites (`resid.post_mlp.L03`). All say the layer and the place in it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|h|block|layer)\.(\d{1,4})\.(.+)$")
_OWN = re.compile(
    r"(resid\.(?:pre_attn|post_attn|post_cross|post_mlp)|hidden|q|k|v|attn|attn_out|cross\.attn_out|mlp_out|mlp_act)\.L(\d{1,4})"
)
_EMBED = "resid.embed"

_HOOKS = {
    "hook_resid_mid": "resid.post_attn",
    "hook_resid_post": "resid.post_mlp",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_rot_q": "q",
    "attn.hook_rot_k": "k",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_pattern": "attn",
    "mlp.hook_post": "mlp_act",
}
_MODULES = {
    "output": "resid.post_mlp",
    "self_attn.output": "attn_out",
    "attn.output": "attn_out",
    "attention.output": "attn_out",
    "self_attention.output": "attn_out",
    "mlp.output": "mlp_out",
}
_EMBEDDED = (
    "hook_embed",
    "embed.hook_out",
    "embed_tokens.output",
    "wte.output",
    "embed_in.output",
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_in",
)
"""Names of what enters the first block, the more exact ones last."""
_FINAL = ("unembed.hook_in", "ln_f.output", "model.norm.output", "final_layer_norm.output")


class Place(NamedTuple):
    """Where in a model a tensor is of."""

    site: str
    layer: int | None
    rank: int = 0
    """Of two tensors of the same place the one with the higher rank is taken."""


def find_place(name: str, normed: int) -> Place | None:
    """Return the place that a name is of.

    Args:
        name: A tensor's name.
        normed: The number of the hidden state after the final norm, which is the number of layers.

    Returns:
        The place; None where it is none of ours.
    """
    if name == _EMBED:
        return Place(_EMBED, None, len(_EMBEDDED))
    if own := _OWN.fullmatch(name):
        site, layer = own[1], int(own[2])
        entered = site == "resid.pre_attn" or (site == "hidden" and layer != normed)
        return _entering(layer) if entered else Place(site, layer)
    name = name.removesuffix(".value").removesuffix(".0") if ".output" in name else name
    for rank, ending in enumerate(_EMBEDDED):
        if name == ending or name.endswith(f".{ending}"):
            return Place(_EMBED, None, rank)
    if any(name == ending or name.endswith(f".{ending}") for ending in _FINAL):
        return Place("hidden", normed)
    found = _LAYER.search(name)
    if found is None:
        return None
    layer, place = int(found[1]), found[2]
    if place == "hook_resid_pre":
        return _entering(layer)
    site = _HOOKS.get(place) or _MODULES.get(place)
    return None if site is None else Place(site, layer, int("rot_" in place))


def _entering(layer: int) -> Place:
    """Return where the state that enters a block is stored: as what leaves the one before it."""
    return Place(_EMBED, None, len(_EMBEDDED)) if layer == 0 else Place("resid.post_mlp", layer - 1, -1)


def is_hook(name: str) -> bool:
    """Whether a name is one of TransformerLens."""
    return "hook_" in name


def layer_of(name: str) -> int | None:
    """Return the layer that a name is of, of a hidden state the one that it leaves; None where it is of none."""
    if found := _LAYER.search(name):
        return int(found[1])
    own = _OWN.fullmatch(name)
    return None if own is None else int(own[2]) - (own[1] == "hidden")
