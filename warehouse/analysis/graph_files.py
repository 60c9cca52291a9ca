"""Files of graphs: a dependency graph or a circuit as GraphML or dot, the language of Graphviz.

`traces graph` and `traces circuit export` write them, and users of Python do. How each kind of graph looks in dot is said by a `_Look`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from warehouse.errors import UsageError, on_one_line
from warehouse.storage.files import temporary_beside

if TYPE_CHECKING:
    import networkx as nx

_FORMATS = ("graphml", "dot")
PORT_COLOURS = {"q": "#0072B2", "k": "#D55E00", "v": "#009E73"}
"""Colours of the edges into a head, by port; those into MLPs and the logits are grey. They are of Okabe and Ito's scale."""
OTHER_COLOUR = "#666666"


class _Look(NamedTuple):
    """How a kind of graph looks in dot."""

    name: str
    rank: Callable[[dict[str, Any]], Any]
    """What the nodes of one row have in common, smallest below."""
    label: Callable[[str, dict[str, Any]], str]
    """What stands in a node, by its name and facts."""
    edge: Callable[[dict[str, Any], float], dict[str, str]]
    """Attributes of an edge, by its facts and the largest |score| of the graph."""


def check_networkx() -> None:
    """Check that networkx is installed; raises UsageError."""
    if find_spec("networkx") is None:
        raise UsageError("A graph needs networkx: pip install 'trace-warehouse[plot]'")


def check_graph_file(target: Path) -> None:
    """Check that a graph can be written to a file of that name; raises UsageError."""
    if target.suffix.lower().removeprefix(".") not in _FORMATS:
        raise UsageError(f"{target}: its ending names no format of graphs. End it in .graphml or .dot.")


def write_graph(graph: nx.MultiDiGraph, target: Path) -> None:
    """Write a graph in the format of the file's ending, whole or not at all.

    Args:
        graph: The graph.
        target: The file, which ends in .graphml or .dot. GraphML has texts as they are, characters apart that XML cannot hold.

    Raises:
        UsageError: It ends in something else.
    """
    check_graph_file(target)
    temporary = temporary_beside(target)
    try:
        temporary.write_bytes(_to_graphml(graph) if target.suffix.lower() == ".graphml" else to_dot(graph).encode())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def to_dot(graph: nx.MultiDiGraph) -> str:
    """Write a graph in dot, a rank a layer: of dependencies edges as wide as their flow, of a circuit as their |score|."""
    look = _CIRCUIT if "circuit" in graph.graph else _DEPENDENCIES
    lines = [f"digraph {look.name} {{", "  rankdir=BT;", "  node [shape=box, fontsize=10];", "  edge [fontsize=8];"]
    ranks: dict[Any, list[str]] = {}
    for node, facts in graph.nodes(data=True):
        ranks.setdefault(look.rank(facts), []).append(_quoted(node))
        lines.append(f"  {_quoted(node)} [label={_quoted(look.label(node, facts))}];")
    lines += [f"  {{ rank=same; {'; '.join(nodes)}; }}" for _, nodes in sorted(ranks.items())]
    most = max((abs(facts.get("score", 0.0)) for *_, facts in graph.edges(data=True)), default=0.0) or 1.0
    for source, sink, facts in graph.edges(data=True):
        named = ", ".join(f"{name}={value}" for name, value in look.edge(facts, most).items())
        lines.append(f"  {_quoted(source)} -> {_quoted(sink)} [{named}];")
    return "\n".join([*lines, "}", ""])


def _token_label(node: str, facts: dict[str, Any]) -> str:
    layer = "embed" if facts["layer"] < 0 else f"L{facts['layer']}"
    return f"{facts['token']} · {layer} [{facts['pos']}]"


def _flow_edge(facts: dict[str, Any], most: float) -> dict[str, str]:
    """Return the look of a dependency: those of the residual stream are dotted."""
    head = facts["kind"] == "head"
    name = f"L{facts['layer']}H{facts['head']} " if head else ""
    return {
        "label": _quoted(name + format(facts["flow"], ".3f")),
        "penwidth": f"{0.5 + 6 * facts['flow']:.2f}",
        "style": "solid" if head else "dotted",
    }


def _circuit_edge(facts: dict[str, Any], most: float) -> dict[str, str]:
    """Return the look of a circuit's edge: one that works against the metric, of a positive score, is dashed."""
    port, score = facts.get("port"), facts.get("score")
    label = {} if score is None else {"label": _quoted(format(score, "+.3g"))}
    return label | {
        "color": _quoted(PORT_COLOURS.get(port or "", OTHER_COLOUR)),
        "penwidth": f"{0.5 + 4.5 * abs(score or 0.0) / most:.2f}",
        "style": "dashed" if (score or 0.0) > 0 else "solid",
    }


_DEPENDENCIES = _Look("dependencies", lambda facts: facts["layer"], _token_label, _flow_edge)
_CIRCUIT = _Look("circuit", lambda facts: (facts["layer"], facts["kind"] == "mlp"), lambda node, _: node, _circuit_edge)


def _quoted(text: str) -> str:
    """Return a text as a string of dot, in which only quotation marks and backslashes mean something."""
    return '"' + on_one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _to_graphml(graph: nx.MultiDiGraph) -> bytes:
    import io

    import networkx as nx

    out, copy = io.BytesIO(), graph.copy()
    for facts in (copy.graph, *(facts for _, facts in copy.nodes(data=True))):
        for name, value in facts.items():
            if isinstance(value, str):
                facts[name] = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)
    nx.write_graphml(copy, out)
    return out.getvalue()
