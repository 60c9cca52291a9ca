"""`resid.post_mlp@mid`, `q@5`, `enc.resid.post_mlp@all`: which tensors of a model are to be searchable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from warehouse.errors import NotFoundError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key

if TYPE_CHECKING:
    from warehouse.storage.manifest import Manifest

SITES = tuple(s for s in sites.STORED_ORDER if sites.row_kind(s, causal=True) == sites.TOKEN)
"""The sites that have a vector, or one a head, for every token of their side."""

DEFAULT = "resid.post_mlp@mid"
"""What a capture that stores the residual stream makes searchable when nothing else is said."""

_DERIVED = {
    "resid.pre_attn": "layer L of it is resid.post_mlp of layer L-1, and layer 0 resid.embed",
    "attn": "a row of it is as long as its text",
    "cross.attn": "a row of it is as long as its text",
    "cross.k": "its rows are the encoder's tokens",
    "cross.v": "its rows are the encoder's tokens",
    "heads": "it is a table",
}


class IndexSpec(NamedTuple):
    side: str | None
    """None: the model's main side."""
    site: str
    layers: Literal["mid", "all"] | tuple[int, ...]
    """`mid` is the middle one, n // 2."""

    def __str__(self) -> str:
        layers = self.layers if isinstance(self.layers, str) else ",".join(map(str, self.layers))
        return f"{'enc.' if self.side == 'enc' else ''}{self.site}@{layers}"


def parse(text: str) -> list[IndexSpec]:
    """`"resid.post_mlp@8,16 q@5"`; several are parted by white space, `none` is none, and a site alone means its middle
    layer. Raises UsageError or NotFoundError for what cannot be searched.
    """
    return [_parse_one(part) for part in text.split() if part != "none"]


def from_options(site: str, layers: str) -> IndexSpec:
    """The same from two options. Raises as `parse` does."""
    return _parse_one(f"{site}@{layers}")


def _parse_one(text: str) -> IndexSpec:
    name, _, layers = text.partition("@")
    side = "enc" if name.startswith("enc.") else None
    site = name.removeprefix("enc.")
    if site in _DERIVED:
        raise UsageError(f"{site} cannot be indexed: {_DERIVED[site]}.")
    if site not in SITES:
        raise NotFoundError("site", site, SITES, "Write SITE@LAYERS, as in resid.post_mlp@mid or q@5,6.")
    layers = layers or "mid"
    if layers == "mid":
        return IndexSpec(side, site, "mid")
    if layers == "all":
        return IndexSpec(side, site, "all")
    try:
        return IndexSpec(side, site, tuple(dict.fromkeys(int(n) for n in layers.split(","))))
    except ValueError:
        raise UsageError(f"{text}: after @ come layers, as in 8,16, or mid, or all.") from None


def from_index_option(index: str, stored: Iterable[Key]) -> list[IndexSpec]:
    """What the option `--index` asks for; `auto`: the middle of the residual stream, where that is stored."""
    if index != "auto":
        return parse(index)
    return parse(DEFAULT) if any(k.site == "resid.post_mlp" for k in stored) else []


def for_run_options(meta: Manifest) -> list[IndexSpec]:
    """What a run was captured to be searched by."""
    return from_index_option(meta.options.get("index") or "none", _stored_keys(meta))


def keys_for_run(meta: Manifest, specs: Iterable[IndexSpec]) -> list[Key]:
    """The stored tensors of a run that are asked for. Raises UsageError as `keys` does."""
    stored = _stored_keys(meta)
    n_layers = {side: meta.model.stack(side).n_layers for side in {k.side for k in stored}}
    return choose_keys(specs, stored, n_layers, meta.model.side)


def _stored_keys(meta: Manifest) -> list[Key]:
    return [Key(s.side, s.site, layer) for s in meta.sites for layer in s.layers]


def choose_keys(specs: Iterable[IndexSpec], stored: Iterable[Key], n_layers: Mapping[str, int], main: str) -> list[Key]:
    """Those of the tensors `stored` that are asked for, each once; a model has `n_layers` by side, `main` being its main one.

    Raises UsageError for a site that is not stored, or a layer that has none of it.
    """
    layers: dict[tuple[str, str], list[int | None]] = {}
    for key in stored:
        layers.setdefault((key.side, key.site), []).append(key.layer)
    found: dict[Key, None] = {}
    for a in specs:
        side = a.side or (main if (main, a.site) in layers else "enc")
        there = layers.get((side, a.site))
        if there is None:
            have = sorted({site for _, site in layers if site in SITES})
            raise UsageError(
                f"{a}: {a.site} is not stored; what is, and can be indexed: {', '.join(have) or 'nothing'}."
            )
        found |= dict.fromkeys(Key(side, a.site, i) for i in _choose_layers(a, there, n_layers[side]))
    return list(found)


def _choose_layers(a: IndexSpec, there: list[int | None], n_layers: int) -> list[int | None]:
    if a.layers == "all" or a.site in ("resid.embed", "hidden"):  # of those two there is but one tensor
        return there
    if a.layers == "mid":
        return [min(there, key=lambda i: abs((i or 0) - n_layers // 2))]
    for i in a.layers:
        if i not in there:
            raise UsageError(f"{a}: there is no {a.site} in layer {i}, but in {', '.join(map(str, there))}.")
    return list(a.layers)
