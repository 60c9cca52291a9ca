"""JSON of trait projections, as viewers of them read it: one document a response and vector, with its dynamics.

    {"prompt": {"text": …, "tokens": […], "n_tokens": 12}, "response": {…},
     "projections": {"prompt": [0.1, …], "response": […]},
     "dynamics": {"commitment_point": 3, "peak_velocity": 0.4, "persistence": 2, "velocity": […], "acceleration": […]},
     "metadata": {"inference_model": …, "inference_experiment": …, "prompt_id": …, "prompt_set": …,
                  "vector_source": {"model": …, "experiment": …, "trait": …, "method": …, "layer": 15, "component": …},
                  "projection_date": "2026-11-28"}}

An experiment is a run. `velocity` has one number less than the response has tokens, and `acceleration` two: each is a difference of two
neighbours. Where the run generated nothing, the whole text is the response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse.catalog.ask import asker
from warehouse.exports.chosen import ExportedSequence
from warehouse.exports.json_text import to_json
from warehouse.exports.lens_documents import split_by_sequence
from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

_VECTORS = """
SELECT DISTINCT d.run_id, d.trait, d.method, d.component, d.layer, d.vectors_run_id, r.created_at, v.model
FROM trait_dynamics AS d
JOIN runs AS r ON r.run_id = d.run_id AND list_contains(r.tables, 'trait_projections')
LEFT JOIN runs AS v ON v.run_id = d.vectors_run_id
WHERE d.source_run_id = ?
ORDER BY d.trait, r.created_at DESC, d.run_id DESC, d.method, d.component, d.layer NULLS FIRST
"""

_OF_VECTOR = """trait = ? AND method = ? AND component = ? AND layer IS NOT DISTINCT FROM ? AND source_run_id = ?
    AND example_id BETWEEN ? AND ? AND example_id IN ({ids})"""

_TOKENS = f"""
SELECT example_id, seq, pos, projection, velocity, acceleration FROM trait_projections
WHERE {_OF_VECTOR} ORDER BY example_id, seq, pos
"""

_DYNAMICS = f"""
SELECT example_id, seq, first_pos, commitment_point, peak_velocity, persistence FROM trait_dynamics WHERE {_OF_VECTOR}
"""

_TEXTS = """
SELECT e.example_id, coalesce(r.seq, 0) AS seq, e.text, e.prompt_set, r.prompt, r.response
FROM examples AS e LEFT JOIN responses AS r ON r.example_id = e.example_id
WHERE e.example_id BETWEEN ? AND ? AND e.example_id IN ({ids})
"""


@dataclass(frozen=True)
class ProjectedVector:
    """A vector that a run was projected on."""

    run: str
    """The run of kind trait-projection."""
    trait: str
    method: str
    component: str
    layer: int | None
    vectors_run: str
    date: str
    model: str | None
    """The model of the vector's own run; None where that is gone."""

    @property
    def name(self) -> str:
        """What tells it from other vectors of its trait."""
        return f"{self.method}-{self.component}-{'embed' if self.layer is None else f'L{self.layer}'}"


def projected_vectors(wh: Warehouse, run: str) -> list[ProjectedVector]:
    """Return the vectors of the newest projection of a run on each trait that kept its tokens."""
    found = [
        ProjectedVector(
            row["run_id"], row["trait"], row["method"], row["component"], row["layer"], row["vectors_run_id"],
            row["created_at"].date().isoformat(), row["model"],
        )
        for row in asker(wh)(_VECTORS, run).to_pylist()
    ]  # fmt: skip
    newest: dict[str, str] = {}
    for vector in found:
        newest.setdefault(vector.trait, vector.run)
    return [v for v in found if newest[v.trait] == v.run]


class ProjectionDocuments:
    """Makes the documents of one vector."""

    def __init__(self, store: TraceStore, source: str, projection: TraceStore, vector: ProjectedVector) -> None:
        """Take the run that was projected, its name, the run of its projection, and the vector."""
        self._store, self._source, self._projection, self._vector = store, source, projection, vector

    def documents(self, sequences: Sequence[ExportedSequence]) -> Iterator[tuple[ExportedSequence, bytes]]:
        """Yield the documents of sequences, in order; a sequence that was not projected is left out.

        Args:
            sequences: Some sequences, sorted by example, whose rows are held at once.

        Yields:
            A sequence, and JSON.
        """
        ids = sorted({s.example_id for s in sequences})
        among, v = ", ".join(map(sql_text, ids)), self._vector
        key = [v.trait, v.method, v.component, v.layer, self._source, ids[0], ids[-1]]
        rows = self._projection.query(_TOKENS.format(ids=among), key).to_arrow_table().combine_chunks()
        dynamics = _by_sequence(self._projection.query(_DYNAMICS.format(ids=among), key).to_arrow_table())
        texts = _by_sequence(self._store.query(_TEXTS.format(ids=among), [ids[0], ids[-1]]).to_arrow_table())
        known = {(s.example_id, s.seq): s for s in sequences}
        for part in split_by_sequence(rows):
            key_of = (part["example_id"][0].as_py(), part["seq"][0].as_py())
            if key_of in known and key_of in dynamics:
                text = texts.get(key_of) or texts[key_of[0], 0]
                yield known[key_of], to_json(self._document(known[key_of], part, dynamics[key_of], text))

    def _document(
        self, sequence: ExportedSequence, rows: pa.Table, dynamics: Mapping[str, Any], text: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the document of a sequence."""
        first, v = dynamics["first_pos"], self._vector
        positions = rows["pos"].to_numpy()
        projection, velocity, acceleration = (
            rows[name].to_numpy() for name in ("projection", "velocity", "acceleration")
        )
        answered = positions >= first
        generated = text["response"] is not None
        return {
            "prompt": _part(text["prompt"] if generated else "", sequence.tokens[:first]),
            "response": _part(text["response"] if generated else text["text"], sequence.tokens[first:]),
            "projections": {
                "prompt": np.ascontiguousarray(projection[~answered]),
                "response": np.ascontiguousarray(projection[answered]),
            },
            "dynamics": {
                "commitment_point": dynamics["commitment_point"],
                "peak_velocity": None if dynamics["peak_velocity"] is None else np.float32(dynamics["peak_velocity"]),
                "persistence": dynamics["persistence"],
                "velocity": np.ascontiguousarray(velocity[answered][1:]),
                "acceleration": np.ascontiguousarray(acceleration[answered][2:]),
            },
            "metadata": {
                "inference_model": self._store.meta.model.name,
                "inference_experiment": self._source,
                "prompt_id": sequence.name,
                "prompt_set": text["prompt_set"],
                "vector_source": {
                    "model": v.model or self._projection.meta.model.name,
                    "experiment": v.vectors_run,
                    "trait": v.trait,
                    "method": v.method,
                    "layer": v.layer,
                    "component": v.component,
                },
                "projection_date": v.date,
            },
        }


def _part(text: str, tokens: Sequence[str]) -> dict[str, Any]:
    """Return a part of a sequence."""
    return {"text": text, "tokens": list(tokens), "n_tokens": len(tokens)}


def _by_sequence(rows: pa.Table) -> dict[tuple[str, int], dict[str, Any]]:
    """Return rows by example and sequence."""
    return {(row["example_id"], row["seq"]): row for row in rows.to_pylist()}
