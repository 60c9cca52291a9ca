"""What a capture records and stores: the sites of `--capture`, resolved against the model.

In go a model's anatomy and the user's choice; out comes a `Plan`, which says for every tensor its dtype and row shape, and why a
site is missing in some layers. Jobs give it to the recorder and the writer. A site that other tensors determine is not stored:
`attn` becomes q and k where it can be derived from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from capture.model.anatomy import Anatomy, Stack
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage.blobs import TensorSpec

ATTN_HOMES = ("auto", "stored")
"""Where attention is kept: derived from q and k where that is exact, or stored in any case."""


@dataclass(frozen=True)
class Plan:
    """What a capture records and stores."""

    stored: Mapping[Key, TensorSpec]
    unstored: Mapping[Key, TensorSpec]
    """Recorded for the `heads` table or for means alone, and not stored."""
    heads: bool
    """Whether the `heads` table is wanted."""
    derives: bool
    """Whether attention will be derived from q and k."""
    eager: bool
    """Whether attention probabilities are recorded, so that the model must compute them."""
    missing: Mapping[str, str]
    """The chosen sites that are not in every layer, and why."""

    @property
    def tensors(self) -> dict[Key, TensorSpec]:
        """The tensors to record."""
        return {**{k: s for k, s in self.stored.items() if not k.site.startswith(sites.MEAN)}, **self.unstored}

    def bytes(self, lengths: list[Mapping[str, int]]) -> int:
        """Return how many bytes the stored tensors of sequences take; of coded ones, outliers apart.

        Args:
            lengths: Their numbers of tokens, by side.

        Returns:
            Bytes.
        """
        total = 0
        for key, spec in self.stored.items():
            if all(key.side in n for n in lengths):
                total += spec.stored_row_bytes * sum(sites.row_count(spec.row_kind, key.side, n) for n in lengths)
                total += spec.row_bytes * len(lengths) if spec.coded else 0  # first rows stay as they were recorded
        return total


_INTERNALS = "resid,qkv,attn,attn_out,mlp_out,mlp_act"


def plan(
    anatomy: Anatomy,
    capture: str,
    attn: str,
    dtype: str,
    sides: tuple[str, ...] | None = None,
    internals: Collection[int] = (),
    coded: bool = False,
) -> Plan:
    """Decide what a capture records and stores.

    Args:
        anatomy: The model's.
        capture: The sites wanted, as in `--capture`.
        attn: `auto` or `stored`, as in `--attn`.
        dtype: What tensors are stored in, as safetensors names it.
        sides: The sides that will be run; None: all.
        internals: Layers of which every site is stored.
        coded: Whether tensors with a vector a token are stored as int8 codes, but q and k: attention is derived from those.

    Returns:
        The plan.

    Raises:
        UsageError: The model has nothing of a name in `capture`; the message says why.
    """
    if internals:
        return _with_internals(anatomy, capture, attn, dtype, sides, internals, coded)
    wanted = sites.resolve(capture)
    stacks = [s for side, s in anatomy.stacks.items() if sides is None or side in sides]
    both = len(stacks) == 2
    for name in sites.names(capture):
        if not available_sites(stacks, name):
            reason = next((s.missing[site] for s in stacks for site in sites.GROUPS[name] if site in s.missing), "")
            raise UsageError(
                f"This model has no {name}: {reason or 'it has no attention'}. Leave it out of --capture; "
                "traces model check says what there is."
            )
    stored: dict[Key, TensorSpec] = {}
    unstored: dict[Key, TensorSpec] = {}
    missing: dict[str, str] = {}
    for stack in stacks:
        for site in wanted:
            for source in _source_sites(stack, site, attn, both):
                _add(stack, source, dtype, unstored if site == "heads" else stored)
            bare = site.removeprefix(sites.MEAN)
            if site != bare:
                means: dict[Key, TensorSpec] = {}
                _add(stack, bare, "F32", means)
                unstored |= means
                stored |= {k._replace(site=site): replace(s, row_kind=sites.SEQUENCE) for k, s in means.items()}
            if bare in stack.missing:
                missing[site] = stack.missing[bare]
    ordered = {k: replace(stored[k], coded=coded and _may_be_coded(k, stored[k])) for k in sorted(stored, key=_order)}
    unstored = {k: v for k, v in unstored.items() if k not in stored}
    eager = any(k.site in ("attn", "cross.attn") for k in (*ordered, *unstored))
    derives = not eager and ("heads" in wanted or "attn" in wanted)
    return Plan(ordered, unstored, "heads" in wanted, derives, eager, missing)


def _with_internals(
    anatomy: Anatomy,
    capture: str,
    attn: str,
    dtype: str,
    sides: tuple[str, ...] | None,
    internals: Collection[int],
    coded: bool,
) -> Plan:
    """Plan what `capture` names, and all sites of some layers, with the layer below's output as the input of each."""
    chosen = plan(anatomy, capture, attn, dtype, sides, coded=coded)
    stacks = [s for side, s in anatomy.stacks.items() if sides is None or side in sides]
    every = plan(
        anatomy,
        ",".join(n for n in sites.names(_INTERNALS) if available_sites(stacks, n)),
        attn,
        dtype,
        sides,
        coded=coded,
    )

    def wanted(key: Key) -> bool:
        if key.layer is None:
            return 0 in internals
        return key.layer in internals or (key.site == "resid.post_mlp" and key.layer + 1 in internals)

    stored = {**chosen.stored, **{k: s for k, s in every.stored.items() if wanted(k)}}
    return Plan(
        {k: stored[k] for k in sorted(stored, key=_order)},
        {k: s for k, s in chosen.unstored.items() if k not in stored},
        chosen.heads,
        chosen.derives or every.derives,
        chosen.eager or every.eager,
        {**every.missing, **chosen.missing},
    )


def available_sites(stacks: Iterable[Stack], name: str) -> bool:
    """Return whether a model has any site that a name of --capture stands for."""
    group = ("attn",) if name == "heads" else tuple(site.removeprefix(sites.MEAN) for site in sites.GROUPS[name])
    if "resid.embed" in group:
        return True
    return any(site in layer.shapes for stack in stacks for layer in stack.layers for site in group)


def _source_sites(stack: Stack, site: str, attn: str, both: bool) -> list[str]:
    """Return the sites to record for a chosen one; `both`: an encoder and a decoder will be run."""
    if site.startswith(sites.MEAN) or (site.startswith("cross.") and not both):
        return []
    if site == "heads":
        return ["q", "k"] if stack.derivable else ["attn"]
    if site == "attn":
        return ["q", "k"] if stack.derivable and attn == "auto" else ["attn"]
    if site == "cross.attn":
        return ["cross.q", "cross.k"] if stack.cross_derivable and attn == "auto" else ["cross.attn"]
    return [site]


def _may_be_coded(key: Key, spec: TensorSpec) -> bool:
    """Tell whether a tensor has a vector a token, and attention is not derived from it: int8 would move probabilities."""
    return spec.row_kind in (sites.TOKEN, sites.SOURCE) and key.site.rpartition(".")[2] not in ("q", "k")


def _add(stack: Stack, site: str, dtype: str, into: dict[Key, TensorSpec]) -> None:
    if site == "resid.embed":
        into[Key(stack.side, site, None)] = TensorSpec(dtype, stack.width)
    elif site == "hidden":
        if stack.final_norm:
            into[Key(stack.side, site, len(stack.layers))] = TensorSpec(dtype, stack.last_width)
    else:
        for i, layer in enumerate(stack.layers):
            kept = "attn_out" if site == "resid.post_attn" and layer.parallel else site
            if kept in layer.shapes:
                kind = sites.row_kind(kept, stack.causal)
                into[Key(stack.side, kept, i)] = TensorSpec(dtype, layer.shapes[kept], kind)


def _order(key: Key) -> tuple[int, int, int]:
    return (sites.SIDES.index(key.side), sites.STORED_ORDER.index(key.site), -1 if key.layer is None else key.layer)
