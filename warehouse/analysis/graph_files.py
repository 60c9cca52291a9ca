"""Files of graphs: a dependency graph of `dependency_graph` as GraphML or dot, the language of Graphviz.

`traces graph` writes them, and users of Python do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.analysis.dependency_graph import EMBEDDING
from warehouse.errors import UsageError, on_one_line
from warehouse.storage.files import temporary_beside

if TYPE_CHECKING:
    import networkx as nx

_FORMATS = ("graphml", "dot")


def check_graph_file(target: Path) -> None:
    """Check that a graph can be written to a file of that name; raises UsageError."""
    if target.suffix.lower().removeprefix(".") not in _FORMATS:
        raise UsageError(f"{target}: its ending names no format of graphs. End it in .graphml or .dot.")


def write_graph(graph: nx.MultiDiGraph, target: Path) -> None:
    """Write a graph in the format of the file's ending, whole or not at all.

    Args:
        graph: The graph.
        target: The file, which ends in .graphml or .dot. GraphML has tokens as they are, characters apart that XML cannot hold.

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
    """Write a graph in dot: a rank a layer, edges as wide as their flow, those of the residual stream dotted."""
    lines = ["digraph dependencies {", "  rankdir=BT;", "  node [shape=box, fontsize=10];", "  edge [fontsize=8];"]
    ranks: dict[int, list[str]] = {}
    for node, facts in graph.nodes(data=True):
        layer = facts["layer"]
        ranks.setdefault(layer, []).append(_quoted(node))
        place = f"{'embed' if layer == EMBEDDING else f'L{layer}'} [{facts['pos']}]"
        lines.append(f"  {_quoted(node)} [label={_quoted(facts['token'] + ' · ' + place)}];")
    lines += [f"  {{ rank=same; {'; '.join(nodes)}; }}" for _, nodes in sorted(ranks.items())]
    for source, sink, facts in graph.edges(data=True):
        head = facts["kind"] == "head"
        name = f"L{facts['layer']}H{facts['head']} " if head else ""
        lines.append(
            f"  {_quoted(source)} -> {_quoted(sink)} [label={_quoted(name + format(facts['flow'], '.3f'))}, "
            f"penwidth={0.5 + 6 * facts['flow']:.2f}, style={'solid' if head else 'dotted'}];"
        )
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """Return a text as a string of dot, in which only quotation marks and backslashes mean something."""
    return '"' + on_one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _to_graphml(graph: nx.MultiDiGraph) -> bytes:
    import io

    import networkx as nx

    out, copy = io.BytesIO(), graph.copy()
    for _, facts in copy.nodes(data=True):
        facts["token"] = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in facts["token"])
    nx.write_graphml(copy, out)
    return out.getvalue()
