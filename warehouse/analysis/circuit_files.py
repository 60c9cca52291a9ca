"""Write a circuit of a run to a file that other programs read: JSON as EAP-IG and MIB keep it, GraphML or dot, by the file's ending.

`traces circuit export` and `capture.export_circuit` call `write_circuit`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from warehouse.analysis import circuit_json
from warehouse.analysis.circuit_graph import graph_of
from warehouse.analysis.circuit_json import CircuitFile
from warehouse.analysis.circuit_name import IMPORTED
from warehouse.analysis.graph_files import check_graph_file, check_networkx, write_graph
from warehouse.analysis.stored_circuit import StoredCircuit, load_circuit
from warehouse.catalog.catalog import Catalog
from warehouse.catalog.statements import check_target
from warehouse.errors import UsageError
from warehouse.storage.files import write_atomically


def write_circuit(
    catalog: Catalog, circuit: str, target: Path, size: float | None = None, selection: str = "abs"
) -> tuple[StoredCircuit, int]:
    """Write a circuit, whole or not at all.

    Args:
        catalog: The warehouse.
        circuit: RUN, or RUN/CIRCUIT where the run has several.
        target: The file, which ends in .json, .graphml or .dot. The JSON has all edges, and says which are in the circuit.
        size: A share of all edges, or above 1 their number, before those that dangle are dropped; None: 0.01, and of an imported circuit
            what its file says.
        selection: `abs`, `signed` or `greedy`.

    Returns:
        The circuit, and how many of its edges are in it.

    Raises:
        UsageError: The file has another ending or lies in the warehouse; there is no such circuit with edges; or JSON cannot tell of
            its model.
        NotFoundError: There is no such run, circuit or selection.
    """
    as_json = target.suffix.lower() == ".json"
    if not as_json:
        _check_other(target)
    check_target(target, catalog.root)
    found = load_circuit(catalog, circuit)
    keep = found.choose(size, selection)
    if as_json:
        write_atomically(target, circuit_json.to_json(_as_file(catalog, found, keep, as_read=size is None)).encode())
    else:
        write_graph(graph_of(found, keep, selection), target)
    return found, int(keep.sum())


def _check_other(target: Path) -> None:
    """Check that a graph can be written to a file; raises UsageError."""
    try:
        check_graph_file(target)
    except UsageError:
        raise UsageError(
            f"{target}: its ending names no format of circuits. End it in .json, .graphml or .dot."
        ) from None
    check_networkx()


def _as_file(catalog: Catalog, circuit: StoredCircuit, keep: np.ndarray, as_read: bool) -> CircuitFile:
    """Return a circuit as a file; of an imported one, whose size is as it was read, with the nodes of its file."""
    meta = catalog.run(circuit.run_id).meta
    if circuit.name != IMPORTED:
        return circuit_json.from_circuit(circuit, keep, {"d_model": meta.model.d_model})
    file = circuit_json.from_circuit(circuit, keep, {})
    if as_read:
        own = dict(zip(circuit.nodes, circuit.node_values["in_graph"] == 1, strict=True))
        nodes = [own[node] for node in file.shape.nodes()]
        file = replace(file, node_in_graph=np.array([*nodes, meta.option("logits_in_graph")]))
    return replace(file, cfg=meta.option("cfg"), bare_nodes=meta.option("bare_nodes"))
