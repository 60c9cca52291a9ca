"""How each layer of a model is taken apart: into its heads, or its attention as one, and its MLP.

In: a loaded model and a run of it. Out: a `LayerParts` a layer, and that everything they need is stored. `logit_parts` and `flows` go
through the layers by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from capture.influences.options import SIDE, check_stored
from capture.interventions.site_edits import edit_sites
from capture.model.anatomy import Anatomy
from capture.model.forward_trace import probe_tokens
from capture.model.head_outputs import HeadOutputs, find_head_outputs
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore


@dataclass(frozen=True)
class LayerParts:
    """What a layer adds to the stream."""

    heads: HeadOutputs | None
    """How its heads add to it; None: its attention is one part, or it has none."""
    reason: str
    """Why its heads cannot be told apart; empty where they can."""
    attends: bool
    """A part of it mixes tokens: attention, or another mixer."""
    halves: bool
    """Attention first, then an MLP; else it adds to the stream once, and `resid.post_attn` is not there."""


def take_apart(anatomy: Anatomy, store: TraceStore) -> list[LayerParts]:
    """Find how each layer is taken apart, and check that the run has stored what that takes.

    Args:
        anatomy: The model's.
        store: A run of it.

    Returns:
        The parts of each layer.

    Raises:
        UsageError: It is not known what a layer adds to the stream, or the run has not stored what is needed.
    """
    stack = anatomy.main
    formulas = store.meta.model.stack(SIDE).attention
    parts, needed = [], []
    for i, (layer, found) in enumerate(zip(stack.layers, find_head_outputs(anatomy), strict=True)):
        halves, mixes = "resid.post_attn" in layer.shapes, "attn_out" in layer.shapes
        if not halves and not mixes and "mlp_out" not in layer.shapes:
            reason = stack.missing.get("resid.post_attn", "its block shows no attention and no MLP")
            raise UsageError(
                f"{type(anatomy.body.model).__name__}: what layer {i} adds to the stream is not known: {reason}."
            )
        heads = found if isinstance(found, HeadOutputs) else None
        attends = halves or mixes or _reads_other_tokens(anatomy, i)
        parts.append(LayerParts(heads, "" if isinstance(found, HeadOutputs) else found, attends, halves))
        if halves:
            needed.append(Key(SIDE, "attn_out" if layer.parallel else "resid.post_attn", i))
        if heads is not None:
            needed.append(Key(SIDE, "v", i))
            if not store.has(Key(SIDE, "attn", i)):
                derived = formulas is not None and formulas[i] is not None
                needed += [Key(SIDE, name, i) for name in (("q", "k") if derived else ("attn",))]
    check_stored(store, needed)
    return parts


def _reads_other_tokens(anatomy: Anatomy, layer: int) -> bool:
    """Return whether what a layer returns for the last token changes with the state of the first."""
    seen: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        seen.append(x[:, -1].clone())
        return x

    def change_first(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x[:, :1], x[:, 1:]], dim=1)

    watched, changed = Key(SIDE, "resid.post_mlp", layer), Key(SIDE, "resid.pre_attn", layer)
    for edits in ({watched: keep}, {watched: keep, changed: change_first}):
        with torch.no_grad(), edit_sites(anatomy, edits):
            anatomy.body(probe_tokens(anatomy.body))
    return not torch.equal(*seen)


def why_no_flows(layers: list[LayerParts]) -> str | None:
    """Say why nothing can be followed through the layers: one mixes tokens and does not show what came from which; None: it can."""
    for i, layer in enumerate(layers):
        if layer.attends and layer.heads is None:
            return f"IFR and value norms follow what each head adds, and in layer {i} that is not known: {layer.reason}"
    return None
