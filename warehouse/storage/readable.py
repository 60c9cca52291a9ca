"""Which sites a run can answer for, with their shapes, and which of them are derived when read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from warehouse.schema.sites import GROUPS

if TYPE_CHECKING:
    from warehouse.storage.manifest import Manifest, StackInfo


class Readable(NamedTuple):
    """A site that a run can answer for."""

    side: str
    site: str
    shape: str
    """For one sequence of T tokens (S: the encoder's)."""
    dtype: str
    origin: str
    """`stored` or `derived`"""
    note: str = ""
    """What else there is to know."""


def readable(meta: Manifest) -> list[Readable]:
    """Every site that a run can answer for, in their order along the model."""
    return [r for side in dict.fromkeys(s.side for s in meta.sites) for r in _readable_side(meta, side)]


def query_heads(stack: StackInfo, layer: int | None, own: int, queries: int | None) -> int:
    """The query heads that a tensor of `own` heads is for: as many as `queries` has, if that is stored, else as the model says."""
    n = stack.heads_of(layer) if queries is None else queries
    return n if n % own == 0 else own


def by_layer(shapes: Mapping[int, str]) -> str:
    """`(T, 4) in layers 0-3, (T, 2) in layer 4`: which layers are of which shape."""
    layers: dict[str, list[int]] = {}
    for layer, shape in shapes.items():
        layers.setdefault(shape, []).append(layer)
    return ", ".join(f"{shape} in layer{'s' * (len(which) > 1)} {_ranges(which)}" for shape, which in layers.items())


def _readable_side(meta: Manifest, side: str) -> list[Readable]:
    stack = meta.model.stack(side)
    L = stack.n_layers
    shapes: dict[str, dict[int, tuple[int, ...]]] = {}
    once: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for s in meta.sites:
        for layer in s.layers if s.side == side else ():
            dtypes.setdefault(s.site, s.dtype)
            if layer is None:
                once[s.site] = tuple(s.row_shape)
            else:
                shapes.setdefault(s.site, {})[layer] = tuple(s.row_shape)
    out: list[Readable] = []

    def add(site: str, of: Mapping[int, str], home: str, like: str, layers: int = L, note: str = "") -> None:
        """`of`: the shape of each layer."""
        kinds = set(of.values())
        if len(kinds) == 1:
            some = "" if len(of) == layers else f", layers {_ranges(sorted(of))}"
            text = f"({len(of)}, {kinds.pop()}){some}"
        else:
            text = by_layer({i: f"({of[i]})" for i in sorted(of)})
        computed = home == "derived" and site in _COMPUTED
        out.append(Readable(side, site, text, "F32" if computed else dtypes[like], home, note))

    after = shapes.get("resid.post_mlp", {})
    stream = {-1: once["resid.embed"]} if "resid.embed" in once else {}
    stream |= after
    widths = {
        i: f"T, {shape[-1]}" for i, shape in stream.items()
    }  # of what leaves a layer; -1: of what enters the first
    if "resid.embed" in once:
        out.append(Readable(side, "resid.embed", f"({widths[-1]})", dtypes["resid.embed"], "stored"))
    before = {i: widths[i - 1] for i in range(L) if i - 1 in widths}
    if before and after:
        add("resid.pre_attn", before, "derived", "resid.post_mlp")
    for site in ("resid.post_attn", "resid.post_cross", "resid.post_mlp"):
        if site in shapes:
            add(site, {i: f"T, {shape[-1]}" for i, shape in shapes[site].items()}, "stored", site)
        elif site == "resid.post_attn" and stack.parallel and "attn_out" in shapes:
            both = {i: before[i] for i in shapes["attn_out"] if i in before}
            if both:
                add(site, both, "derived", "attn_out")
    if len(widths) == L + 1 and (L in shapes.get("hidden", {}) or not stack.final_norm):
        states = {i + 1: width for i, width in widths.items()}
        if stack.final_norm:
            states[L] = f"T, {shapes['hidden'][L][-1]}"
        add("hidden", states, "derived", "resid.post_mlp", L + 1, "" if stack.embeds else _BEGINS_LATER)
    for prefix, keys in (("", "T"), ("cross.", "S")):
        queries = {i: shape[0] for i, shape in shapes.get(prefix + "q", {}).items()}
        for site in ("q", "k", "v"):
            of = {}
            for i, (own, width) in shapes.get(prefix + site, {}).items():
                n = query_heads(stack, i, own, queries.get(i))
                of[i] = f"{n}, {'T' if site == 'q' else keys}, {width}" + (f", from {own} heads" if own != n else "")
            if of:
                add(prefix + site, of, "stored", prefix + site)
        formulas = stack.cross_attention if prefix else stack.attention
        if prefix + "attn" in shapes:
            stored = {i: f"{shape[0]}, T, {keys}" for i, shape in shapes[prefix + "attn"].items()}
            add(prefix + "attn", stored, "stored", prefix + "attn")
        elif formulas is not None and queries and prefix + "k" in shapes:
            derived = {i: f"{n}, T, {keys}" for i, n in queries.items() if i in shapes[prefix + "k"]}
            add(prefix + "attn", derived, "derived", prefix + "q")
    for site in ("attn_out", "cross.attn_out", "mlp_out", "mlp_act"):
        if site in shapes:
            add(site, {i: f"T, {shape[-1]}" for i, shape in shapes[site].items()}, "stored", site)
    for site in GROUPS["means"]:
        if site in shapes:
            add(site, {i: f"1, {shape[-1]}" for i, shape in shapes[site].items()}, "stored", site)
        elif site in once:
            out.append(Readable(side, site, f"(1, {once[site][-1]})", dtypes[site], "stored"))
    return out


_BEGINS_LATER = "transformers' output_hidden_states begin with hidden[1]"


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
