"""Vectors of traits that another tool made → a run of kind `trait-vectors`: projected on, steered with and compared as those made here.

    a GGUF control vector of llama.cpp                direction.N (D,): what is added to the output of block N
    a trait pipeline's vector, or a folder of them    METHOD_layer15.pt (D,), with METHOD_layer15_metadata.json beside it

A vector's length in the file is one unit of steering (`gap`), as it is for the tool that made it. What it was made from is not told: those
columns are NULL. With the model at hand the run knows whose vectors they are, which projecting and steering ask for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from capture.data.files import check_readable, printable_value, read_json
from capture.imports.tensor_file import read_tensor_file
from capture.imports.traces import unknown_model
from capture.jobs.versions import versions
from capture.model.in_memory import in_eval_mode
from capture.model.loading import Loaded
from capture.model.model_info import model_info
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError, first_line
from warehouse.schema.tables import STORED
from warehouse.storage.manifest import Counts, DataInfo, Manifest, StagedRun
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter

KIND = "trait-vectors"

_ARCHITECTURE = "controlvector"
_PREFIX = "trace_warehouse."
_DIRECTION = re.compile(r"direction\.(\d{1,4})")
_METADATA = "_metadata.json"
_NAME = re.compile(r"[\w.-]{1,100}")
IMPORTED = "imported"
"""The method of a vector of which the file tells none."""


@dataclass(frozen=True)
class TraitVector:
    """A vector as a file has it."""

    trait: str
    method: str
    layer: int
    vector: np.ndarray
    """(D,), of the length in the file."""
    norm: float | None = None
    """Its length as the method gave it, where the file tells that."""
    train_accuracy: float | None = None


@dataclass(frozen=True)
class TraitFile:
    """An opened file, or folder of files, of vectors."""

    format: str
    """`control-vector` or `trait-vectors`."""
    vectors: list[TraitVector]
    facts: dict[str, Any]
    """What else the file says of where it came from."""

    def forecast(self) -> list[str]:
        """Say in lines what a run of it would hold."""
        traits = dict.fromkeys(v.trait for v in self.vectors)
        layers = sorted({v.layer for v in self.vectors})
        return [
            f"{self.format}: {len(self.vectors):,} vectors of width {len(self.vectors[0].vector):,}, of {', '.join(traits)}",
            f"layers: {', '.join(map(str, layers))}",
        ]


def is_trait_file(path: Path) -> bool:
    """Whether a path looks like a file or folder of vectors."""
    if path.is_dir():
        return any(path.rglob(f"*{_METADATA}")) and any(_vector_files(path))
    return path.suffix.lower() == ".gguf" or (path.suffix.lower() == ".pt" and _beside(path).is_file())


def open_trait_file(path: Path) -> TraitFile:
    """Open a file or folder of vectors.

    Args:
        path: A .gguf file; a vector's .pt file with its metadata beside it, or a folder of them.

    Returns:
        The vectors.

    Raises:
        UsageError: It is damaged, or holds no such vectors; or vectors differ in width, or one is not finite or of length 0.
    """
    if path.suffix.lower() == ".gguf":
        found = _open_gguf(check_readable(path))
    else:
        files = list(_vector_files(path)) if path.is_dir() else [path]
        read = [_read_vector(file) for file in files]
        if not read:
            raise UsageError(f"{printable_value(path)} has no vectors: no .pt file with its {_METADATA} beside it.")
        model = next((said["model"] for _, said in read if isinstance(said.get("model"), str)), None)
        found = TraitFile("trait-vectors", [vector for vector, _ in read], {} if model is None else {"model": model})
    widths = {v.vector.shape for v in found.vectors}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise UsageError(
            f"{printable_value(path)} has vectors of several shapes: {', '.join(map(str, sorted(widths)))}."
        )
    seen = set[tuple[str, str, int]]()
    for v in found.vectors:
        name = f"{printable_value(path)}: the vector of {printable_value(v.trait, 40)} in layer {v.layer}"
        if not np.isfinite(v.vector).all() or not np.linalg.norm(v.vector) > 0:
            raise UsageError(f"{name} holds NaN or infinity, or is 0.")
        if (key := (v.trait, v.method, v.layer)) in seen:
            raise UsageError(f"{name} ({printable_value(v.method, 40)}) is there twice.")
        seen.add(key)
    return found


def _open_gguf(path: Path) -> TraitFile:
    """Read a control vector; raise UsageError where a file is none."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {t.name: np.array(t.data, np.float32).reshape(-1) for t in reader.tensors}
    except Exception as e:  # gguf raises ValueError, IndexError, KeyError and more on damaged files
        raise UsageError(
            f"{printable_value(path)} is no whole GGUF file: {first_line(e) or type(e).__name__}."
        ) from None
    if fields.get("general.architecture") != _ARCHITECTURE:
        raise UsageError(
            f"{printable_value(path)} is a GGUF file of {printable_value(fields.get('general.architecture'), 40)}, not a control vector."
        )
    found = {int(m[1]): x for name, x in tensors.items() if (m := _DIRECTION.fullmatch(name))}
    if not found:
        raise UsageError(f"{printable_value(path)} has no direction.N, which a control vector has for each layer.")
    own = {name.removeprefix(_PREFIX): value for name, value in fields.items() if name.startswith(_PREFIX)}
    facts = own | {"model_hint": fields.get(f"{_ARCHITECTURE}.model_hint")}
    trait, method = _name(own.get("trait"), path.stem), _name(own.get("method"), IMPORTED)
    vectors = [TraitVector(trait, method, layer, vector) for layer, vector in sorted(found.items())]
    return TraitFile("control-vector", vectors, {k: v for k, v in facts.items() if v is not None})


def _read_vector(path: Path) -> tuple[TraitVector, dict[str, Any]]:
    """Read a vector's file and its metadata; raise UsageError where they are none."""
    said = read_json(check_readable(_beside(path)))
    tensors = read_tensor_file(path).tensors
    name = printable_value(path)
    if not isinstance(said, dict) or len(tensors) != 1:
        raise UsageError(f"{name} is not one tensor with a JSON object beside it.")
    layer = said.get("layer")
    if type(layer) is not int or layer < 0:
        raise UsageError(f"{printable_value(_beside(path))} does not say of which `layer` the vector is.")
    (vector,) = tensors.values()
    numbers = {
        k: float(said[k]) if isinstance(said.get(k), int | float) else None for k in ("vector_norm", "train_accuracy")
    }
    return TraitVector(
        _name(said.get("trait"), path.parent.name),
        _name(said.get("method"), IMPORTED),
        layer,
        vector.astype(np.float32),
        numbers["vector_norm"],
        numbers["train_accuracy"],
    ), said


def _vector_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.pt") if _beside(p).is_file())


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}{_METADATA}")


def _name(value: Any, otherwise: str) -> str:
    """Return a name from a file as it can stand in a run; raise UsageError for one that cannot."""
    name = value if isinstance(value, str) and value else otherwise
    if not _NAME.fullmatch(name):
        raise UsageError(f"{printable_value(name, 60)} names no trait or method: use letters, digits, _, - and dots.")
    return name


def run(file: TraitFile, origin: str, loaded: Loaded | None, *, root: AnyPath, run_id: str) -> Manifest:
    """Publish vectors as a run.

    Args:
        file: The vectors.
        origin: The file, as the user named it.
        loaded: The model whose states they are directions of; None: it is not at hand.
        root: The warehouse's folder.
        run_id: The run's name.

    Returns:
        The manifest.

    Raises:
        UsageError: The vectors are not of the model's width, or of layers that it has not.
        RunExistsError: The run exists already.
    """
    width, last = len(file.vectors[0].vector), max(v.layer for v in file.vectors)
    if loaded is None:
        named = file.facts.get("model") or file.facts.get("model_hint") or "unknown"
        hashes = {k: file.facts[k] for k in ("weights_hash", "tokenizer_hash", "architecture") if file.facts.get(k)}
        info = unknown_model(n_layers=last + 1, d_model=width, name=str(named), **hashes)
    else:
        with in_eval_mode(loaded.model):
            info = model_info(loaded, loaded.anatomy)
        if info.d_model != width or last >= info.n_layers:
            raise UsageError(
                f"{origin} has vectors of width {width} up to layer {last}, and {loaded.name} has {info.n_layers} layers of width "
                f"{info.d_model}."
            )
    digest = xxhash.xxh3_128(b"".join(v.vector.tobytes() for v in file.vectors)).hexdigest()
    identity = RunIdentity(KIND, {"vectors": digest, "model": info.weights_hash})
    with RunWriter(root, run_id, identity.to_dict()) as writer:
        writer.begin_shard({}, {})
        writer.put(RecordedBatch([], {}, {}, {"trait_vectors": to_table("trait_vectors", _columns(file.vectors))}))
        writer.end_shard("0")

        def manifest(staged: StagedRun) -> Manifest:
            return Manifest(
                run_id=run_id,
                kind=KIND,
                created_at=staged.created_at,
                seconds=staged.seconds,
                model=info,
                data=DataInfo(dataset=Path(origin).stem, source=origin, hash=digest),
                options={
                    "format": file.format,
                    "from": file.facts,
                    "traits": list(dict.fromkeys(v.trait for v in file.vectors)),
                    "methods": list(dict.fromkeys(v.method for v in file.vectors)),
                    "components": ["residual"],
                },
                store_dtype="F32",
                counts=Counts(examples=0, sequences=0, tokens=0, predictions=0, truncated=0, rows=staged.rows),
                bytes=sum(f.bytes for f in staged.files),
                files=staged.files,
                versions=versions(),
            )

        return publish(writer, manifest)


def _columns(vectors: list[TraitVector]) -> dict[str, list[Any]]:
    lengths = [float(np.linalg.norm(v.vector.astype(np.float64))) for v in vectors]
    known: dict[str, list[Any]] = {
        "trait": [v.trait for v in vectors],
        "method": [v.method for v in vectors],
        "component": ["residual"] * len(vectors),
        "layer": [v.layer for v in vectors],
        "norm": [n if v.norm is None else v.norm for v, n in zip(vectors, lengths, strict=True)],
        "gap": lengths,
        "train_accuracy": [v.train_accuracy for v in vectors],
        "vector": [(v.vector.astype(np.float64) / n).tolist() for v, n in zip(vectors, lengths, strict=True)],
    }
    return {c.name: known.get(c.name, [None] * len(vectors)) for c in STORED["trait_vectors"].file_columns}
