"""Hidden states that a vLLM server saved: a safetensors file a request, with `hidden_states` (tokens, layers, hidden) and `token_ids`.

A file does not say which layers they are of: that is what the server was told (`eagle_aux_hidden_state_layer_ids`), and has to be said again.
vLLM counts layers so that 0 is what enters the first block: its layer n is our resid.post_mlp of layer n - 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from capture.data.files import printable_value
from capture.imports.tensor_file import TensorFile, read_tensor_file
from capture.imports.traces import TraceExample, Traces, TraceSequence, stored_dtype, unknown_model
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.blobs import TensorSpec

STATES, TOKENS = "hidden_states", "token_ids"


def is_server_states(file: TensorFile) -> bool:
    """Whether a file holds the states of one request."""
    return STATES in file.tensors and TOKENS in file.tensors and file.tensors[STATES].ndim == 3


def open_server_states(files: Sequence[Path], name: str, layers: Sequence[int] | None = None) -> Traces:
    """Open the states of requests.

    Args:
        files: A file a request.
        name: What the data set of their run is called.
        layers: The layers that the server was told to save, as it counts them.

    Returns:
        What they hold.

    Raises:
        UsageError: No layers are named; or a file is damaged, has another shape than the others, or not as many layers.
    """
    first = read_tensor_file(files[0])
    _, n, width = _shape(first)
    if layers is None:
        raise UsageError(
            f"{printable_value(files[0])} has states of {n} layers and does not say which: name those that the server saved, as it counts "
            "them (eagle_aux_hidden_state_layer_ids), such as --layers 1,15,30."
        )
    numbers = list(layers)
    if len(numbers) != n or len(set(numbers)) != n:
        raise UsageError(f"{printable_value(files[0])} has states of {n} layers; --layers names {len(set(numbers))}.")
    keys = [Key("dec", "resid.post_mlp", i - 1) if i else Key("dec", "resid.embed", None) for i in numbers]
    spec = TensorSpec(stored_dtype(first.tensors[STATES].dtype, STATES), (width,))

    def examples() -> Iterator[TraceExample]:
        for path in files:
            file = read_tensor_file(path)
            length, here, wide = _shape(file)
            if (here, wide) != (n, width):
                raise UsageError(
                    f"{printable_value(path)} has {here} layers of width {wide}, and {printable_value(files[0])} {n} of {width}."
                )
            states, ids = file.tensors[STATES], file.tensors[TOKENS].reshape(-1).astype(np.int64)
            if len(ids) < length:
                raise UsageError(
                    f"{printable_value(path)} has states of {length:,} tokens, and {len(ids):,} token ids."
                )

            def tensors(states: np.ndarray = states) -> Mapping[Key, np.ndarray]:
                return {key: np.ascontiguousarray(states[:, i]) for i, key in enumerate(keys)}

            yield TraceExample(
                path.stem, (TraceSequence({"dec": ids[:length]}, tensors),), metadata={"request": path.stem}
            )

    return Traces(
        format="vllm",
        name=name,
        model=unknown_model(n_layers=max((k.layer + 1 for k in keys if k.layer is not None), default=0), d_model=width),
        specs=dict.fromkeys(keys, spec),
        examples=examples,
        count=len(files),
        facts={"layers": numbers},
    )


def _shape(file: TensorFile) -> tuple[int, int, int]:
    if not is_server_states(file):
        raise UsageError(f"{printable_value(file.path)} has no {STATES} (tokens, layers, hidden) with {TOKENS}.")
    length, n, width = file.tensors[STATES].shape
    return length, n, width
