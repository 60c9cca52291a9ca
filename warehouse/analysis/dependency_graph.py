"""Dependency graphs of predictions as networkx graphs: of one prompt, or the edges that recur over prompts made alike.

In: a catalog and an influence run, whose `token_edges` and the view `recurring_edges` are read. Out: a graph whose edges are heads and
the residual stream. `traces graph` and users of Python call `dependency_graph`; `graph_files` writes what it returns.

A node (layer, pos) is what stands at a position after a block's attention; layer -1 is the embedding. An edge of layer l goes from
(l - 1, source_pos) to (l, pos).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from warehouse.analysis.graph_files import check_networkx
from warehouse.catalog.catalog import Catalog
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import networkx as nx

EMBEDDING = -1
"""The layer of the nodes that the first block reads."""


class _Prediction(NamedTuple):
    """A prediction that has a graph."""

    example_id: str
    seq: int
    pos: int
    role: str | None
    target: str


class _Influence(NamedTuple):
    """An influence run and its predictions that have a graph."""

    run_id: str
    source: str
    predictions: list[_Prediction]


def dependency_graph(
    catalog: Catalog,
    run: str,
    example: str | None = None,
    *,
    seq: int = 0,
    pos: int | None = None,
    least_flow: float = 0.02,
) -> nx.MultiDiGraph:
    """Return the dependency graph of a prediction, or the edges that recur over predictions made from one position.

    Example:
        graph = dependency_graph(wh, "why", "c1e0")
        sorted(graph.edges(data="flow"), key=lambda edge: -edge[2])[:10]

    Args:
        catalog: The warehouse.
        run: An influence run, or the run that it explains, for the newest.
        example: The example, by its id or the beginning of it; None for what recurs over all.
        seq: With `example`, which of its sequences.
        pos: The position that the prediction is made from; None: of an example the last that is explained, of all the one that most
            prompts share. Clean prompts of a task come before corrupted ones.
        least_flow: The least flow of an edge that is kept, of recurring ones the mean.

    Returns:
        A graph whose nodes have `layer`, `pos` and `token` (… where prompts have several), and whose edges have `kind` (head or stream),
        `layer`, `head` of a head, `flow`, and of one prompt `share`, else `n`, `n_prompts`, `frequency` and the ends of the intervals.
        The graph has `run`, `source_run`, `target_pos`, and `target`, or `n_prompts` and `left_out`, the predictions that it is not
        over.

    Raises:
        UsageError: The run has no dependency graphs, networkx is not installed, or the example's id is ambiguous.
        NotFoundError: There is no such example, sequence or position.
    """
    check_networkx()
    if not 0 <= least_flow <= 1:
        raise UsageError(f"least_flow {least_flow}: it is a part of the prediction, from 0 to 1.")
    influence = _find(catalog, run)
    if example is None:
        return _recurring(catalog, influence, pos, least_flow)
    return _of_prompt(catalog, influence, _choose(influence, example, seq, pos), least_flow)


def _find(catalog: Catalog, run: str) -> _Influence:
    """Return an influence run, or the newest of the run that was named; raises UsageError where none has graphs."""
    name = catalog.run(run).meta.run_id
    runs = _rows(
        catalog,
        "SELECT run_id, parents[1] FROM runs WHERE (run_id = ? OR parents[1] = ?) AND list_contains(tables, 'token_edges') "
        "ORDER BY run_id = ? DESC, created_at DESC, run_id DESC LIMIT 1",
        name,
        name,
        name,
    )
    if not runs:
        raise UsageError(
            f"Run '{name}' has no dependency graphs. Make them: traces influence {name} --measure logit,ifr"
        )
    ((run_id, source),) = runs
    predictions = _rows(
        catalog,
        "SELECT t.example_id, t.seq, t.pos, p.role, t.target_token FROM influence_targets AS t "
        "SEMI JOIN (SELECT DISTINCT run_id, example_id, seq, target_pos AS pos FROM token_edges WHERE run_id = ?) AS g "
        "ON g.run_id = t.run_id AND g.example_id = t.example_id AND g.seq = t.seq AND g.pos = t.pos "
        "LEFT JOIN task_pairs AS p ON p.run_id = t.source_run_id AND p.example_id = t.example_id AND p.seq = t.seq "
        "WHERE t.run_id = ? ORDER BY ALL",
        run_id,
        run_id,
    )
    return _Influence(run_id, source, [_Prediction(*row) for row in predictions])


def _choose(influence: _Influence, example: str, seq: int, pos: int | None) -> _Prediction:
    """Return the prediction that was named."""
    where = f"(run '{influence.run_id}')"
    known = list(dict.fromkeys(p.example_id for p in influence.predictions))
    matches = [example] if example in known else [e for e in known if e.startswith(example)]
    if len(matches) > 1:
        raise UsageError(f"Several examples begin with {example}: {', '.join(matches[:5])}.")
    if not matches:
        raise NotFoundError("example", example, known, where)
    of_example = [p for p in influence.predictions if p.example_id == matches[0]]
    found = [p for p in of_example if p.seq == seq]
    if not found:
        raise NotFoundError("seq", seq, sorted({p.seq for p in of_example}), where)
    if pos is None:
        return found[-1]
    for prediction in found:
        if prediction.pos == pos:
            return prediction
    raise NotFoundError("explained position", pos, [p.pos for p in found], where)


def _of_prompt(catalog: Catalog, influence: _Influence, target: _Prediction, least_flow: float) -> nx.MultiDiGraph:
    place = (influence.source, target.example_id, target.seq)
    tokens = _rows(
        catalog,
        "SELECT pos, token FROM tokens WHERE run_id = ? AND example_id = ? AND seq = ? AND side = 'dec'",
        *place,
    )
    edges = _rows(
        catalog,
        "SELECT layer, head, pos, source_pos, flow, share FROM token_edges "
        "WHERE run_id = ? AND example_id = ? AND seq = ? AND target_pos = ? AND flow >= ? "
        "ORDER BY layer, flow DESC, head, pos, source_pos",
        influence.run_id,
        *place[1:],
        target.pos,
        least_flow,
    )
    facts = {"example_id": target.example_id, "seq": target.seq, "target": target.target}
    return _graph(influence, target.pos, dict(tokens), edges, ("share",), facts)


def _recurring(catalog: Catalog, influence: _Influence, pos: int | None, least_flow: float) -> nx.MultiDiGraph:
    sets: dict[tuple[int, str | None], list[_Prediction]] = {}
    for prediction in influence.predictions:
        sets.setdefault((prediction.pos, prediction.role), []).append(prediction)
    chosen = {key: found for key, found in sets.items() if pos in (None, key[0])}
    if not chosen:
        raise NotFoundError("explained position", pos, sorted({p for p, _ in sets}), f"(run '{influence.run_id}')")
    target_pos, role = max(chosen, key=lambda key: (len(chosen[key]), key[1] != "corrupted", -key[0]))
    prompts = chosen[target_pos, role]
    tokens = _rows(
        catalog,
        "SELECT t.pos, CASE WHEN count(DISTINCT t.token) = 1 THEN min(t.token) ELSE '…' END FROM tokens AS t "
        "JOIN influence_targets AS p ON p.source_run_id = t.run_id AND p.example_id = t.example_id AND p.seq = t.seq "
        "LEFT JOIN task_pairs AS k ON k.run_id = t.run_id AND k.example_id = t.example_id AND k.seq = t.seq "
        "WHERE p.run_id = ? AND t.run_id = ? AND p.pos = ? AND k.role IS NOT DISTINCT FROM ? AND t.side = 'dec' GROUP BY t.pos",
        influence.run_id,
        influence.source,
        target_pos,
        role,
    )
    numbers = ("n", "n_prompts", "frequency", "frequency_low", "frequency_high", "flow_low", "flow_high")
    edges = _rows(
        catalog,
        f"SELECT layer, head, pos, source_pos, flow, {', '.join(numbers)} FROM recurring_edges "
        "WHERE run_id = ? AND target_pos = ? AND role IS NOT DISTINCT FROM ? AND flow >= ? "
        "ORDER BY layer, flow DESC, head, pos, source_pos",
        influence.run_id,
        target_pos,
        role,
        least_flow,
    )
    facts = {"n_prompts": len(prompts), "left_out": len(influence.predictions) - len(prompts)}
    return _graph(influence, target_pos, dict(tokens), edges, numbers, facts | ({"role": role} if role else {}))


def _graph(
    influence: _Influence,
    target_pos: int,
    tokens: dict[int, str],
    edges: list[tuple[Any, ...]],
    numbers: tuple[str, ...],
    facts: dict[str, Any],
) -> nx.MultiDiGraph:
    """Make a graph of edges (layer, head, pos, source_pos, flow, *numbers); what is NULL is left out."""
    import networkx as nx

    graph = nx.MultiDiGraph(run=influence.run_id, source_run=influence.source, target_pos=target_pos, **facts)
    for layer, head, pos, source_pos, flow, *values in edges:
        ends = []
        for at, place in ((layer - 1, source_pos), (layer, pos)):
            ends.append(f"{'embed' if at == EMBEDDING else at}:{place}")
            graph.add_node(ends[-1], layer=at, pos=place, token=tokens.get(place, ""))
        named = {"layer": layer, "head": head, "flow": flow, **dict(zip(numbers, values, strict=True))}
        graph.add_edge(
            *ends,
            kind="stream" if head is None else "head",
            **{name: value for name, value in named.items() if value is not None},
        )
    return graph


def _rows(catalog: Catalog, query: str, *values: object) -> list[tuple[Any, ...]]:
    return catalog.attempt(lambda: catalog.cursor().execute(query, list(values)).fetchall())
