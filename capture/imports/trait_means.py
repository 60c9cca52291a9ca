"""A trait pipeline's activations, `all_layers.pt`: means over the tokens of responses, (n_examples, n_layers, hidden_dim), without their texts.

`metadata.json` beside it says which model they are of. A row becomes an example without tokens, with `mean.resid.post_mlp` of every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from capture.data.files import printable_value, read_json
from capture.imports.tensor_file import TensorFile
from capture.imports.traces import TraceExample, Traces, TraceSequence, stored_dtype, unknown_model
from warehouse.errors import UsageError
from warehouse.schema.sites import MEAN, SEQUENCE, Key
from warehouse.storage import strict_json
from warehouse.storage.blobs import TensorSpec


def is_trait_means(file: TensorFile) -> bool:
    """Whether a file holds such a tensor, and nothing else."""
    return list(file.tensors) == [""] and file.tensors[""].ndim == 3


def open_trait_means(file: TensorFile, name: str) -> Traces:
    """Open activations.

    Args:
        file: The file.
        name: What the data set of their run is called.

    Returns:
        What it holds.

    Raises:
        UsageError: It holds something else, or its metadata are of another shape.
    """
    path = file.path
    if not is_trait_means(file):
        raise UsageError(
            f"{printable_value(path)} is no single tensor of the shape (n_examples, n_layers, hidden_dim)."
        )
    means = file.tensors[""]
    beside = path.with_name("metadata.json")
    said = read_json(beside) if beside.is_file() else {}
    said = said if isinstance(said, dict) else {}
    for place, field in enumerate(("n_examples", "n_layers", "hidden_dim")):
        if said.get(field, means.shape[place]) != means.shape[place]:
            raise UsageError(
                f"{printable_value(path)} has the shape {means.shape}, and {beside.name} says {field} {said[field]}."
            )
    keys = [Key("dec", f"{MEAN}resid.post_mlp", layer) for layer in range(means.shape[1])]

    def sequence(row: int) -> TraceSequence:
        def tensors() -> Mapping[Key, np.ndarray]:
            return {key: means[row, layer][None] for layer, key in enumerate(keys)}

        return TraceSequence({"dec": np.empty(0, np.int64)}, tensors)

    def examples() -> Iterator[TraceExample]:
        for n, (example_id, rows) in enumerate(grouped):
            yield TraceExample(str(n), tuple(map(sequence, rows)), f"response {n}", example_id)

    grouped = _grouped(said.get("examples"), len(means))

    return Traces(
        format="trait-means",
        name=name,
        model=unknown_model(
            n_layers=means.shape[1],
            d_model=means.shape[2],
            name=said["model"] if isinstance(said.get("model"), str) else "unknown",
        ),
        specs=dict.fromkeys(keys, TensorSpec(stored_dtype(means.dtype, path.name), (means.shape[2],), SEQUENCE)),
        examples=examples,
        count=len(grouped),
        facts={"metadata": strict_json.finite(said)},
    )


def _grouped(said: Any, n: int) -> list[tuple[str | None, list[int]]]:
    """Return the rows of each example, in order, with its id: those that the metadata tell, or else one row each without."""
    alone: list[tuple[str | None, list[int]]] = [(None, [row]) for row in range(n)]
    if not isinstance(said, list) or len(said) != n or not all(isinstance(x, dict) for x in said):
        return alone
    rows: dict[str, dict[int, int]] = {}
    for row, x in enumerate(said):
        rows.setdefault(str(x.get("example_id")), {})[x.get("seq", 0)] = row
    found: list[tuple[str | None, list[int]]] = []
    for example_id, by_seq in rows.items():
        if sorted(by_seq) != list(range(len(by_seq))):
            return alone
        found.append((example_id, [by_seq[seq] for seq in range(len(by_seq))]))
    return found if sum(len(rows) for _, rows in found) == n else alone
