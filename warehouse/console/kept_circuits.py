"""Circuits that are looked at, loaded once: a picture of another size or of another node asks for no edge anew.

In: a warehouse and a circuit of it. Out: its edges as arrays with their order by each selection, and which of them a picture shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from warehouse.analysis.circuit_selection import SELECTIONS, number_of_share
from warehouse.analysis.stored_circuit import CircuitSink, StoredCircuit, load_circuit
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse

LOGITS = "logits"
"""The name of what reads last."""
DEFAULT_SIZE = 0.01


class Chosen(NamedTuple):
    """A circuit of a size, E edges in the model's graph."""

    asked: int
    """The edges that were asked for, before those that dangle are dropped."""
    order: np.ndarray
    """Edges by their places, the best first."""
    keep: np.ndarray
    """(E,) True for the edges of the circuit."""


@dataclass
class KeptCircuit:
    """A loaded circuit, with the orders of its edges that were asked for."""

    circuit: StoredCircuit
    _orders: dict[str, np.ndarray] = field(default_factory=dict)

    def choose(self, size: float | None, selection: str) -> Chosen:
        """Choose the edges of a size.

        Args:
            size: A share of all edges, or above 1 their number; None: 0.01.
            selection: `abs`, `signed` or `greedy`.

        Returns:
            The edges.

        Raises:
            NotFoundError: There is no such selection.
            UsageError: The size is no share or number of edges, or no edge has a score.
        """
        if selection not in SELECTIONS:
            raise NotFoundError("selection", selection, SELECTIONS)
        size = DEFAULT_SIZE if size is None else size
        if not (0 < size <= 1 or (size > 1 and float(size).is_integer())):
            raise UsageError(f"size {size:g}: a share of all edges, above 0 and up to 1, or their number.")
        if np.isnan(self.circuit.edge_values["score"]).all():
            raise UsageError(f"No edge of circuit '{self.circuit.name}' has a score, so that none can be chosen by it.")
        if selection not in self._orders:
            self._orders[selection] = self.circuit.order(selection)
        order = self._orders[selection]
        total = len(self.circuit.edge_nodes)
        asked = min(number_of_share(size, total) if size <= 1 else int(size), total)
        return Chosen(asked, order, self.circuit.lead_somewhere(order[:asked]))

    def shown(self, chosen: Chosen, most: int) -> tuple[np.ndarray, int]:
        """Say which edges a picture shows: those of the largest circuit with at most so many, where the chosen one has more.

        Args:
            chosen: The circuit.
            most: The most edges.

        Returns:
            (E,) True for those that are shown, and how many of the best edges they are of: all asked ones where nothing is cut.
        """
        if chosen.keep.sum() <= most:
            return chosen.keep, chosen.asked
        low, high = 0, min(chosen.asked, len(chosen.order))  # more edges never make a smaller circuit
        while low < high:
            middle = (low + high + 1) // 2
            if self.circuit.lead_somewhere(chosen.order[:middle]).sum() <= most:
                low = middle
            else:
                high = middle - 1
        return self.circuit.lead_somewhere(chosen.order[:low]), low

    def fed_by(self, keep: np.ndarray) -> list[list[str]]:
        """Return by sink the names of the nodes that it is an input of: those that lead on, where any does; the logits by name."""
        leads = set(self.circuit.edge_nodes[keep].tolist())
        found = []
        for nodes in self.circuit.feeds:
            used = [n for n in nodes if n in leads] or list(nodes)
            found.append([self.circuit.nodes[n].name for n in used] or [LOGITS])
        return found


def kept_circuit(warehouse: Warehouse, circuit: str) -> KeptCircuit:
    """Load a circuit, or return it as it was loaded before where no run has come or gone since.

    Args:
        warehouse: The warehouse.
        circuit: RUN or RUN/CIRCUIT.

    Returns:
        The circuit.
    """
    return _load(warehouse, warehouse.version(), circuit)


@lru_cache(maxsize=4)
def _load(warehouse: Warehouse, version: str, circuit: str) -> KeptCircuit:
    return KeptCircuit(load_circuit(warehouse, circuit))


def sink_name(sink: CircuitSink, fed: list[str]) -> str:
    """Name what reads: `L5H3.q`, `L5H3–L5H5.k` where heads share it, `M5` or `logits`."""
    if sink.kind == "logits":
        return LOGITS
    if sink.kind == "mlp":
        return f"M{sink.layer}"
    heads = fed[0] if len(fed) == 1 else f"{fed[0]}–{fed[-1]}"
    return f"{heads}.{sink.port}"
