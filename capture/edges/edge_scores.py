"""Scores nodes and edges by gradients: how much a task's metric would move if they carried the corrupted prompt's values.

In: pairs of prompts and a metric. Out: `BatchScores`, for each pair the score of every node and edge. The score of an edge is the change
that its node writes, corrupted less clean, times the gradient of the metric by the stream that its sink reads, summed over tokens
and width: the metric's change to first order, negative where the edge helps. A sink's gradient is the metric's by its q, k, v or MLP
output, taken back to the stream through that sink alone; so the edges of a node add up to the score of the node.

`eap` takes the gradient at the clean prompt (Syed et al. 2023), `eap-ig` its mean over points between the corrupted and the clean
embedding (Hanna et al. 2024), `gim` modified gradients at the clean prompt (Edin et al. 2025). `circuits` calls this for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import nn

from capture.edges.edge_graph import PORTS
from capture.edges.edge_model import EdgeModel, PairStates
from capture.edges.head_inputs import Projection, frozen_weights, ports_of
from capture.edges.modified_gradients import modified_gradients
from capture.interventions.site_edits import Edit, ForwardState, edit_sites
from capture.model.body import replace_forward
from capture.model.failures import error_sentence
from capture.model.forward_trace import first_input
from warehouse.errors import UsageError
from warehouse.schema.sites import Key

GRADIENT_METHODS = ("eap-ig", "eap", "gim")

Objective = Callable[[torch.Tensor], torch.Tensor]
"""Takes the logits (B, V) at the prompts' ends and returns the metric of each, (B,), differentiable."""


@dataclass(frozen=True)
class BatchScores:
    """The scores of B pairs."""

    nodes: np.ndarray
    """(B, N) float64, in the order of the graph's nodes."""
    edges: np.ndarray | None
    """(B, E) float32, in the order of its edges; None where they were not asked for."""
    changes: np.ndarray
    """(B,) float64: the metric of the corrupted prompt less that of the clean one."""
    gaps: np.ndarray
    """(B,) float64: the embedding's score less that change. Integrated gradients would have none: with few steps it says how far they
    are from it. NaN for other methods than `eap-ig`."""


def score_batch(
    model: EdgeModel,
    states: PairStates,
    objective: Objective,
    ends: torch.Tensor,
    *,
    method: str = "eap-ig",
    steps: int = 5,
    edges: bool = True,
) -> BatchScores:
    """Score the nodes and edges of a model on pairs of prompts.

    Args:
        model: The model.
        states: The pairs.
        objective: The metric.
        ends: (B,) the positions that it is read at.
        method: `eap-ig`, `eap` or `gim`.
        steps: Points between the two embeddings, for `eap-ig`: the middles of that many equal parts.
        edges: Score edges, not nodes alone.

    Returns:
        The scores.

    Raises:
        UsageError: The model's gradients cannot be computed.
    """
    points = [(i + 0.5) / steps for i in range(steps)] if method == "eap-ig" else [1.0]
    with ExitStack() as stack:
        stack.enter_context(_explained(model.name))
        stack.enter_context(frozen_weights(model.anatomy.body.model))
        stack.enter_context(modified_gradients(model.anatomy) if method == "gim" else nullcontext())
        sums = _Sums(model, states, edges)
        for point in points:
            sums.add(_Gradients(model, states, point, objective, ends), 1 / len(points))
    with torch.no_grad():
        clean, corrupted = (
            objective(model.logits(last, ends)).double().cpu().numpy()
            for last in (states.clean_last, states.corrupted_last)
        )
    changes = corrupted - clean
    nodes = sums.nodes.cpu().numpy()
    gaps = nodes[:, 0] - changes if method == "eap-ig" else np.full(len(changes), np.nan)
    return BatchScores(nodes, sums.edges(), changes, gaps)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what PyTorch says of a model that it cannot differentiate into a UsageError."""
    try:
        yield
    except RuntimeError as e:
        if any(words in str(e) for words in ("inplace operation", "does not require grad", "derivative for")):
            raise UsageError(f"{name}: its gradients cannot be computed: {error_sentence(e)}") from e
        raise


@dataclass
class _Layer:
    """What one layer left in the graph of a pass."""

    stream: torch.Tensor | None = None
    """What its block was called with."""
    made: dict[str, torch.Tensor] = field(default_factory=dict)
    """By site, before it was marked: q, k, v, mlp_out."""
    marked: dict[str, torch.Tensor] = field(default_factory=dict)
    """By site: what the rest of the pass goes on with; gradients are taken by it."""
    given: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    """What each projection was called with."""
    projected: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    """What it returned, marked."""


class _Gradients:
    """One forward and backward pass at a point between the corrupted embedding and the clean one."""

    def __init__(
        self, model: EdgeModel, states: PairStates, point: float, objective: Objective, ends: torch.Tensor
    ) -> None:
        self._model = model
        embed = model.key("resid.embed")
        start, end = states.corrupted(embed), states.clean(embed)
        self.embed = (end if point == 1 else start + point * (end - start)).detach().requires_grad_()
        self.layers = [_Layer() for _ in model.layers]
        self._final: torch.Tensor | None = None
        with torch.enable_grad(), ExitStack() as stack:
            place = stack.enter_context(edit_sites(model.anatomy, dict(self._edits())))
            for module, forward in self._projections(place):
                stack.enter_context(replace_forward(module, forward))
            self._hook_mlps(stack, place)
            last = model.anatomy.body({model.side: (states.ids, states.mask)}).last[model.side]
            value = objective(model.logits(last, ends)).sum()
        leaves: list[tuple[Any, torch.Tensor]] = [(("embed",), self.embed)]
        assert self._final is not None
        leaves.append((("final",), self._final))
        for i, layer in enumerate(self.layers):
            leaves += [((i, site), x) for site, x in layer.marked.items()]
            leaves += [((i, module), x) for module, x in layer.projected.items()]
        found = torch.autograd.grad(value, [x for _, x in leaves], retain_graph=True, allow_unused=True)
        self.gradients: dict[Any, torch.Tensor] = {
            name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(leaves, found, strict=True)
        }
        """By ("embed",), ("final",), (layer, site) and (layer, module)."""

    # -- marking the graph -------------------------------------------------------------------------------------------

    def _edits(self) -> Iterator[tuple[Key, Edit]]:
        model = self._model
        yield model.key("resid.embed"), lambda x: self.embed
        for i, layer in enumerate(model.layers):
            yield model.key("resid.pre_attn", i), self._enter(i)
            yield model.attn_key(i), self._mark(i, model.attn_key(i).site)
            if layer.projections is None:
                for port in PORTS:
                    yield model.key(port, i), self._mark(i, port)
            if layer.mlp_factor is not None:
                yield model.key("mlp_out", i), self._mark(i, "mlp_out")
        yield model.final_key, self._end

    def _enter(self, i: int) -> Edit:
        def edit(x: torch.Tensor) -> torch.Tensor:
            self.layers[i].stream = x.clone()
            return self.layers[i].stream  # type: ignore[return-value]

        return edit

    def _mark(self, i: int, site: str) -> Edit:
        def edit(x: torch.Tensor) -> torch.Tensor:
            self.layers[i].made[site], self.layers[i].marked[site] = x, x.clone()
            return self.layers[i].marked[site].clone()

        return edit

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        self._final = x.clone()
        return self._final

    def _hook_mlps(self, stack: ExitStack, place: ForwardState) -> None:
        """Mark what MLPs read, apart from the stream that goes on beside them; in parallel blocks attention reads it too."""
        points = {
            self._model.anatomy.main.layers[i].hook_points["resid.post_attn"].module
            for i, layer in enumerate(self._model.layers)
            if layer.mlp_factor is not None and not layer.parallel
        }

        def mark(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = first_input(args, kwargs)
            if place.running is None or x is None:
                return None
            marked = x.clone()
            self.layers[place.running[1]].marked["resid.post_attn"] = marked
            return tuple(marked if y is x else y for y in args), {
                name: marked if y is x else y for name, y in kwargs.items()
            }

        for module in points:
            stack.callback(module.register_forward_pre_hook(mark, with_kwargs=True).remove)

    def _projections(self, place: ForwardState) -> Iterator[tuple[nn.Module, Callable[..., torch.Tensor]]]:
        modules = {p.module for layer in self._model.layers for p in layer.projections or ()}
        for module in modules:
            yield module, self._marking(module, module.forward, place)

    def _marking(
        self, module: nn.Module, forward: Callable[..., torch.Tensor], place: ForwardState
    ) -> Callable[..., torch.Tensor]:
        def marked(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            y = forward(x, *args, **kwargs)
            if place.running is None:
                return y
            layer = self.layers[place.running[1]]
            layer.given[module], layer.projected[module] = x, y.clone()
            return layer.projected[module].clone()  # some models go on to clip it in place

        return marked

    # -- what each sink's stream is worth ----------------------------------------------------------------------------

    def of_heads(self, i: int) -> list[torch.Tensor]:
        """Return the gradients by the streams of the q, k and v of a layer's heads, (B, T, D) each."""
        layer, parts = self.layers[i], self._model.layers[i]
        assert layer.stream is not None
        ports = ports_of(self._model.anatomy.main.layers[i])
        if parts.projections is None:
            return [self._through(layer.made[port], layer.stream, self._only(i, port, head)) for port, head in ports]
        through = self._through_projection
        return [
            reduce(torch.add, [through(i, p, port) for p in parts.projections if port in p.columns]) for port in ports
        ]

    def of_mlp(self, i: int) -> torch.Tensor:
        """Return the gradient by the stream of a layer's MLP, (B, T, D)."""
        layer = self.layers[i]
        assert layer.stream is not None
        if self._model.layers[i].parallel:
            return self._through(layer.made["mlp_out"], layer.stream, self.gradients[i, "mlp_out"])
        return self.gradients[i, "resid.post_attn"].view(layer.stream.shape)

    def _only(self, i: int, port: str, head: int) -> torch.Tensor:
        whole = self.gradients[i, port]
        one = torch.zeros_like(whole)
        one[:, :, head] = whole[:, :, head]
        return one

    def _through_projection(self, i: int, projection: Projection, port: tuple[str, int]) -> torch.Tensor:
        layer = self.layers[i]
        assert layer.stream is not None
        cotangent = self.gradients[i, projection.module][..., projection.columns[port]] @ projection.weights[port].t()
        given = layer.given[projection.module]
        if given is layer.stream:
            return cotangent
        return self._through(given, layer.stream, cotangent)

    @staticmethod
    def _through(made: torch.Tensor, stream: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        """Take a gradient back from what was made of a stream to the stream."""
        (found,) = torch.autograd.grad(made, stream, cotangent, retain_graph=True, allow_unused=True)
        return torch.zeros_like(stream) if found is None else found


class _Sums:
    """Gradients over the points, and the scores that follow."""

    def __init__(self, model: EdgeModel, states: PairStates, edges: bool) -> None:
        self._model, self._states = model, states
        batch, length = states.ids.shape
        width = model.anatomy.main.width[0]
        device = states.clean_last.device
        self.nodes = torch.zeros((batch, len(model.graph.nodes)), dtype=torch.float64, device=device)
        self._streams = torch.zeros((batch, len(model.graph.sinks), length * width), device=device) if edges else None
        """(B, sinks, T·D): the mean gradient by each sink's stream."""

    def add(self, gradients: _Gradients, weight: float) -> None:
        """Take in the gradients at one point."""
        model = self._model
        self.nodes[:, 0] += weight * self._worth(model.key("resid.embed"), gradients.gradients["embed",]).sum((1, 2))
        for i, layer in enumerate(model.layers):
            key = model.attn_key(i)
            worth = self._worth(key, gradients.gradients[i, key.site])  # (B, T, H, d) or (B, T, D)
            own = worth.sum((1, 3)) if layer.heads is not None else worth.sum((1, 2))[:, None]
            self.nodes[:, layer.first_node : layer.first_node + layer.n_attn_nodes] += weight * own
            if layer.mlp_factor is not None:
                key = model.key("mlp_out", i)
                own = self._worth(key, gradients.gradients[i, "mlp_out"]).sum((1, 2))
                self.nodes[:, layer.first_node + layer.n_attn_nodes] += weight * own
        if self._streams is None:
            return
        for i, layer in enumerate(model.layers):
            sink = layer.first_sink
            for found in gradients.of_heads(i):
                self._streams[:, sink].add_(found.flatten(1).float(), alpha=weight)
                sink += 1
            if layer.mlp_factor is not None:
                self._streams[:, sink].add_(gradients.of_mlp(i).flatten(1).float(), alpha=weight)
        self._streams[:, -1].add_(gradients.gradients["final",].flatten(1).float(), alpha=weight)

    def _worth(self, key: Key, gradient: torch.Tensor) -> torch.Tensor:
        change = self._states.corrupted(key) - self._states.clean(key)
        return change.double() * gradient.double()

    def edges(self) -> np.ndarray | None:
        """Return the scores of all edges, (B, E)."""
        if self._streams is None:
            return None
        graph, changes = self._model.graph, self._changes()
        scores = np.empty((len(self._states), graph.n_edges), dtype=np.float32)
        sink = 0
        while sink < len(graph.sinks):
            reads = int(graph.reads[sink])
            last = sink
            while last < len(graph.sinks) and int(graph.reads[last]) == reads:
                last += 1
            found = self._streams[:, sink:last] @ changes[:, :reads].transpose(1, 2)
            scores[:, int(graph.starts[sink]) : int(graph.starts[last])] = found.flatten(1).cpu().numpy()
            sink = last
        return scores

    def _changes(self) -> torch.Tensor:
        """Return what each node writes for the corrupted prompt less for the clean one: (B, N, T·D)."""
        model, states = self._model, self._states
        batch, length = states.ids.shape
        width = model.anatomy.main.width[0]
        changes = torch.zeros((batch, len(model.graph.nodes), length * width), device=states.clean_last.device)

        def change(key: Key) -> torch.Tensor:
            return (states.corrupted(key) - states.clean(key)).float()

        changes[:, 0] = change(model.key("resid.embed")).flatten(1)
        for i, layer in enumerate(model.layers):
            written = model.written(i, change(model.attn_key(i)))
            changes[:, layer.first_node : layer.first_node + layer.n_attn_nodes] = written.flatten(2)
            if layer.mlp_factor is not None:
                added = change(model.key("mlp_out", i)) * layer.mlp_factor
                changes[:, layer.first_node + layer.n_attn_nodes] = added.flatten(1)
        return changes
