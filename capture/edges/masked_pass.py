"""Runs a model with every q, k, v, MLP and the logits reading a stream of their own: the edge-masked forward pass.

In: pairs of prompts and which edges to keep. Out: the last states. A kept edge carries what its node writes in this very pass, any other
what the node writes for the corrupted prompt (or its mean, or nothing). So with all edges kept the logits are the clean prompt's, with
none the corrupted one's.

Nodes and their weights are the model's own code, run once. Each sink's stream is what is ablated of it plus the changes on its kept edges,
one matrix product a layer; norm and projection of each head then run on its stream. Where a layer's projections were not found, its block
is run up to its attention once for each q, k and v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from capture.edges.edge_graph import PORTS
from capture.edges.edge_model import Ablation, EdgeModel, PairStates
from capture.edges.head_inputs import Port, Projection, ports_of
from capture.interventions.site_edits import Edit, ForwardState, edit_sites
from capture.model.body import replace_forward
from capture.model.forward_trace import first_input
from warehouse.schema.sites import Key


def masked_states(
    model: EdgeModel, states: PairStates, keep: np.ndarray, ablated: Ablation | None = None
) -> torch.Tensor:
    """Run the clean prompts of pairs with some edges kept and all others ablated.

    Args:
        model: The model.
        states: The pairs.
        keep: (E,) which edges are kept, or (B, E) a choice for each pair.
        ablated: What all other edges carry; None: what their nodes write for the corrupted prompts.

    Returns:
        The last hidden states (B, T, D), after the final norm.
    """
    return _MaskedPass(model, states, keep, ablated).run()


class _Stop(Exception):
    """Ends a block's run once its q, k and v are known."""


class _MaskedPass:
    """One such pass."""

    def __init__(self, model: EdgeModel, states: PairStates, keep: np.ndarray, ablated: Ablation | None) -> None:
        self._model, self._states, self._ablated = model, states, ablated
        self._device = states.clean_last.device
        self._dtype = model.anatomy.body.model.dtype
        self._keep = torch.from_numpy(np.ascontiguousarray(keep)).to(self._device, torch.float32)
        batch, length = states.ids.shape
        width = model.anatomy.main.width[0]
        self._shape = (batch, length, width)
        self._changes = torch.zeros((batch, len(model.graph.nodes), length * width), device=self._device)
        """(B, N, T·D): what each node writes now less what is written instead of it."""
        self._base: torch.Tensor | None = None
        """(B, T, D) float32: what all nodes so far write when ablated. A sum of its own: the corrupted prompts' stream less what it is of
        leaves rounding where nothing is left, and a norm makes that large."""
        embed = model.key("resid.embed")
        self._write(0, (states.clean(embed) - self._instead(embed)).float()[:, None])
        self._add_base(embed, lambda x: x.float())
        self._inputs: dict[tuple[int, tuple[nn.Module, ...]], torch.Tensor] = {}
        self._replayed: dict[Key, torch.Tensor] = {}
        self._caught: dict[str, torch.Tensor] | None = None

    def run(self) -> torch.Tensor:
        """Run the pass and return the last states."""
        model, states = self._model, self._states
        with ExitStack() as stack, torch.no_grad():
            edits = dict(self._edits())
            place = stack.enter_context(edit_sites(model.anatomy, edits))
            for module, by_layer in self._projections().items():
                stack.enter_context(replace_forward(module, self._projecting(module, by_layer, place)))
            for block in dict.fromkeys(
                model.anatomy.main.layers[i].block for i, x in enumerate(model.layers) if x.projections is None
            ):
                stack.enter_context(self._replaying(block, place))
            return model.anatomy.body({model.side: (states.ids, states.mask)}).last[model.side]

    # -- what nodes write --------------------------------------------------------------------------------------------

    def _instead(self, key: Key) -> torch.Tensor:
        """Return what is written at a site on ablated edges, (B, T, …)."""
        corrupted = self._states.corrupted(key)
        return corrupted if self._ablated is None else self._ablated.values(key, corrupted)

    def _write(self, node: int, changes: torch.Tensor) -> None:
        """Note what nodes from `node` on write: (B, n, T, D) less what is written instead."""
        self._changes[:, node : node + changes.shape[1]] = changes.flatten(2)

    def _add_base(self, key: Key, added: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Note what is added to the ablated stream, where that is not the corrupted prompts'."""
        if self._ablated is not None:
            more = added(self._instead(key))
            self._base = more if self._base is None else self._base + more

    def _edits(self) -> Iterator[tuple[Key, Edit]]:
        """Yield the edits that hear what nodes write, and that give sinks their streams."""
        model = self._model
        for i, layer in enumerate(model.layers):
            yield model.attn_key(i), self._attended(i)
            if layer.projections is None:
                for port in PORTS:
                    yield model.key(port, i), self._injected(i, port)
            if layer.mlp_factor is not None:
                sink = layer.first_sink + layer.n_attn_sinks
                yield model.read_key(i), self._given(model.read_key(i), sink)
                yield model.key("mlp_out", i), self._mlp(i)
        yield model.final_key, self._given(model.final_key, len(model.graph.sinks) - 1)

    def _attended(self, i: int) -> Edit:
        key, layer = self._model.attn_key(i), self._model.layers[i]

        def edit(x: torch.Tensor) -> torch.Tensor:
            self._write(layer.first_node, self._model.written(i, x - self._instead(key)))
            bias = 0.0 if layer.heads is None else layer.heads.bias
            self._add_base(key, lambda instead: self._model.written(i, instead).sum(1) + bias)
            return x

        return edit

    def _mlp(self, i: int) -> Edit:
        key, layer = self._model.key("mlp_out", i), self._model.layers[i]

        def edit(x: torch.Tensor) -> torch.Tensor:
            factor = layer.mlp_factor or 1.0
            changes = (x - self._instead(key)).float() * factor
            self._write(layer.first_node + layer.n_attn_nodes, changes[:, None])
            self._add_base(key, lambda instead: instead.float() * factor)
            return x

        return edit

    # -- what sinks read ---------------------------------------------------------------------------------------------

    def _given(self, key: Key, sink: int) -> Edit:
        """Make the edit that gives the one sink of a place its stream."""
        return lambda x: self._streams(key, sink, 1)[:, 0].to(x.dtype)

    def _streams(self, key: Key, sink: int, n: int) -> torch.Tensor:
        """Return the streams of n sinks that read at one place: (B, n, T, D) float32."""
        graph = self._model.graph
        reads = int(graph.reads[sink])
        first = int(graph.starts[sink])
        keep = self._keep[..., first : first + n * reads].unflatten(-1, (n, reads))
        base = self._states.corrupted(key).float() if self._base is None else self._base
        batch, length, width = self._shape
        kept = keep @ self._changes[:, :reads]
        return base[:, None] + kept.view(batch, n, length, width)

    def _head_streams(self, i: int) -> torch.Tensor:
        layer = self._model.layers[i]
        return self._streams(self._model.key("resid.pre_attn", i), layer.first_sink, layer.n_attn_sinks)

    # -- heads by their projections ----------------------------------------------------------------------------------

    def _projections(self) -> Mapping[nn.Module, dict[int, Projection]]:
        """Return the projections by module, and by layer: a module may be that of several."""
        found: dict[nn.Module, dict[int, Projection]] = {}
        for i, layer in enumerate(self._model.layers):
            for projection in layer.projections or ():
                found.setdefault(projection.module, {})[i] = projection
        return found

    def _projecting(
        self, module: nn.Module, by_layer: Mapping[int, Projection], place: ForwardState
    ) -> Callable[..., torch.Tensor]:
        forward = module.forward

        def projected(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            projection = None if place.running is None else by_layer.get(place.running[1])
            if projection is None or place.running is None:
                made: torch.Tensor = forward(x, *args, **kwargs)
                return made
            ports = self._port_numbers(place.running[1])
            inputs = self._projected_inputs(place.running[1], projection)
            covered = sum(map(len, projection.biases.values()))
            out = x.new_empty((*self._shape[:2], projection.width)) if covered == projection.width else forward(x)
            for port, columns in projection.columns.items():
                out[..., columns] = inputs[ports[port]] @ projection.weights[port] + projection.biases[port]
            return out

        return projected

    def _projected_inputs(self, i: int, projection: Projection) -> torch.Tensor:
        """Return what a projection is given for the stream of each sink of a layer: (n, B, T, D)."""
        if (i, projection.path) not in self._inputs:
            for old in [at for at in self._inputs if at[0] != i]:
                del self._inputs[old]
            streams = self._head_streams(i).transpose(0, 1).to(self._dtype)
            read = projection.read(streams.flatten(0, 1))
            self._inputs[i, projection.path] = read.unflatten(0, streams.shape[:2])
        return self._inputs[i, projection.path]

    def _port_numbers(self, i: int) -> dict[Port, int]:
        return {port: n for n, port in enumerate(ports_of(self._model.anatomy.main.layers[i]))}

    # -- heads by their block ----------------------------------------------------------------------------------------

    @contextmanager
    def _replaying(self, block: nn.Module, place: ForwardState) -> Iterator[None]:
        """Run a block up to its attention once for each q, k and v of its layer, before it runs."""

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert place.running is not None
            i = place.running[1]
            if self._model.layers[i].projections is not None:
                return
            streams = self._head_streams(i).to(self._dtype)
            own = first_input(args, kwargs)
            made: dict[str, list[torch.Tensor]] = {port: [] for port in PORTS}
            for n, (port, head) in enumerate(ports_of(self._model.anatomy.main.layers[i])):
                given = [streams[:, n] if x is own else x for x in args]
                named = {name: streams[:, n] if x is own else x for name, x in kwargs.items()}
                made[port].append(self._catch(block, given, named)[port][:, :, head])
            for port, heads in made.items():
                self._replayed[self._model.key(port, i)] = torch.stack(heads, dim=2)

        handle = block.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _catch(self, block: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the q, k and v that a block attends with, (B, T, H, d)."""
        caught: dict[str, torch.Tensor] = {}
        self._caught = caught
        try:
            block.forward(*args, **kwargs)
        except _Stop:
            pass
        finally:
            self._caught = None
        return caught

    def _injected(self, i: int, port: str) -> Edit:
        """Make the edit that hears a q, k or v while a block is run for it, and gives the block the one it shall have."""
        key = self._model.key(port, i)

        def edit(x: torch.Tensor) -> torch.Tensor:
            if self._caught is None:
                return self._replayed.pop(key)
            self._caught[port] = x
            if port == PORTS[-1]:
                raise _Stop
            return x

        return edit
