"""Finds how each head of a layer reads the residual stream, so that each of its q, k and v can be given a stream of its own.

In: a model's anatomy. Out: for every layer the `Projection`s between stream and attention, or None where there are none of that kind. A
projection is an affine module (a Linear, a Conv1D, fused or not) that reads the stream through modules that look at one token at a
time (a norm, or none), each of whose output columns goes into the q, k or v of a single head. Which column goes where is read off
gradients on a probe: no module is known by name. `edge_scores` and `masked_pass` take them as a short way; without them the block
itself is run once for each head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from capture.edges.edge_graph import PORTS
from capture.interventions.site_edits import Edit, edit_sites
from capture.model.anatomy import Anatomy, Layer
from capture.model.body import replace_forward
from capture.model.forward_trace import ForwardTrace, ModuleCall, first_output, probe_tokens, trace_forward
from capture.model.tolerances import formula_tolerance
from warehouse.schema.sites import Key

Port = tuple[str, int]
"""`q`, `k` or `v`, and the number of the head: of k and v the key-value head."""


@dataclass(frozen=True)
class Projection:
    """An affine module between the stream and the q, k or v of heads."""

    module: nn.Module
    path: tuple[nn.Module, ...]
    """What the stream goes through before it."""
    columns: Mapping[Port, torch.Tensor | slice]
    """The columns of its output that make the q, k or v of a head."""
    weights: Mapping[Port, torch.Tensor]
    """(D, columns) of each, in the model's dtype."""
    biases: Mapping[Port, torch.Tensor]
    """(columns,) of each."""
    width: int
    """Columns of its output."""

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the module is given for states (B, T, D) of the stream."""
        for module in self.path:
            made = first_output(module.forward(x))
            assert made is not None
            x = made
        return x


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Have no gradient by a model's weights be computed while the context is open."""
    learning = [w for w in model.parameters() if w.requires_grad]
    for w in learning:
        w.requires_grad_(False)
    try:
        yield
    finally:
        for w in learning:
            w.requires_grad_(True)


def ports_of(layer: Layer) -> list[Port]:
    """Return the q, k and v of all heads of a layer, in the order of the graph's sinks."""
    return [(port, head) for port in PORTS for head in range(layer.shapes[port][0])]


def find_projections(anatomy: Anatomy) -> list[tuple[Projection, ...] | None]:
    """Find the projections of each layer of the main side.

    Args:
        anatomy: The model's; every layer attends.

    Returns:
        For each layer its projections; None where its heads' inputs are made in another way.
    """
    trace = trace_forward(anatomy.body)
    runs: Counter[nn.Module] = Counter()
    candidates: list[list[tuple[ModuleCall, tuple[nn.Module, ...]]]] = []
    for layer in anatomy.main.layers:
        calls = sorted((c for c in trace.calls if c.module is layer.block), key=lambda c: c.start)
        candidates.append(_find_affine(layer, trace, calls[runs[layer.block]]))
        runs[layer.block] += 1
    gradients = _find_columns(anatomy, [[call.module for call, _ in found] for found in candidates])
    return [
        None if columns is None else _projections(found, columns)
        for found, columns in zip(candidates, gradients, strict=True)
    ]


def _find_affine(
    layer: Layer, trace: ForwardTrace, block: ModuleCall
) -> list[tuple[ModuleCall, tuple[nn.Module, ...]]]:
    """Find the affine modules of a block that read the stream before it attends, and the path to each."""
    if block.input is None:
        return []
    attended = next(a.tick for a in trace.attentions if a.call.module is layer.attention and block.contains(a.tick))
    inside = sorted(
        (
            c
            for c in trace.calls
            if block.start < c.start and c.end < attended and c.input is not None and c.output is not None
        ),
        key=lambda c: c.start,
    )
    paths: dict[bytes, tuple[nn.Module, ...]] = {block.input.digest: ()}
    found: list[tuple[ModuleCall, tuple[nn.Module, ...]]] = []
    for call in inside:
        assert call.input is not None and call.output is not None
        path = paths.get(call.input.digest)
        if path is None or any(outer.contains(call.start) for outer, _ in found):
            continue
        if _is_affine(call):
            found.append((call, path))
        else:
            paths.setdefault(call.output.digest, (*path, call.module))
    return found


def _is_affine(call: ModuleCall) -> bool:
    """Return whether a module's output is its input times a matrix, and a bias."""
    assert call.input is not None and call.output is not None
    rows, made = call.input.rows, call.output.rows
    if rows.ndim != 2 or made.ndim != 2:
        return False
    with torch.no_grad():
        try:
            weight, bias = _matrix(call.module, rows)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):  # it takes more than the rows
            return False
        error = (rows.float() @ weight + bias - made.float()).abs().max() / made.float().abs().max().clamp(min=1e-30)
    return bool(error <= formula_tolerance(rows.dtype))


def _matrix(module: nn.Module, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight (D, n) and bias (n,) of an affine module, float32, from what it makes of unit vectors and of zero."""
    zero, unit = like.new_zeros((1, 1, like.shape[1])), torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
    of_zero, of_units = first_output(module(zero)), first_output(module(unit[None]))
    assert of_zero is not None and of_units is not None
    bias = of_zero[0, 0].float()
    return of_units[0].float() - bias, bias


def _find_columns(
    anatomy: Anatomy, modules: Sequence[Sequence[nn.Module]]
) -> list[Mapping[Port, tuple[torch.Tensor, ...]] | None]:
    """Find by gradients which columns of which module make the q, k and v of each head, layer by layer.

    Returns:
        For each layer, by port the columns of each of its modules; None where a column serves several heads, or a head has none.
    """
    side, layers = anatomy.main.side, anatomy.main.layers
    seen: list[dict[str, torch.Tensor]] = [{} for _ in layers]
    outputs: list[dict[nn.Module, torch.Tensor]] = [{} for _ in layers]

    def keeper(i: int, port: str) -> Edit:
        def keep(x: torch.Tensor) -> torch.Tensor:
            seen[i][port] = x
            return x

        return keep

    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(frozen_weights(anatomy.body.model))
        edits = {Key(side, port, i): keeper(i, port) for i in range(len(layers)) for port in PORTS}
        state = stack.enter_context(edit_sites(anatomy, edits))

        def leaf_maker(module: nn.Module) -> Callable[..., Any]:
            forward = module.forward

            def made(*args: Any, **kwargs: Any) -> Any:
                y = forward(*args, **kwargs).detach().requires_grad_()
                if state.running is not None:
                    outputs[state.running[1]][module] = y
                return y.clone()  # some models go on to clip it in place

            return made

        for module in dict.fromkeys(m for found in modules for m in found):
            stack.enter_context(replace_forward(module, leaf_maker(module)))
        anatomy.body(probe_tokens(anatomy.body))
        return [_columns(layers[i], seen[i], [outputs[i].get(m) for m in modules[i]]) for i in range(len(layers))]


def _columns(
    layer: Layer, seen: Mapping[str, torch.Tensor], outputs: Sequence[torch.Tensor | None]
) -> Mapping[Port, tuple[torch.Tensor, ...]] | None:
    leaves = [y for y in outputs if y is not None]
    if not leaves or len(leaves) < len(outputs) or any(not seen[port].requires_grad for port in PORTS):
        return None
    generator = torch.Generator().manual_seed(0)
    found: dict[Port, tuple[torch.Tensor, ...]] = {}
    for port, head in ports_of(layer):
        x = seen[port][:, :, head]
        cotangent = torch.randn(x.shape, generator=generator).to(x.device, x.dtype)
        gradients = torch.autograd.grad(x, leaves, cotangent, retain_graph=True, allow_unused=True)
        found[port, head] = tuple(
            torch.zeros(0, dtype=torch.long)
            if g is None
            else (g.flatten(0, -2).float().cpu() != 0).any(0).nonzero()[:, 0]
            for g in gradients
        )
    for i in range(len(leaves)):
        used = torch.cat([columns[i] for columns in found.values()])
        if len(used.unique()) < len(used):
            return None
    return found if all(any(len(c) for c in columns) for columns in found.values()) else None


def _as_slice(columns: torch.Tensor) -> torch.Tensor | slice:
    """Return sorted columns as a slice where they lie side by side, which costs no copy."""
    first, last = int(columns[0]), int(columns[-1])
    return slice(first, last + 1) if last - first + 1 == len(columns) else columns


def _projections(
    found: Sequence[tuple[ModuleCall, tuple[nn.Module, ...]]], columns: Mapping[Port, tuple[torch.Tensor, ...]]
) -> tuple[Projection, ...]:
    made = []
    for i, (call, path) in enumerate(found):
        own = {port: each[i] for port, each in columns.items() if len(each[i])}
        if not own:
            continue
        assert call.input is not None
        with torch.no_grad():
            weight, bias = (x.to(call.input.rows.dtype) for x in _matrix(call.module, call.input.rows))
        device = weight.device
        own = {port: each.to(device) for port, each in own.items()}
        made.append(
            Projection(
                call.module,
                path,
                {port: _as_slice(each) for port, each in own.items()},
                {port: weight[:, each].contiguous() for port, each in own.items()},
                {port: bias[each] for port, each in own.items()},
                weight.shape[1],
            )
        )
    return tuple(made)
