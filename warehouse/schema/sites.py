"""What can be captured: the names of the sites, what a row of each is, and the names of their tensors.

A *site* is a place in the model. What a user asks for (`hidden,resid,qkv,attn`) is resolved here to sites. Which tensors a
model needs for them is decided by `capture.recording.plan`; which sites a run can answer for follows from its manifest, in
`warehouse.storage.readable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from warehouse.errors import NotFoundError


class Key(NamedTuple):
    """The name of a tensor of a run."""

    side: str
    """`dec` or `enc`: the stack of the model."""
    site: str
    layer: int | None
    """None for `resid.embed`, which comes before all layers."""


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
"""What `--capture` takes, and the sites behind each name. Only encoder-decoder models have the cross sites. `means` are over
the response tokens of a sequence, special tokens left out, or over all its tokens where it has no response. `heads` is a
table, computed from attention."""

MEAN = "mean."
"""The prefix of sites that are means over a sequence."""

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
"""What a row of a tensor is: a token; a whole sequence (means); a token of the encoder (`cross.k`, `cross.v`); or a pair of
tokens (query, key), row by row of the attention matrix: its lower triangle, the whole square, or decoder by encoder."""

PAIRS = (TRIANGLE, SQUARE, CROSS)
"""The kinds of rows that are pairs of tokens."""


def resolve(capture: str) -> tuple[str, ...]:
    """Resolve the value of `--capture` to sites.

    Args:
        capture: Names from `GROUPS` with commas between them, such as `"hidden,qkv"`; empty or `none` means nothing.

    Returns:
        The sites in their order on disk, `heads` last.

    Raises:
        NotFoundError: A name is not in `GROUPS`.
    """
    wanted: set[str] = set()
    for name in names(capture):
        if name not in GROUPS:
            raise NotFoundError("site", name, GROUPS, "--capture takes a comma-separated list.")
        wanted.update(GROUPS[name])
    return tuple(s for s in (*STORED_ORDER, "heads") if s in wanted)


def capture_of(site: str) -> str:
    """Return the name for `--capture` that stores a site and the fewest others.

    Raises:
        NotFoundError: The site is never stored.
    """
    if site not in STORED_ORDER:
        raise NotFoundError("stored site", site, STORED_ORDER)
    return min((g for g, needs in GROUPS.items() if site in needs), key=lambda g: len(GROUPS[g]))


def names(capture: str) -> list[str]:
    """Split the value of `--capture` into its names; `none` is no name."""
    return [name for part in capture.split(",") if (name := part.strip()) not in ("", "none")]


def row_kind(site: str, causal: bool) -> str:
    """Return what a row of a site's tensors is, in a stack whose attention is causal or not."""
    if site == "attn":
        return TRIANGLE if causal else SQUARE
    if site == "cross.attn":
        return CROSS
    if site.startswith(MEAN):
        return SEQUENCE
    return SOURCE if site in ("cross.k", "cross.v") else TOKEN


def row_count(kind: str, side: str, lengths: Mapping[str, int]) -> int:
    """Count the rows of one sequence in a tensor, from the sequence's number of tokens on each side."""
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
    """Return the site named `other` of the same attention: `beside("cross.k", "q")` is `cross.q`."""
    prefix = site.rpartition(".")[0]
    return f"{prefix}.{other}" if prefix else other


def tensor_name(side: str, site: str, layer: int | None) -> str:
    """Return a tensor's name inside a shard: `resid.post_mlp.L16`, `resid.embed` without a layer, `enc.q.L00` of an encoder."""
    name = site if layer is None else f"{site}.L{layer:02d}"
    return f"enc.{name}" if side == "enc" else name


def key_of(tensor: str) -> Key:
    """Return the key of a tensor from its name inside a shard: the inverse of `tensor_name`."""
    side, name = ("enc", tensor.removeprefix("enc.")) if tensor.startswith("enc.") else ("dec", tensor)
    site, _, layer = name.rpartition(".L")
    return Key(side, site, int(layer)) if site and layer.isdigit() else Key(side, name, None)
