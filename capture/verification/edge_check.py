"""Checks of edges: does a masked pass give each part the stream that the mask leaves for it, and is a score what it says?

In goes an anatomy; out come two `Finding`s, `edge scores` and `edge masks`, `absent` with the reason where a model's edges cannot be told
apart. A pair of random prompts is run with masks that drop all, none, or the edges of one node or into one sink. The last states must
be those of the corrupted prompt, of the clean one, and of the clean one with that node, q, k, v or MLP patched. Scores must add up, and be
the slope of a metric when every edge is turned up and down a little, by an amount of its own. `model_check` calls this.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from capture.edges.edge_graph import PORTS, Node, Sink
from capture.edges.edge_model import EdgeModel, PairStates
from capture.edges.edge_proof import examine_edges
from capture.edges.edge_scores import score_batch
from capture.edges.masked_pass import masked_states
from capture.interventions.site_edits import Edit, edit_sites
from capture.model.anatomy import Anatomy
from capture.model.body import probe_ids
from capture.model.failures import error_sentence, is_memory_error
from capture.model.tolerances import states_tolerance
from capture.verification.model_report import Finding
from capture.verification.site_checker import relative_error
from warehouse.errors import TracesError
from warehouse.schema.sites import Key

_LENGTH = 5
"""Tokens of the prompts."""
_STEPS = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
"""How far edges are turned up and down: less where it does not fit, as an expert that is chosen no more makes a jump, and a ReLU a kink."""
_ALLOWED_SLOPE = 0.02
"""Relative to the root of the sum of squares of all scores: float32 rounds."""

_SCORES = "a node's edges add up to it, and all of them to the slope of a metric"
_SUMS_ONLY = "a node's edges add up to it; slopes are not measured in half precision"
_MASKS = "all kept: the clean states; none: the corrupted ones; those of a node or sink dropped: as if it were patched"


def check_edges(anatomy: Anatomy) -> list[Finding]:
    """Check the scores and masks of a model's edges.

    Args:
        anatomy: The model's.

    Returns:
        A finding for each.
    """
    name = type(anatomy.body.model).__name__
    try:
        model = EdgeModel(anatomy)
        found = [_check_scores(model), _check_masks(model)]
        if any(f.status == "wrong" for f in found):
            examine_edges(anatomy)  # says so where the model is one that circuits refuse
        return found
    except TracesError as e:
        reason = str(e).removeprefix(f"{name}: ").removeprefix("edges cannot be told apart: ").rstrip(".")
        return [Finding(anatomy.main.side, f"edge {what}", "absent", reason) for what in ("scores", "masks")]
    except Exception as e:  # a model may fail with any error when it is run in another way
        if is_memory_error(e):
            raise
        return [Finding(anatomy.main.side, "edge masks", "wrong", f"the model fails: {error_sentence(e)}")]


def _check_scores(model: EdgeModel) -> Finding:
    states, graph = _read(model, 1), model.graph
    ends = torch.tensor([_LENGTH - 1])
    logits = model.logits(states.clean_last, ends)[0]
    best, least = int(logits.argmax()), int(logits.argmin())

    def difference(x: torch.Tensor) -> torch.Tensor:
        return (x[:, best] - x[:, least]).double()

    found = score_batch(model, states, difference, ends, method="eap")
    assert found.edges is not None
    nodes, edges = found.nodes[0], found.edges[0].astype(np.float64)
    sums = np.bincount(graph.edge_nodes, weights=edges, minlength=len(nodes))
    largest = float(np.abs(nodes).max())
    error = float(np.abs(sums - nodes).max()) / max(largest, 1e-30)
    allowed = states_tolerance(model.anatomy.body.model.dtype)
    if not largest:
        return _finding(model, "scores", "wrong", "every score is 0", 0.0, allowed)
    if not error <= allowed:
        return _finding(model, "scores", "wrong", "a node's edges do not add up to it", error, allowed)
    if model.anatomy.body.model.dtype not in (torch.float32, torch.float64):
        return _finding(model, "scores", "close", _SUMS_ONLY, error, allowed)
    slope_error = _slope_error(model, edges, lambda last: difference(model.logits(last, ends)))
    if not slope_error <= _ALLOWED_SLOPE:
        return _finding(model, "scores", "wrong", "edges are not the slope of a metric", slope_error, _ALLOWED_SLOPE)
    return _finding(model, "scores", "close", _SCORES, error, allowed)


def _slope_error(model: EdgeModel, edges: np.ndarray, metric: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return how far the scores (E,) are from the slope of a metric of last states, of the size of the scores."""
    direction, states = np.random.default_rng(0).standard_normal(len(edges)), _read(model, 1)
    size, error = float(np.sqrt(np.square(edges).sum())), np.inf
    for step in _STEPS:
        up, down = (float(metric(masked_states(model, states, 1 + x * direction))) for x in (step, -step))
        slope = (up - down) / (2 * step)
        error = min(error, abs(slope + float(edges @ direction)) / size)  # a score is the metric without the edge
        if error <= _ALLOWED_SLOPE:
            break
    return error


def _check_masks(model: EdgeModel) -> Finding:
    graph, layers = model.graph, len(model.layers)
    nodes = [n for n, node in enumerate(graph.nodes) if node.layer in (None, layers // 2) and not node.head]
    sinks = [s for s, sink in enumerate(graph.sinks) if sink.layer in (0, layers - 1) and not sink.head]
    keep = np.ones((2 + len(nodes) + len(sinks), graph.n_edges), dtype=bool)
    keep[1] = False
    for row, node in enumerate(nodes, 2):
        keep[row, graph.edge_nodes == node] = False
    for row, sink in enumerate(sinks, 2 + len(nodes)):
        keep[row, graph.edge_sinks == sink] = False
    states = _read(model, len(keep))
    found = masked_states(model, states, keep)
    wanted = _patched(model, states, [graph.nodes[n] for n in nodes] + [graph.sinks[s] for s in sinks])
    wanted[1] = states.corrupted_last[1]
    allowed = states_tolerance(model.anatomy.body.model.dtype)
    errors = [_error(x, y) for x, y in zip(found, wanted, strict=True)]
    named = ["all edges kept", "none kept", *(f"those of {graph.nodes[n].name} dropped" for n in nodes)]
    named += [f"those into {graph.sinks[s].name} dropped" for s in sinks]
    worst = int(np.argmax([np.inf if np.isnan(e) else e for e in errors]))
    if not errors[worst] <= allowed:
        return _finding(model, "masks", "wrong", f"{named[worst]}: not the states that follow", errors[worst], allowed)
    status = "close" if errors[worst] else "exact"
    return _finding(model, "masks", status, _MASKS, errors[worst], allowed)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return how far last states (T, D) are from others; in half precision at the middle one of the tokens.

    There, rounding is enough for another expert to be chosen at some token.
    """
    if found.dtype in (torch.float32, torch.float64):
        return relative_error(found, wanted)
    return float((found.float() - wanted.float()).abs().amax(-1).median() / wanted.float().abs().max())


def _patched(model: EdgeModel, states: PairStates, places: list[Node | Sink]) -> torch.Tensor:
    """Run copies of a clean prompt, the first two as they are and each other one with a place patched from the corrupted prompt."""
    rows: dict[Key, list[tuple[int, int | None]]] = {}
    for row, place in enumerate(places, 2):
        key, head = _site(model, place)
        rows.setdefault(key, []).append((row, head))
    corrupted = _corrupted(model, list(rows))
    edits = {key: _edit(at, corrupted[key]) for key, at in rows.items()}
    with torch.no_grad(), edit_sites(model.anatomy, edits):
        return model.anatomy.body({model.side: (states.ids, states.mask)}).last[model.side].clone()


def _site(model: EdgeModel, place: Node | Sink) -> tuple[Key, int | None]:
    """Return the site that is patched for a node or a sink, and the head."""
    if place.kind == "embed":
        return model.key("resid.embed"), None
    if isinstance(place, Sink) and place.port in PORTS:
        return model.key(place.port, place.layer), place.head
    assert place.layer is not None
    return (model.key("mlp_out", place.layer) if place.kind == "mlp" else model.attn_key(place.layer)), place.head


def _corrupted(model: EdgeModel, keys: list[Key]) -> dict[Key, torch.Tensor]:
    """Return the corrupted prompt's values of sites, (T, …) each."""
    ids = _prompts(model)[1]
    passed = model.restart.read({model.side: (ids, torch.ones_like(ids))}, keys)
    return {key: value[0] for key, value in passed.values.items()}


def _edit(at: list[tuple[int, int | None]], value: torch.Tensor) -> Edit:
    """Make the edit that puts a value in on some rows, into one of the heads or whole."""

    def edit(x: torch.Tensor) -> torch.Tensor:
        new = x.clone()
        for row, head in at:
            if head is None:
                new[row] = value
            else:
                new[row, :, head] = value[:, head]
        return new

    return edit


def _prompts(model: EdgeModel) -> list[torch.Tensor]:
    return [probe_ids(model.anatomy.body.model, _LENGTH, seed=seed) for seed in (2, 3)]


def _read(model: EdgeModel, n: int) -> PairStates:
    """Read a pair of random prompts, n times in a batch."""
    clean, corrupted = (ids.expand(n, -1) for ids in _prompts(model))
    return model.read(clean, corrupted, torch.ones_like(clean))


def _finding(model: EdgeModel, what: str, status: str, how: str, error: float, allowed: float) -> Finding:
    notes = "".join(f"; {note.removeprefix(f'{model.name}: ')}" for note in model.notes)
    return Finding(model.side, f"edge {what}", status, how + notes, error, allowed)
