"""Parse `resid.post_mlp@mid`, `q@5` or `enc.resid.post_mlp@all`: which tensors of a run are to be searchable.

In: the option `--index`, or a site and layers. Out: `IndexSpec`s, and the keys of the stored tensors that they choose.
"""

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
"""What a capture that stores the residual stream makes searchable by default."""

_DERIVED = {
    "resid.pre_attn": "layer L of it is resid.post_mlp of layer L-1, and layer 0 resid.embed",
    "attn": "a row of it is as long as its text",
    "cross.attn": "a row of it is as long as its text",
    "cross.k": "its rows are the encoder's tokens",
    "cross.v": "its rows are the encoder's tokens",
    "heads": "it is a table",
}


class IndexSpec(NamedTuple):
    """A site and layers to make searchable."""

    side: str | None
    """None for the model's main side."""
    site: str
    layers: Literal["mid", "all"] | tuple[int, ...]
    """`mid` is the middle layer, n // 2."""

    def __str__(self) -> str:
        layers = self.layers if isinstance(self.layers, str) else ",".join(map(str, self.layers))
        return f"{'enc.' if self.side == 'enc' else ''}{self.site}@{layers}"


def parse(text: str) -> list[IndexSpec]:
    """Parse the text of an option.

    Args:
        text: Such as `resid.post_mlp@8,16 q@5`: specs separated by white space. `none` stands for no spec, and a site alone means
            its middle layer.

    Returns:
        A spec per site.

    Raises:
        UsageError: For what cannot be searched.
        NotFoundError: For a name that is not a site.
    """
    return [_parse_one(part) for part in text.split() if part != "none"]


def from_options(site: str, layers: str) -> IndexSpec:
    """Make a spec from a site and its layers; raises as `parse` does."""
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
        raise UsageError(f"{text}: write layers after @, as in 8,16, or mid, or all.") from None


def from_index_option(index: str, stored: Iterable[Key]) -> list[IndexSpec]:
    """Parse the option `--index`, of which `auto` means the middle of the residual stream where that is stored."""
    if index != "auto":
        return parse(index)
    return parse(DEFAULT) if any(k.site == "resid.post_mlp" for k in stored) else []


def for_run_options(meta: Manifest) -> list[IndexSpec]:
    """Return the specs that a run was captured with."""
    return from_index_option(meta.options.get("index") or "none", _stored_keys(meta))


def keys_for_run(meta: Manifest, specs: Iterable[IndexSpec]) -> list[Key]:
    """Choose the stored tensors of a run; raises UsageError as `choose_keys` does."""
    stored = _stored_keys(meta)
    n_layers = {side: meta.model.stack(side).n_layers for side in {k.side for k in stored}}
    return choose_keys(specs, stored, n_layers, meta.model.side)


def _stored_keys(meta: Manifest) -> list[Key]:
    return [Key(s.side, s.site, layer) for s in meta.sites for layer in s.layers]


def choose_keys(specs: Iterable[IndexSpec], stored: Iterable[Key], n_layers: Mapping[str, int], main: str) -> list[Key]:
    """Choose stored tensors.

    Args:
        specs: What to choose.
        stored: Keys of the stored tensors.
        n_layers: The model's number of layers by side.
        main: The model's main side, `dec` or `enc`.

    Returns:
        The chosen keys, each once.

    Raises:
        UsageError: For a site that is not stored, or a layer that it is not stored in.
    """
    layers: dict[tuple[str, str], list[int | None]] = {}
    for key in stored:
        layers.setdefault((key.side, key.site), []).append(key.layer)
    chosen: dict[Key, None] = {}
    for spec in specs:
        side = spec.side or (main if (main, spec.site) in layers else "enc")
        stored_layers = layers.get((side, spec.site))
        if stored_layers is None:
            can_be = sorted({site for _, site in layers if site in SITES})
            raise UsageError(
                f"{spec}: {spec.site} is not stored. Stored, and can be indexed: {', '.join(can_be) or 'nothing'}."
            )
        chosen |= dict.fromkeys(Key(side, spec.site, i) for i in _choose_layers(spec, stored_layers, n_layers[side]))
    return list(chosen)


def _choose_layers(spec: IndexSpec, stored: list[int | None], n_layers: int) -> list[int | None]:
    if spec.layers == "all" or spec.site in ("resid.embed", "hidden"):  # those two have a single tensor
        return stored
    if spec.layers == "mid":
        return [min(stored, key=lambda i: abs((i or 0) - n_layers // 2))]
    for i in spec.layers:
        if i not in stored:
            raise UsageError(f"{spec}: {spec.site} is not stored in layer {i}, but in {', '.join(map(str, stored))}.")
    return list(spec.layers)
