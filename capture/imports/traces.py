"""What a file of another tool holds, before it is a run: its texts with their tokens, and the tensors of each.

Readers (`activation_cache`, `padded_zarr`, `server_states`) make `Traces`; `import_run` publishes them. Tensors are read one text at a time, when
their turn has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warehouse.errors import UsageError
from warehouse.schema.sites import TRIANGLE, Key, row_count
from warehouse.storage.blobs import DTYPES, TensorSpec
from warehouse.storage.model_info import ModelInfo


@dataclass(frozen=True)
class TraceSequence:
    """A sequence of tokens, and its tensors."""

    ids: Mapping[str, np.ndarray]
    """Token ids (T,) by side; empty where the file has none."""
    tensors: Callable[[], Mapping[Key, np.ndarray]]
    """Reads the tensors, (rows, *row_shape) each."""
    tokens: list[str] | None = None
    """The tokens' texts, where the file has them and there is one side."""


@dataclass(frozen=True)
class TraceExample:
    """A text of the file."""

    source_id: str
    """Its id or its place there."""
    sequences: tuple[TraceSequence, ...]
    text: str | None = None
    """The text, where the file has it; else it is made of the tokens."""
    example_id: str | None = None
    """Its id in the warehouse that the file is from, where it says so."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Traces:
    """An opened file or folder."""

    format: str
    """What it is: `transformer-lens`, `nnsight`, `zarr`, `vllm`."""
    name: str
    """What the data set of its run is called."""
    model: ModelInfo
    """What the file tells of the model."""
    specs: Mapping[Key, TensorSpec]
    """What the rows of every tensor are made of."""
    examples: Callable[[], Iterator[TraceExample]]
    """Reads the texts from the start."""
    count: int
    """How many texts there are."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else the file says of where it came from, kept in the manifest."""
    left_out: tuple[str, ...] = ()
    """What of the file is not taken, and why."""

    def forecast(self) -> list[str]:
        """Say in lines what a run of it would hold; no tensors are read."""
        tokens = n_bytes = 0
        for example in self.examples():
            for sequence in example.sequences:
                lengths = {side: len(ids) for side, ids in sequence.ids.items()}
                tokens += sum(lengths.values())
                n_bytes += sum(
                    spec.stored_row_bytes * row_count(spec.row_kind, key.side, lengths)
                    for key, spec in self.specs.items()
                )
        layers: dict[str, int] = {}
        for key in self.specs:
            layers[key.site] = layers.get(key.site, 0) + 1
        sites = ", ".join(site if n == 1 else f"{site} ({n} layers)" for site, n in layers.items())
        return [
            f"{self.format}: {self.count:,} texts, {tokens:,} tokens",
            f"tensors: {sites}, {n_bytes / 1e6:,.1f} MB",
            *(f"left out: {what}" for what in self.left_out),
        ]


def unknown_model(**known: Any) -> ModelInfo:
    """Return a description of a model of which a file tells only some.

    Args:
        **known: Fields of `ModelInfo` that the file, or its shapes, tell.

    Returns:
        The description: hashes are empty and what is not known is called that.
    """
    blank: dict[str, Any] = {
        **dict.fromkeys(("name", "architecture", "dtype", "device", "attn_implementation"), "unknown"),
        **dict.fromkeys(("weights_hash", "tokenizer_hash"), ""),
        **dict.fromkeys(("n_heads", "n_kv_heads", "d_head", "d_value", "vocab_size"), 0),
    }
    return ModelInfo.model_validate({**blank, **known})


def looks_ahead(patterns: np.ndarray) -> bool:
    """Whether a token attends to one after it, in any of (…, T, T) patterns; told by bits, since probabilities are never below 0."""
    bits = np.ascontiguousarray(patterns).view(f"u{patterns.dtype.itemsize}").reshape(-1, *patterns.shape[-2:])
    return bool(np.triu(np.bitwise_or.reduce(bits, axis=0), 1).any())


def attention_rows(patterns: np.ndarray, kind: str) -> np.ndarray:
    """Return the rows that are stored of attention: (…, H, T, T) becomes (…, pairs, H), of the lower triangle or the whole square."""
    heads_last = np.moveaxis(patterns, -3, -1)
    n = patterns.shape[-1]
    if kind == TRIANGLE:
        return np.ascontiguousarray(heads_last[..., *np.tril_indices(n), :])
    return heads_last.reshape(*heads_last.shape[:-3], n * n, -1)


def stored_dtype(dtype: np.dtype, what: str) -> str:
    """Return the dtype that values are stored in, as safetensors names it: their own, float32 for float64.

    Raises:
        UsageError: They are no floating-point numbers.
    """
    name = next((name for name in ("F16", "BF16", "F32") if DTYPES[name] == dtype), None)
    if name is None and dtype == np.float64:
        name = "F32"
    if name is None:
        raise UsageError(f"{what} holds {dtype}, not floating-point numbers.")
    return name
