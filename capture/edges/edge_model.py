"""A model as its edges need it: where each node adds to the residual stream, where each sink reads it, and that the stream is their sum.

In: a model's anatomy, then batches of pairs of prompts. Out: `PairStates`, what every node writes for both prompts of a pair.
`edge_scores` and `masked_pass` work on them; `circuits` and the check of a model call all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from capture.edges.edge_graph import EdgeGraph, LayerShape
from capture.edges.head_inputs import Projection, find_projections
from capture.interventions.reference import PositionMeans
from capture.interventions.restart import Restart
from capture.model.anatomy import Anatomy
from capture.model.forward_trace import probe_tokens
from capture.model.head_outputs import HeadOutputs, find_head_outputs
from capture.model.lm_head import LMHead
from capture.model.tolerances import formula_tolerance
from warehouse.errors import UsageError
from warehouse.schema.sites import Key

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class LayerEdges:
    """How one layer writes to the stream and reads it."""

    heads: HeadOutputs | None
    """How its heads write to the stream; None: its attention is one node."""
    projections: tuple[Projection, ...] | None
    """How its heads read the stream; None: the block has to be run once for each q, k and v."""
    parallel: bool
    attn_factor: float
    """What the block multiplies attention's output with."""
    mlp_factor: float | None
    """What it multiplies the MLP's output with; None: it has no MLP."""
    first_node: int
    """The first of the nodes that its attention is."""
    first_sink: int
    """The first of its sinks: q, k and v of all heads, then the MLP."""
    n_attn_nodes: int
    n_attn_sinks: int


@dataclass(frozen=True)
class PairStates:
    """What the nodes of a model write for B pairs of prompts of T tokens."""

    ids: torch.Tensor
    """(B, T) of the clean prompts."""
    mask: torch.Tensor
    values: Mapping[Key, torch.Tensor]
    """(2B, T, …) of each site that nodes write at and sinks read at: the clean prompts, then the corrupted ones."""
    clean_last: torch.Tensor
    """(B, T, D) last hidden states, after the final norm."""
    corrupted_last: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def clean(self, key: Key) -> torch.Tensor:
        """Return a site's values for the clean prompts, (B, T, …)."""
        return self.values[key][: len(self)]

    def corrupted(self, key: Key) -> torch.Tensor:
        """Return a site's values for the corrupted prompts, (B, T, …)."""
        return self.values[key][len(self) :]


@dataclass(frozen=True)
class Ablation:
    """What nodes write instead of their own on the edges outside of a circuit, where that is not the corrupted prompt's."""

    kind: str
    """`zero` or `mean`."""
    means: Mapping[Key, torch.Tensor]
    """(T, …) of each site that nodes write at; empty for `zero`."""

    def values(self, key: Key, like: torch.Tensor) -> torch.Tensor:
        """Return what is written at a site, in the shape of `like`, (B, T, …)."""
        if self.kind == "zero":
            return torch.zeros_like(like)
        mean = self.means[key][: like.shape[1]].to(like.device, like.dtype)
        if len(mean) < like.shape[1]:  # padding behind the prompts
            mean = torch.cat([mean, mean[-1:].expand(like.shape[1] - len(mean), *mean.shape[1:])])
        return mean.expand_as(like)


class EdgeModel:
    """A decoder whose residual stream is the sum of its nodes."""

    graph: EdgeGraph
    notes: list[str]
    """What a user should know of it: where attention is one node, and why."""

    def __init__(self, anatomy: Anatomy) -> None:
        """Take a model apart, and prove on a probe that its parts add up.

        Raises:
            UsageError: It is no decoder whose stream is the sum of what its heads and MLPs add, or does not show its q, k and v.
            TracesError: It has no language-model head.
        """
        self.anatomy, self.side = anatomy, anatomy.main.side
        self.name = type(anatomy.body.model).__name__
        self._check(anatomy)
        outputs = find_head_outputs(anatomy)
        shapes = [
            LayerShape(
                layer.shapes["q"][0],
                layer.shapes["k"][0],
                isinstance(found, HeadOutputs),
                "mlp_out" in layer.hook_points,
                layer.parallel,
            )
            for layer, found in zip(anatomy.main.layers, outputs, strict=True)
        ]
        self.graph = EdgeGraph(shapes)
        self.layers = self._layers(shapes, outputs, find_projections(anatomy))
        self.restart, self.head = Restart(anatomy), LMHead(anatomy.body)
        self.notes = self._notes(outputs)
        self._prove_sum()

    def read(self, clean: torch.Tensor, corrupted: torch.Tensor, mask: torch.Tensor) -> PairStates:
        """Run both prompts of pairs as they are, and keep what their nodes write.

        Args:
            clean: (B, T) right-padded token ids.
            corrupted: (B, T) of the other prompts, as long as theirs.
            mask: (B, T) of both.

        Returns:
            The states.
        """
        both = (torch.cat([clean, corrupted]), torch.cat([mask, mask]))
        passed = self.restart.read({self.side: both}, self.keys)
        n = len(clean)
        return PairStates(clean, mask, passed.values, passed.last[:n], passed.last[n:])

    def logits(self, last: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, V), float32, at one position of each prompt.

        Args:
            last: (B, T, D) last hidden states.
            ends: (B,) the positions.

        Returns:
            The logits, a tensor of their own.
        """
        rows = last[torch.arange(len(last), device=last.device), ends.to(last.device)]
        with torch.set_grad_enabled(rows.requires_grad and torch.is_grad_enabled()):  # the head's weights may learn
            logits = self.head(rows).float()
        return logits if logits.requires_grad else logits.clone()

    def ablation(self, kind: str, means: PositionMeans | None = None) -> Ablation:
        """Return what edges outside of a circuit carry: `zero`, or the `mean` by position over sequences.

        Args:
            kind: `zero` or `mean`.
            means: Of `written_keys`, for `mean`.

        Returns:
            The ablation.
        """
        return Ablation(kind, {} if means is None else {key: means.mean(key) for key in self.written_keys})

    def bytes_per_token(self, backward: bool) -> int:
        """Return the memory that a token of the prompts of a batch takes, both prompts of a pair together.

        Args:
            backward: Scores are computed; else edge-masked passes are run.

        Returns:
            Bytes, about.
        """
        width = self.anatomy.main.width[0]
        rows = len(self.graph.nodes) + (len(self.graph.sinks) if backward else 0)
        return int(_FLOAT_BYTES * width * (rows + 24 * len(self.layers)))

    # -- where things are --------------------------------------------------------------------------------------------

    def key(self, site: str, layer: int | None = None) -> Key:
        """Return the key of a site of the main side."""
        return Key(self.side, site, layer)

    def attn_key(self, layer: int) -> Key:
        """Return where a layer's attention writes: its heads, or its output as one."""
        return self.key("heads" if self.layers[layer].heads is not None else "attn_out", layer)

    def read_key(self, layer: int) -> Key:
        """Return the stream that a layer's MLP reads."""
        return self.key("resid.pre_attn" if self.layers[layer].parallel else "resid.post_attn", layer)

    @property
    def final_key(self) -> Key:
        """The stream that the logits are read from."""
        return self.key("resid.post_mlp", len(self.layers) - 1)

    @cached_property
    def written_keys(self) -> list[Key]:
        """The sites that nodes write at."""
        keys = [self.key("resid.embed")]
        for i, layer in enumerate(self.layers):
            keys.append(self.attn_key(i))
            if layer.mlp_factor is not None:
                keys.append(self.key("mlp_out", i))
        return keys

    @cached_property
    def keys(self) -> list[Key]:
        """The sites that nodes write at, and the streams that sinks read."""
        streams = [self.key("resid.pre_attn", i) for i in range(len(self.layers))]
        streams += [self.read_key(i) for i, x in enumerate(self.layers) if x.mlp_factor is not None and not x.parallel]
        return [*self.written_keys, *streams, self.final_key]

    def written(self, layer: int, change: torch.Tensor) -> torch.Tensor:
        """Return what a change of a layer's heads, or of its attention as one, adds to the stream, node by node.

        Args:
            layer: The layer.
            change: (B, T, H, d) of heads, (B, T, D) of attention.

        Returns:
            (B, nodes, T, D) float32.
        """
        parts = self.layers[layer]
        if parts.heads is None:
            return (change.float() * parts.attn_factor)[:, None]
        return torch.einsum("bthd,hde->bhte", change.float(), parts.heads.weight)

    # -- taking apart ------------------------------------------------------------------------------------------------

    def _check(self, anatomy: Anatomy) -> None:
        """Refuse what has no edges between heads and MLPs."""
        stack = anatomy.main
        reason = None
        if anatomy.body.encoder_decoder or self.side != "dec":
            reason = "it is no decoder"
        elif len(stack.width) != 1:
            reason = "it has several residual streams"
        elif stack.time_first:
            reason = "its blocks exchange tokens first"
        elif stack.post_norm:
            reason = "norms stand in its residual stream, so that it is not the sum of what its layers add"
        for i, layer in enumerate(stack.layers):
            if reason is not None:
                break
            if layer.attention is None:
                reason = f"layer {i} does not show its q, k and v: {stack.missing.get('q', 'it does not attend')}"
            elif "attn_out" not in layer.hook_points:
                reason = f"what attention adds in layer {i} is not known: {stack.missing.get('attn_out', 'it was not found')}"
            elif not layer.parallel and "mlp_out" in layer.hook_points and "resid.post_attn" not in layer.hook_points:
                reason = f"what the MLP of layer {i} reads is not known"
        if reason is not None:
            raise UsageError(f"{self.name}: edges cannot be told apart: {reason}.")

    def _layers(
        self,
        shapes: Sequence[LayerShape],
        outputs: Sequence[HeadOutputs | str],
        projections: Sequence[tuple[Projection, ...] | None],
    ) -> list[LayerEdges]:
        layers, node, sink = [], 1, 0
        for i, (shape, found) in enumerate(zip(shapes, outputs, strict=True)):
            points = self.anatomy.main.layers[i].hook_points
            n_nodes, n_sinks = shape.heads if shape.apart else 1, shape.heads + 2 * shape.kv_heads
            layers.append(
                LayerEdges(
                    found if isinstance(found, HeadOutputs) else None,
                    projections[i],
                    shape.parallel,
                    points["attn_out"].factor,
                    points["mlp_out"].factor if shape.mlp else None,
                    node,
                    sink,
                    n_nodes,
                    n_sinks,
                )
            )
            node, sink = node + n_nodes + shape.mlp, sink + n_sinks + shape.mlp
        return layers

    def _notes(self, outputs: Sequence[HeadOutputs | str]) -> list[str]:
        reasons: dict[str, list[int]] = {}
        for i, found in enumerate(outputs):
            if isinstance(found, str):
                reasons.setdefault(found, []).append(i)
        return [
            f"{self.name}: attention is one node in {'every layer' if len(at) == len(outputs) else f'layers {at}'}: {reason}"
            for reason, at in reasons.items()
        ]

    def _prove_sum(self) -> None:
        """Raise UsageError where the final stream is not the sum of the embedding and what attention and MLPs add."""
        ids, mask = probe_tokens(self.anatomy.body)[self.side]
        added = [self.key("attn_out", i) for i in range(len(self.layers))]
        added += [self.key("mlp_out", i) for i, x in enumerate(self.layers) if x.mlp_factor is not None]
        start, end = self.key("resid.embed"), self.final_key
        values = self.restart.read({self.side: (ids, mask)}, [start, *added, end]).values
        total = values[start].float()
        for key in added:
            assert key.layer is not None
            layer = self.layers[key.layer]
            factor = layer.attn_factor if key.site == "attn_out" else layer.mlp_factor
            total = total + values[key].float() * (factor or 1.0)
        final = values[end].float()
        error = float((total - final).abs().max() / final.abs().max())
        if not error <= formula_tolerance(self.anatomy.body.model.dtype):
            raise UsageError(
                f"{self.name}: edges cannot be told apart: its residual stream is not the sum of its embedding and what attention "
                f"and MLPs add, by {error:.1e} of it."
            )
