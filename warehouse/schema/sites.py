"""What can be captured: the sites' names, what a row of each is, and whether a site is stored or derived from stored ones.

A *site* is a place in the model. What a user asks for (`hidden,resid,qkv,attn`) is resolved here to sites; which tensors a
model needs for them is for `capture.recording.plan` to say, and what a reader may ask of a run follows from its manifest: `readable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from warehouse.errors import NotFoundError


class Key(NamedTuple):
    """A tensor of a run."""

    side: str
    """`dec` or `enc`: the stack of the model."""
    site: str
    layer: int | None


SIDES = ("dec", "enc")

RESID_STAGES = ("embed", "pre_attn", "post_attn", "post_cross", "post_mlp")

GROUPS: dict[str, tuple[str, ...]] = {
    "hidden": ("resid.embed", "resid.post_mlp", "hidden"),
    "resid": ("resid.embed", "resid.post_attn", "resid.post_cross", "resid.post_mlp"),
    "qkv": ("q", "k", "v", "cross.q", "cross.k", "cross.v"),
    "attn": ("attn", "cross.attn"),
    "q": ("q", "cross.q"),
    "k": ("k", "cross.k"),
    "v": ("v", "cross.v"),
    "attn_out": ("attn_out", "cross.attn_out"),
    "mlp_out": ("mlp_out",),
    "mlp_act": ("mlp_act",),
    "means": ("mean.resid.embed", "mean.resid.post_mlp", "mean.attn_out"),
    "heads": ("heads",),
}
"""What `--capture` takes, and the sites behind each name. The cross sites are there in encoder-decoder models alone; `means` are
those of a sequence's response tokens, its special tokens left out, or of all its tokens where it has no response; `heads` is a
table, made of attention."""

MEAN = "mean."
"""How the names of sites begin that are means over a sequence."""

STORED_ORDER = (
    "resid.embed",
    "resid.post_attn",
    "resid.post_cross",
    "resid.post_mlp",
    "hidden",
    "q",
    "k",
    "v",
    "attn",
    "attn_out",
    "mlp_out",
    "mlp_act",
    "cross.q",
    "cross.k",
    "cross.v",
    "cross.attn",
    "cross.attn_out",
    "mean.resid.embed",
    "mean.resid.post_mlp",
    "mean.attn_out",
)

TOKEN, SEQUENCE, SOURCE, TRIANGLE, SQUARE, CROSS = "token", "sequence", "source", "triangle", "square", "cross"
"""What a row of a tensor is: a token; a whole sequence (means); a token of the encoder (`cross.k`, `cross.v`); a pair of tokens (query, key), row by
row of the attention matrix: its lower triangle, all of it, or decoder by encoder."""


def resolve(capture: str) -> tuple[str, ...]:
    """`"hidden,qkv"` to the sites behind it, in their order on disk, `heads` last. Empty or `none`: nothing.

    Raises `NotFoundError` for a name that is not a site.
    """
    wanted: set[str] = set()
    for name in names(capture):
        if name not in GROUPS:
            raise NotFoundError("site", name, GROUPS, "--capture takes a comma-separated list.")
        wanted.update(GROUPS[name])
    return tuple(s for s in (*STORED_ORDER, "heads") if s in wanted)


def capture_of(site: str) -> str:
    """The shortest --capture name that stores a site."""
    if site not in STORED_ORDER:
        raise NotFoundError("stored site", site, STORED_ORDER)
    return min((g for g, needs in GROUPS.items() if site in needs), key=lambda g: len(GROUPS[g]))


def names(capture: str) -> list[str]:
    """What `--capture` lists; `none` is nothing."""
    return [name for part in capture.split(",") if (name := part.strip()) not in ("", "none")]


def row_kind(site: str, causal: bool) -> str:
    if site == "attn":
        return TRIANGLE if causal else SQUARE
    if site == "cross.attn":
        return CROSS
    if site.startswith(MEAN):
        return SEQUENCE
    return SOURCE if site in ("cross.k", "cross.v") else TOKEN


def row_count(kind: str, side: str, lengths: Mapping[str, int]) -> int:
    """Rows of one sequence that has so many tokens on each side."""
    n = lengths[side]
    if kind == TRIANGLE:
        return n * (n + 1) // 2
    if kind == SQUARE:
        return n * n
    if kind == CROSS:
        return n * lengths["enc"]
    if kind == SEQUENCE:
        return 1
    return lengths["enc"] if kind == SOURCE else n


def beside(site: str, other: str) -> str:
    """The name of another site of the same attention: of `cross.k` and `q` it is `cross.q`."""
    prefix = site.rpartition(".")[0]
    return f"{prefix}.{other}" if prefix else other


def tensor_name(side: str, site: str, layer: int | None) -> str:
    """A tensor's name inside a shard: `resid.post_mlp.L16`, `resid.embed` where there is no layer, and with `enc.` before it
    on an encoder's side.
    """
    name = site if layer is None else f"{site}.L{layer:02d}"
    return f"enc.{name}" if side == "enc" else name


def key_of(tensor: str) -> Key:
    """The other way round."""
    side, name = ("enc", tensor.removeprefix("enc.")) if tensor.startswith("enc.") else ("dec", tensor)
    site, _, layer = name.rpartition(".L")
    return Key(side, site, int(layer)) if site and layer.isdigit() else Key(side, name, None)
