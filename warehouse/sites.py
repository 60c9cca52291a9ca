"""What can be captured: the sites' names, what a row of each is, and whether a site is stored or derived from stored ones.

A *site* is a place in the model. What a user asks for (`hidden,resid,qkv,attn`) is resolved here to sites; which tensors a
model needs for them is for `capture.plan` to say, and what a reader may ask of a run follows from its manifest: `readable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from warehouse.errors import NotFound

if TYPE_CHECKING:
    from warehouse.manifest import Manifest, SiteInfo


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

    Raises `NotFound` for a name that is not a site.
    """
    wanted: set[str] = set()
    for name in names(capture):
        if name not in GROUPS:
            raise NotFound("site", name, GROUPS, "--capture takes a comma-separated list.")
        wanted.update(GROUPS[name])
    return tuple(s for s in (*STORED_ORDER, "heads") if s in wanted)


def capture_of(site: str) -> str:
    """The shortest --capture name that stores a site."""
    if site not in STORED_ORDER:
        raise NotFound("stored site", site, STORED_ORDER)
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


class Readable(NamedTuple):
    """A site that a run can answer for."""

    side: str
    site: str
    shape: str
    """For one sequence of T tokens (S: the encoder's)."""
    dtype: str
    home: str
    """`stored` or `derived`"""


def readable(meta: Manifest) -> list[Readable]:
    """Every site that a run can answer for, in their order along the model."""
    return [r for side in dict.fromkeys(s.side for s in meta.sites) for r in _readable_side(meta, side)]


def _readable_side(meta: Manifest, side: str) -> list[Readable]:
    stack = meta.model.stack(side)
    stored: dict[str, list[SiteInfo]] = {}
    for s in meta.sites:
        if s.side == side:
            stored.setdefault(s.site, []).append(s)
    L, D = stack.n_layers, stack.d_model
    out: list[Readable] = []

    def add(site: str, shape: str, home: str, like: str, layers: int | list[int] = L) -> None:
        count = layers if isinstance(layers, int) else len(layers)
        some = "" if isinstance(layers, int) or count == L else f", layers {_ranges(layers)}"
        text = shape if shape.startswith("(") else f"({count}, {shape}){some}"
        out.append(Readable(side, site, text, "F32" if home == "derived" and site in _COMPUTED else like, home))

    def dtype(site: str) -> str:
        return stored[site][0].dtype

    def of(site: str) -> list[int]:
        return sorted(i for s in stored[site] for i in s.layers if i is not None)

    after = of("resid.post_mlp") if "resid.post_mlp" in stored else []
    stream = "resid.embed" in stored and after == list(range(L))
    if "resid.embed" in stored:
        add("resid.embed", f"(T, {D})", "stored", dtype("resid.embed"))
    before = [i for i in range(L) if (i - 1 in after if i else "resid.embed" in stored)]
    if before and after:
        add("resid.pre_attn", f"T, {D}", "derived", dtype("resid.post_mlp"), before)
    for site in ("resid.post_attn", "resid.post_cross", "resid.post_mlp"):
        if site in stored:
            add(site, f"T, {D}", "stored", dtype(site), of(site))
        elif site == "resid.post_attn" and stack.parallel and "attn_out" in stored:
            both = [i for i in of("attn_out") if i in before]
            if both:
                add(site, f"T, {D}", "derived", dtype("attn_out"), both)
    if stream and ("hidden" in stored or not stack.final_norm):
        add("hidden", f"T, {D}", "derived", dtype("resid.post_mlp"), L + 1)
    for prefix, keys in (("", "T"), ("cross.", "S")):
        heads = stored[prefix + "q"][0].row_shape[0] if prefix + "q" in stored else None
        for site in ("q", "k", "v"):
            if prefix + site not in stored:
                continue
            own, width = stored[prefix + site][0].row_shape
            n = heads or own
            grouped = f", from {own} heads" if own != n else ""
            rows = "T" if site == "q" else keys
            add(prefix + site, f"{n}, {rows}, {width}{grouped}", "stored", dtype(prefix + site), of(prefix + site))
        formulas = stack.cross_attention if prefix else stack.attention
        if prefix + "attn" in stored:
            n = stored[prefix + "attn"][0].row_shape[0]
            add(prefix + "attn", f"{n}, T, {keys}", "stored", dtype(prefix + "attn"), of(prefix + "attn"))
        elif formulas is not None and {prefix + "q", prefix + "k"} <= stored.keys():
            add(prefix + "attn", f"{heads}, T, {keys}", "derived", dtype(prefix + "q"), of(prefix + "q"))
    for site in ("attn_out", "cross.attn_out", "mlp_out", "mlp_act"):
        if site in stored:
            widths = sorted({s.row_shape[-1] for s in stored[site]})
            add(site, f"T, {' or '.join(map(str, widths))}", "stored", dtype(site), of(site))
    for site in GROUPS["means"]:
        if site in stored:
            row, layers = f"1, {stored[site][0].row_shape[-1]}", of(site)
            add(site, row if layers else f"({row})", "stored", dtype(site), layers)
    return out


_COMPUTED = ("attn", "cross.attn", "resid.post_attn")
"""Derived by arithmetic, which is done in float32."""


def _ranges(layers: list[int]) -> str:
    """`[0, 1, 2, 5]` to `0-2, 5`."""
    spans: list[list[int]] = []
    for i in layers:
        if spans and i == spans[-1][1] + 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
