"""What can be captured: the sites' names, their shapes, and whether a site is stored or derived from stored ones.

A *site* is a place in the model. What a user asks for (`hidden,resid,qkv,attn`) is resolved here to the tensors that
must be stored; what a reader asks for is resolved in `warehouse.store` from the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass

from warehouse.errors import NotFound

RESID_STAGES = ("embed", "pre_attn", "post_attn", "post_mlp")

GROUPS: dict[str, tuple[str, ...]] = {
    "hidden": ("resid.embed", "resid.post_mlp", "hidden"),
    "resid": ("resid.embed", "resid.post_attn", "resid.post_mlp"),
    "qkv": ("q", "k", "v"),
    "attn": ("q", "k"),
    "q": ("q",),
    "k": ("k",),
    "v": ("v",),
}
"""What `--capture` takes, and the stored sites that each name needs. `hidden` as a stored site is its last row only."""

STORED_ORDER = ("resid.embed", "resid.post_attn", "resid.post_mlp", "hidden", "q", "k", "v")


@dataclass(frozen=True)
class Dims:
    """The sizes of a model that the shapes of its sites follow from."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_value: int


def resolve(capture: str) -> tuple[str, ...]:
    """`"hidden,qkv"` to the sites to store, in their order on disk. Empty or `none`: no tensors.

    Raises `NotFound` for a name that is not a site.
    """
    wanted: set[str] = set()
    for name in names(capture):
        if name not in GROUPS:
            raise NotFound("site", name, GROUPS, "--capture takes a comma-separated list.")
        wanted.update(GROUPS[name])
    return tuple(s for s in STORED_ORDER if s in wanted)


def names(capture: str) -> list[str]:
    """What `--capture` lists; `none` is nothing."""
    return [name for part in capture.split(",") if (name := part.strip()) not in ("", "none")]


def layers_of(site: str, n_layers: int) -> list[int | None]:
    """The layers at which a site is stored. The stored row of `hidden` is the last one, number L."""
    if site == "resid.embed":
        return [None]
    if site == "hidden":
        return [n_layers]
    return list(range(n_layers))


def row_shape(site: str, dims: Dims) -> tuple[int, ...]:
    """The shape of one token's row in a stored tensor."""
    if site == "q":
        return (dims.n_heads, dims.d_head)
    if site == "k":
        return (dims.n_kv_heads, dims.d_head)
    if site == "v":
        return (dims.n_kv_heads, dims.d_value)
    return (dims.d_model,)


def readable(stored: set[str], dims: Dims, can_derive_attn: bool) -> list[tuple[str, str, str]]:
    """Every site a run can answer for: `(site, shape for one sequence of T tokens, stored | derived)`."""
    L, D = dims.n_layers, dims.d_model
    rows = []
    if "resid.embed" in stored:
        rows.append(("resid.embed", f"(T, {D})", "stored"))
    if {"resid.embed", "resid.post_mlp"} <= stored:
        rows.append(("resid.pre_attn", f"({L}, T, {D})", "derived"))
    for site in ("resid.post_attn", "resid.post_mlp"):
        if site in stored:
            rows.append((site, f"({L}, T, {D})", "stored"))
    if {"resid.embed", "resid.post_mlp", "hidden"} <= stored:
        rows.append(("hidden", f"({L + 1}, T, {D})", "derived"))
    if "q" in stored:
        rows.append(("q", f"({L}, {dims.n_heads}, T, {dims.d_head})", "stored"))
    for site, width in (("k", dims.d_head), ("v", dims.d_value)):
        if site in stored:
            rows.append((site, f"({L}, {dims.n_heads}, T, {width}), from {dims.n_kv_heads} heads", "stored"))
    if can_derive_attn and {"q", "k"} <= stored:
        rows.append(("attn", f"({L}, {dims.n_heads}, T, T)", "derived"))
    return rows
