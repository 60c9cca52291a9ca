"""Which circuit is meant by RUN or RUN/NAME, and which table or view has its scores.

Evaluations, exports and pictures all name circuits so, and look them up here.
"""

from __future__ import annotations

from typing import NamedTuple

from warehouse.catalog.catalog import Catalog
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.quoting import sql_text

IMPORTED, ENSEMBLE, RANDOM = "imported", "ensemble", "random"
"""The name of a circuit that was read from a file; that of the mean of ranks of a run's methods; the method that stands for chance."""


class CircuitName(NamedTuple):
    """A circuit of a run."""

    run_id: str
    name: str
    """A circuit of the run, a method whose parts are averaged, or `ensemble`."""
    edges: str
    """The table or view with its edges."""
    nodes: str
    """The one with its nodes."""
    where: str
    """The SQL condition for its rows among the run's."""

    @property
    def place(self) -> str:
        """RUN/NAME."""
        return f"{self.run_id}/{self.name}"


def find_circuit(catalog: Catalog, circuit: str) -> CircuitName:
    """Find the circuit that is meant.

    Args:
        catalog: The warehouse.
        circuit: RUN, where it has one beside a random one, or RUN/NAME; of a run in parts a method names the mean of its parts, and
            `ensemble` is the mean of ranks of the run's methods.

    Returns:
        The circuit.

    Raises:
        UsageError: The run has no circuits, or several and none is named.
        NotFoundError: There is no such run or circuit.
    """
    run, _, name = circuit.partition("/")
    meta = catalog.run(run).meta
    ask = "SELECT circuit, method FROM circuits WHERE run_id = ? ORDER BY ALL"
    known = catalog.attempt(lambda: catalog.cursor().execute(ask, [meta.run_id]).fetchall())
    if not known:
        raise UsageError(
            f"Run '{meta.run_id}' is of kind {meta.kind}, and has no circuits. Find some: traces circuit discover TASK"
        )
    own = [c for c, _ in known]
    parts = [m for m in dict.fromkeys(m for _, m in known) if m not in own]
    methods = {m for _, m in known} - {RANDOM}
    if not name:
        names = [c for c in parts or own if c != RANDOM] or parts or own
        if len(names) > 1:
            listed = " or ".join(f"{meta.run_id}/{c}" for c in names)
            raise UsageError(f"Run '{meta.run_id}' has several circuits: name {listed}.")
        name = names[0]
    names = [*parts, *own, *([ENSEMBLE] if len(methods) > 1 else [])]
    if name not in names:
        raise NotFoundError("circuit", name, names, f"(run '{meta.run_id}')")
    if name in own:
        return CircuitName(meta.run_id, name, "circuit_edges", "circuit_nodes", f"circuit = {sql_text(name)}")
    if name in parts:
        return CircuitName(meta.run_id, name, "circuit_edge_means", "circuit_node_means", f"method = {sql_text(name)}")
    return CircuitName(meta.run_id, name, "circuit_edge_ensembles", "circuit_node_ensembles", "TRUE")
