"""Make a run of a file of a circuit, as EAP-IG and MIB keep them: kind `circuit`, with one circuit of the name `imported`.

In: the file, and the model that it is of, if it is at hand. Out: a run with the tables `circuits`, `circuit_nodes` and `circuit_edges`. With
the model, the run knows whose weights they are, and the edges to the query heads of a group become one to their key-value head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from capture.circuits.circuit_rows import edge_columns, node_columns, shape_columns
from capture.edges.edge_graph import EdgeGraph, LayerShape
from capture.edges.edge_model import EdgeModel
from capture.imports.traces import unknown_model
from capture.jobs.versions import versions
from capture.model.in_memory import in_eval_mode
from capture.model.loading import Loaded
from capture.model.model_info import model_info
from warehouse.analysis.circuit_json import CircuitFile, Shape, grouped, loss_sign, read_circuit_file
from warehouse.analysis.circuit_name import IMPORTED
from warehouse.analysis.stored_circuit import CircuitNode, CircuitSink
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.schema.tables import STORED
from warehouse.storage import strict_json
from warehouse.storage.files import read_file
from warehouse.storage.manifest import Counts, DataInfo, Manifest, StagedRun
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter

KIND = "circuit"


def run(path: Path, loaded: Loaded | None, *, root: AnyPath, run_id: str) -> Manifest:
    """Read a file of a circuit, and publish it as a run.

    Args:
        path: The file.
        loaded: The model that the circuit is of; None: it is not at hand, and the file's own shape is believed.
        root: The warehouse's folder.
        run_id: The new run's name.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The file is no such circuit, or is of a model of another shape; or the model is none whose edges can be told apart.
        RunExistsError: The new run exists already.
    """
    file = read_circuit_file(path)
    if loaded is None:
        info, graph = _unknown_model(file), _graph_of(file.shape, file.shape.n_heads)
    else:
        anatomy = loaded.anatomy
        with in_eval_mode(loaded.model):
            info, graph = model_info(loaded, anatomy), EdgeModel(anatomy).graph
        _check_shape(path, loaded, file.shape, graph)
    digest = xxhash.xxh3_128_hexdigest(read_file(path))
    identity = RunIdentity(KIND, {"file": digest, "model": info.weights_hash})
    with RunWriter(root, run_id, identity.to_dict()) as writer:
        writer.begin_shard({}, {})
        writer.put(RecordedBatch([], {}, {}, _tables(file, graph)))
        writer.end_shard("0")
        return publish(writer, lambda staged: _manifest(path, file, info, digest, run_id, staged))


def _graph_of(shape: Shape, n_kv_heads: int) -> EdgeGraph:
    return EdgeGraph([LayerShape(shape.n_heads, n_kv_heads, parallel=shape.parallel)] * shape.n_layers)


def _check_shape(path: Path, loaded: Loaded, shape: Shape, graph: EdgeGraph) -> None:
    """Raise UsageError where a file is not of a model of that graph."""
    said = shape_columns(graph)
    if not said["heads_apart"]:
        raise UsageError(f"{path} has edges of heads, and heads of {loaded.name} cannot be told apart.")
    of_model = Shape(said["n_layers"], said["n_heads"], said["parallel"])
    if of_model != shape or graph.layers != _graph_of(shape, said["n_kv_heads"]).layers:
        raise UsageError(f"{path} is of a model of {_told(shape)}, and {loaded.name} has {_told(of_model)}.")


def _told(shape: Shape) -> str:
    return f"{shape.n_layers} layers of {shape.n_heads} heads, {'parallel' if shape.parallel else 'not parallel'}"


def _unknown_model(file: CircuitFile) -> ModelInfo:
    """Return what a file tells of its model."""
    shape, width = file.shape, file.cfg.get("d_model")
    return unknown_model(
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_heads,
        d_model=width if type(width) is int and 0 <= width <= 1 << 24 else 0,
        parallel=shape.parallel,
    )


def _tables(file: CircuitFile, graph: EdgeGraph) -> dict[str, pa.Table]:
    """Return the rows of the run, in the order of the graph."""
    group = graph.layers[0].heads // graph.layers[0].kv_heads
    nodes = {CircuitNode(n.kind, n.layer, n.head): i for i, n in enumerate(graph.nodes)}
    sinks = {CircuitSink(s.kind, s.layer, s.head, s.port): i for i, s in enumerate(graph.sinks)}
    edges = [int(graph.starts[sinks[grouped(sink, group)]]) + nodes[node] for node, sink in file.shape.edges()]
    scores, in_graph = np.zeros(graph.n_edges), np.zeros(graph.n_edges, dtype=bool)
    np.add.at(scores, edges, loss_sign(None) * file.scores)
    np.logical_or.at(in_graph, edges, file.in_graph)
    order = [nodes[node] for node in file.shape.nodes()]
    node_scores, node_in_graph = np.zeros(len(order)), np.zeros(len(order), dtype=bool)
    node_scores[order], node_in_graph[order] = loss_sign(None) * file.node_scores[:-1], file.node_in_graph[:-1]
    known = shape_columns(graph) | {"circuit": IMPORTED, "method": IMPORTED, "level": "edge"}
    circuits = {c.name: [known.get(c.name)] for c in STORED["circuits"].file_columns}
    return {
        "circuits": to_table("circuits", circuits),
        "circuit_nodes": _rows("circuit_nodes", node_columns(graph), node_scores, node_in_graph),
        "circuit_edges": _rows("circuit_edges", edge_columns(graph), scores, in_graph),
    }


def _rows(table: str, keys: dict[str, list[Any]], scores: np.ndarray, in_graph: np.ndarray) -> pa.Table:
    order = np.argsort(-np.abs(scores), kind="stable")  # those without a score come last
    rank = np.empty(len(scores), dtype=np.int32)
    rank[order] = np.arange(1, len(scores) + 1)
    columns = keys | {
        "circuit": [IMPORTED] * len(scores),
        "score": pa.array(scores, from_pandas=True),
        "rank": pa.array(rank, mask=np.isnan(scores)),
        "in_graph": pa.array(in_graph),
    }
    unknown = {c.name: [None] * len(scores) for c in STORED[table].file_columns if c.name not in columns}
    return to_table(table, columns | unknown)


def _manifest(path: Path, file: CircuitFile, info: ModelInfo, digest: str, run_id: str, staged: StagedRun) -> Manifest:
    return Manifest(
        run_id=run_id,
        kind=KIND,
        created_at=staged.created_at,
        seconds=staged.seconds,
        model=info,
        data=DataInfo(dataset=path.stem, source=str(path), hash=digest),
        options={
            "cfg": strict_json.finite(file.cfg),
            "logits_in_graph": bool(file.node_in_graph[-1]),
            "bare_nodes": file.bare_nodes,
        },
        store_dtype="F32",
        counts=Counts(examples=0, sequences=0, tokens=0, predictions=0, truncated=0, rows=staged.rows),
        bytes=sum(f.bytes for f in staged.files),
        files=staged.files,
        versions=versions(),
    )
