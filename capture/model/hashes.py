"""Hashes a model's weights and its tokenizer: by them two runs show whether they used the same model, whatever its name."""

from __future__ import annotations

import json
from typing import Any

import torch
import xxhash


def weights_hash(model: torch.nn.Module) -> str:
    """Return the xxh3-128 in hex over every weight's name, dtype, shape and bytes, the same wherever the model came from."""
    digest = xxhash.xxh3_128()
    for name, weight in sorted(_weights(model).items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def body_hash(model: torch.nn.Module) -> str:
    """Return `weights_hash` of the model without its head."""
    return weights_hash(getattr(model, "base_model", model))


def has_weights(model: torch.nn.Module, known_hash: str) -> bool:
    """Return whether a model has the weights that a hash is of, with its head or without."""
    return known_hash in (weights_hash(model), body_hash(model))


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every weight by name, including those that accelerate keeps off their device."""
    weights = model.state_dict()
    if not any(w.is_meta for w in weights.values()):
        return weights
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    offloaded: dict[str, torch.Tensor] = get_state_dict_offloaded_model(model)
    return offloaded


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the xxh3-128 in hex over a fast tokenizer's whole definition, or over a slow one's vocabulary.

    The definition also notes how the tokenizer last truncated and padded; that is left out.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        definition = repr(sorted(tokenizer.get_vocab().items()))
    else:
        definition = json.dumps(json.loads(fast.to_str()) | {"truncation": None, "padding": None}, ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(definition.encode("utf-8", "surrogatepass"))
