"""Files of circuits from Python: a circuit written as other tools read it, and one of theirs made a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, in_python_terms
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def export_circuit(
    circuit: TraceStore | str,
    file: str | Path,
    *,
    size: float | None = None,
    selection: str = "abs",
    root: str | AnyPath | None = None,
) -> Path:
    """Write a circuit to a file that other programs read.

    Example:
        capture.export_circuit("ioi-circuit", "ioi.json", size=0.01)

    Args:
        circuit: A run with a circuit, or its name; with the circuit's behind a / where it has several: `"ioi-circuit/eap-ig"`.
        file: Ends in .json (all edges, as EAP-IG and the Mechanistic Interpretability Benchmark keep them), .graphml or .dot (the circuit
            alone).
        size: A share of all edges, or above 1 their number, before those that dangle are dropped; None: 0.01, and of an imported circuit
            what its file says.
        selection: `abs`: the largest scores; `signed`: the most negative, which is what helps; `greedy`: the largest that lead on to the
            logits.
        root: The warehouse's folder; None: that of an open run, else `$TRACES_HOME`, else `./runs`.

    Returns:
        The file.

    Raises:
        UsageError: The file has another ending, there is no such circuit with edges, or .json cannot tell of its model.
        NotFoundError: There is no such run, circuit or selection.
    """
    from warehouse.analysis.circuit_files import write_circuit

    home = circuit.path.absolute().parent if isinstance(circuit, TraceStore) and root is None else paths.find_root(root)
    name = circuit.meta.run_id if isinstance(circuit, TraceStore) else circuit
    with Warehouse(home) as wh:
        write_circuit(wh, name, Path(file), size, selection)
    return Path(file)


@in_python_terms
def import_circuit(
    file: str | Path,
    *,
    run: str,
    model: Loaded | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Make a run of a circuit that EAP-IG wrote, or that was handed in to the Mechanistic Interpretability Benchmark.

    The circuit is called `imported`. It can be evaluated, drawn and compared like one that was found here.

    Example:
        capture.import_circuit("ioi.json", run="published", model=capture.load("gpt2"))

    Args:
        file: The JSON file.
        run: The new run's name.
        model: The model that it is of; None: it is not at hand, so that the run cannot tell whose weights it is of, and every query head
            has a key and a value head of its own.
        root: The warehouse's folder; None: `$TRACES_HOME`, else `./runs`.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The new run, with the tables `circuits`, `circuit_nodes` and `circuit_edges`.

    Raises:
        UsageError: The file is no such circuit, or is of a model of another shape.
        RunExistsError: The new run exists already.
    """
    home = paths.find_root(root)
    if (existing := existing_run(home, run, skip_existing)) is not None:
        return existing
    from capture.circuits import import_circuit as job

    manifest = job.run(Path(file), None if model is None else check_loaded(model), root=home, run_id=run)
    return TraceStore(paths.run_dir(home, manifest.run_id))
