"""The arrays of a sequence by site and layer, whatever the site: what formats with one array a name are filled from.

In: a run, and names of sites or groups of them, as `--capture` takes them. Out: which can be read in which layers, and their arrays as
`TraceStore` gives them. numpy has no bfloat16 that others read, so that it becomes float32, which holds the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from warehouse.errors import NotFoundError, UsageError
from warehouse.exports.chosen import ExportedSequence
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import readable
from warehouse.storage.trace_store import TraceStore

_STORED_FOR = {"resid.pre_attn": "resid.post_mlp"}
"""Stored sites that others are derived from."""


class SiteLayers(NamedTuple):
    """A site, and the layers of it that are exported; `[None]`: it has none."""

    site: str
    layers: list[int | None]


def choose_sites(
    store: TraceStore, names: Sequence[str], side: str, layers: str | Sequence[int] = "all"
) -> list[SiteLayers]:
    """Return the sites that are exported.

    Args:
        store: The run.
        names: Sites, such as `resid.post_mlp`, or groups of them: `resid`, `hidden`, `qkv`, `attn`; of a group, what the run has.
        side: The stack of the model.
        layers: `all`, or some.

    Returns:
        Each site once, with its layers.

    Raises:
        NotFoundError: There is no site or group of that name.
        UsageError: The run does not have a site, or none of a group or of the layers.
    """
    store.check_not_expired()
    known = [r.site for r in readable.readable(store.meta) if r.side == side]
    found: dict[str, list[int | None]] = {}
    for name in names:
        group = [name] if name in known else [s for s in _group(name) if s in known]
        if not group:
            has = ", ".join(dict.fromkeys(known)) or "no tensors"
            again = name if name in sites.GROUPS else sites.capture_of(_STORED_FOR.get(name, name))
            raise UsageError(
                f"Run '{store.meta.run_id}' has no {name}; it has {has}. Capture it again with --capture {again}."
            )
        for site in group:
            found[site] = _some(readable.layers_with(store.meta, site, side), layers)
    chosen = [SiteLayers(site, some) for site, some in found.items() if some]
    if not chosen:
        raise UsageError(f"Run '{store.meta.run_id}' has none of {', '.join(names)} in these layers.")
    return chosen


def read_layer(store: TraceStore, sequence: ExportedSequence, site: str, layer: int | None, side: str) -> np.ndarray:
    """Return the array of a site in one layer: (T, D), (H, T, d_head), or (H, T, S).

    Args:
        store: The run.
        sequence: The sequence.
        site: The site; grouped k and v are repeated for their query heads.
        layer: Its layer.
        side: The stack of the model.

    Returns:
        The array; float32 where it is stored as bfloat16.
    """
    where: dict[str, Any] = {"seq": sequence.seq, "side": side}
    kind, name = ("cross", site.removeprefix("cross.")) if site.startswith("cross.") else ("self", site)
    example = sequence.example_id
    if name.startswith("resid."):
        array = store.resid(example, name.removeprefix("resid."), layer, **where)
    elif name in ("q", "k", "v"):
        array = store.qkv(example, name, layer, **where, kind=kind)
    elif name == "attn":
        array = store.attn(example, layer, **where, kind=kind)
    elif name == "hidden":
        array = store.hidden(example, layer, **where)
    else:
        array = store.rows(Key(side, site, layer), example, sequence.seq)
    return array.astype(np.float32) if array.dtype.kind not in "fiu" else array


def _group(name: str) -> list[str]:
    """Return the sites of a group, those that are derived among them.

    Raises:
        NotFoundError: There is neither a group nor a site of that name.
    """
    if name in sites.GROUPS:
        derived = {"resid": ["resid.pre_attn"], "hidden": ["hidden"]}.get(name, [])
        return ["hidden"] if name == "hidden" else [*sites.GROUPS[name], *derived]
    if name in (*sites.STORED_ORDER, "resid.pre_attn"):
        return [name]
    raise NotFoundError("site", name, (*sites.GROUPS, *sites.STORED_ORDER, "resid.pre_attn"))


def _some(of: list[int | None], layers: str | Sequence[int]) -> list[int | None]:
    """Return those of a site's layers that are wanted; a site without layers is always."""
    return of if layers == "all" or of == [None] else [layer for layer in of if layer in layers]
