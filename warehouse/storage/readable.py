"""Which sites a run can answer for, with their shapes, and which of them are derived when read.

In goes a manifest. Out comes a row for each site that `TraceStore` can read, in the order along the model. `_RULES` says how:
each rule names a site, whether it is stored or derived, and works out its shape in every layer from what is stored. Where two
rules name a site, the first that has shapes counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from warehouse.schema.sites import GROUPS

if TYPE_CHECKING:
    from warehouse.storage.manifest import Manifest
    from warehouse.storage.model_info import StackInfo


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
    """List every site that a run can answer for, in their order along the model."""
    rows: list[Readable] = []
    for side in dict.fromkeys(s.side for s in meta.sites):
        stored, listed = _StoredSites(meta, side), set[str]()
        for rule in _RULES:
            shapes = {} if rule.site in listed else rule.shapes(stored)
            if shapes:
                dtype = "F32" if rule.dtype_of is None else stored.dtypes[rule.dtype_of]
                layers = stored.stack.n_layers + (rule.site == "hidden")
                note = _BEGINS_LATER if rule.site == "hidden" and not stored.stack.embeds else ""
                rows.append(Readable(side, rule.site, _shape_text(shapes, layers), dtype, rule.origin, note))
                listed.add(rule.site)
    return rows


def layers_with(meta: Manifest, site: str, side: str) -> list[int | None]:
    """List the layers in which a site can be read, in order; `[None]` for one without layers, none where it cannot be read."""
    stored = _StoredSites(meta, side)
    found = (rule.shapes(stored) for rule in _RULES if rule.site == site)
    return sorted(next(filter(None, found), {}), key=lambda layer: layer or 0)


def query_heads(stack: StackInfo, layer: int | None, stored_heads: int, queries: int | None) -> int:
    """Count the query heads that a stored tensor of q, k or v serves.

    Args:
        stack: The stack that the layer is of.
        layer: The layer.
        stored_heads: Heads in the tensor's rows.
        queries: Heads of the layer's stored `q`; None where it is not stored, and the model says.

    Returns:
        The number of query heads, or `stored_heads` where that does not divide it.
    """
    n = stack.heads_of(layer) if queries is None else queries
    return n if n % stored_heads == 0 else stored_heads


def by_layer(shapes: Mapping[int, str]) -> str:
    """Say which layers are of which shape: `(T, 4) in layers 0-3, (T, 2) in layer 4`."""
    layers: dict[str, list[int]] = {}
    for layer, shape in shapes.items():
        layers.setdefault(shape, []).append(layer)
    return ", ".join(f"{shape} in layer{'s' * (len(some) > 1)} {_ranges(some)}" for shape, some in layers.items())


_BEGINS_LATER = "transformers' output_hidden_states begin with hidden[1]"


class _StoredSites:
    """What a run stores of one side: the shape of a row of each site in each layer, and each site's dtype."""

    def __init__(self, meta: Manifest, side: str) -> None:
        self.stack = meta.model.stack(side)
        self.dtypes: dict[str, str] = {}
        self._shapes: dict[str, dict[int | None, tuple[int, ...]]] = {}
        for s in meta.sites:
            if s.side == side and s.layers:
                self.dtypes.setdefault(s.site, s.dtype)
                self._shapes.setdefault(s.site, {}).update(dict.fromkeys(s.layers, tuple(s.row_shape)))

    def row_shapes(self, site: str) -> Mapping[int | None, tuple[int, ...]]:
        """Return layer → the shape of a row; the layer of `resid.embed` is None. Empty where the site is not stored."""
        return self._shapes.get(site, {})

    def layer_inputs(self) -> dict[int | None, str]:
        """Return layer → the shape of the stream that enters it; layer L, which does not exist, is what leaves the last."""
        outputs = {i + 1: shape for i, shape in self.row_shapes("resid.post_mlp").items() if i is not None}
        embedded = self.row_shapes("resid.embed").get(None)
        inputs = outputs if embedded is None else {0: embedded, **outputs}
        return {i: f"T, {width}" for i, (*_, width) in inputs.items()}


_Shapes = Mapping[int | None, str]
"""Layer → the shape of one sequence's array there; of a site without layers, None → its shape. Empty: it cannot be read."""


@dataclass(frozen=True)
class _Rule:
    """How one site can be read."""

    site: str
    origin: Literal["stored", "derived"]
    dtype_of: str | None
    """The stored site whose dtype it has; None: it is computed, in float32."""
    shapes: Callable[[_StoredSites], _Shapes]


def _vectors(site: str, rows: str = "T") -> _Rule:
    """Make the rule of a stored site with one vector for each of its rows."""

    def shapes(stored: _StoredSites) -> _Shapes:
        return {i: f"{rows}, {shape[-1]}" for i, shape in stored.row_shapes(site).items()}

    return _Rule(site, "stored", site, shapes)


def _pre_attn(stored: _StoredSites) -> _Shapes:
    """Return what enters each layer, which is what leaves the layer below."""
    layers = stored.stack.n_layers if stored.row_shapes("resid.post_mlp") else 0
    return {i: shape for i, shape in stored.layer_inputs().items() if i in range(layers)}


def _parallel_post_attn(stored: _StoredSites) -> _Shapes:
    """Return the streams of parallel blocks: what enters a layer, plus what its attention adds."""
    layers = stored.row_shapes("attn_out") if stored.stack.parallel else {}
    return {i: shape for i, shape in stored.layer_inputs().items() if i in layers}


def _hidden(stored: _StoredSites) -> _Shapes:
    """Return the hidden states: what enters each layer, and the last layer's output after the final norm."""
    last, states = stored.stack.n_layers, stored.layer_inputs()
    if stored.stack.final_norm:
        normed = stored.row_shapes("hidden").get(last)
        states = {i: shape for i, shape in states.items() if i in range(last)} | (
            {last: f"T, {normed[-1]}"} if normed else {}
        )
    return states if len(states) == last + 1 else {}


def _heads(site: str, tokens: str) -> _Rule:
    """Make the rule of stored q, k or v; grouped heads are repeated for each of their query heads."""
    prefix = site.removesuffix(site[-1])

    def shapes(stored: _StoredSites) -> _Shapes:
        queries = {i: heads for i, (heads, _) in stored.row_shapes(prefix + "q").items()}
        texts = {}
        for i, (heads, width) in stored.row_shapes(site).items():
            n = query_heads(stored.stack, i, heads, queries.get(i))
            texts[i] = f"{n}, {tokens}, {width}" + (f", from {heads} heads" if heads != n else "")
        return texts

    return _Rule(site, "stored", site, shapes)


def _stored_attn(site: str, tokens: str) -> _Rule:
    """Make the rule of stored attention probabilities."""

    def shapes(stored: _StoredSites) -> _Shapes:
        return {i: f"{heads}, T, {tokens}" for i, (heads,) in stored.row_shapes(site).items()}

    return _Rule(site, "stored", site, shapes)


def _derived_attn(site: str, tokens: str) -> _Rule:
    """Make the rule of attention that follows from stored q and k."""
    prefix = site.removesuffix("attn")

    def shapes(stored: _StoredSites) -> _Shapes:
        formulas = stored.stack.cross_attention if prefix else stored.stack.attention
        keys = stored.row_shapes(prefix + "k") if formulas is not None else {}
        queries = stored.row_shapes(prefix + "q")
        return {i: f"{heads}, T, {tokens}" for i, (heads, _) in queries.items() if i in keys}

    return _Rule(site, "derived", None, shapes)


_RULES = (
    _vectors("resid.embed"),
    _Rule("resid.pre_attn", "derived", "resid.post_mlp", _pre_attn),
    _vectors("resid.post_attn"),
    _Rule("resid.post_attn", "derived", None, _parallel_post_attn),
    _vectors("resid.post_cross"),
    _vectors("resid.post_mlp"),
    _Rule("hidden", "derived", "resid.post_mlp", _hidden),
    _heads("q", "T"),
    _heads("k", "T"),
    _heads("v", "T"),
    _stored_attn("attn", "T"),
    _derived_attn("attn", "T"),
    _heads("cross.q", "T"),
    _heads("cross.k", "S"),
    _heads("cross.v", "S"),
    _stored_attn("cross.attn", "S"),
    _derived_attn("cross.attn", "S"),
    _vectors("attn_out"),
    _vectors("cross.attn_out"),
    _vectors("mlp_out"),
    _vectors("mlp_act"),
    *(_vectors(site, rows="1") for site in GROUPS["means"]),
)
"""How each site can be read, in the order along the model."""


def _shape_text(shapes: _Shapes, n_layers: int) -> str:
    """Write the shapes of a site's layers as one text: `(12, T, 768)`, or which layers are of which shape."""
    by_number = {i: shape for i, shape in sorted(shapes.items(), key=lambda x: x[0] or 0) if i is not None}
    if not by_number:
        return f"({shapes[None]})"
    if len(set(by_number.values())) > 1:
        return by_layer({i: f"({shape})" for i, shape in by_number.items()})
    some = "" if len(by_number) == n_layers else f", layers {_ranges(list(by_number))}"
    return f"({len(by_number)}, {next(iter(by_number.values()))}){some}"


def _ranges(layers: list[int]) -> str:
    """Write sorted numbers as ranges: `[0, 1, 2, 5]` as `0-2, 5`."""
    spans: list[list[int]] = []
    for i in layers:
        if spans and i == spans[-1][1] + 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
