"""The alternative for tensors: padded Zarr v3 arrays, float16, default codec, as tools of this kind keep them.

Attention, q, k, v, hidden states, the embedding and three residual streams of every layer, each one array over examples and
layers, padded to one length. Sharded by batch and chunked by example and layer: the layout that served Zarr best here, for
writing (few files) and for reading (small chunks) alike. Attention comes from eager `output_attentions`, which is the only
way to have it without recomputing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from capture.model.anatomy import Anatomy
from capture.model.attention_hook import AttentionCall, listen_to_attention
from capture.model.forward_trace import first_input, first_output


def write(model: Any, anatomy: Anatomy, texts: list[list[int]], length: int, batch: int, folder: Path) -> None:
    """Captures token lists of at most `length` in batches, each padded to its longest, into arrays padded to `length`.
    The model must be under eager attention."""
    count = len(texts)
    stack = anatomy.main
    layers, (width,) = len(stack.layers), stack.width
    (heads, d), (kv_heads, _) = stack.layers[0].shapes["q"], stack.layers[0].shapes["k"]
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)

    def array(name: str, *shape: int) -> Any:
        layered = name != "embed"
        chunks = (1, 1, *shape[1:]) if layered else (1, *shape)
        return group.create_array(
            name, shape=(count, *shape), chunks=chunks, shards=(batch, *shape), dtype="float16", fill_value=0
        )

    arrays = {
        "attn": array("attn", layers, heads, length, length),
        "q": array("q", layers, heads, length, d),
        "k": array("k", layers, kv_heads, length, d),
        "v": array("v", layers, kv_heads, length, d),
        "hidden": array("hidden", layers + 1, length, width),
        "embed": array("embed", length, width),
        **{f"resid_{s}": array(f"resid_{s}", layers, length, width) for s in ("pre_attn", "post_attn", "post_mlp")},
    }
    for start in range(0, count, batch):
        part, mask = _padded(texts[start : start + batch])
        with torch.no_grad(), _watched(model, anatomy) as seen:
            out = model(
                input_ids=part, attention_mask=mask, output_hidden_states=True, output_attentions=True, use_cache=False
            )
        seen["hidden"], seen["attn"] = list(out.hidden_states), list(out.attentions)
        rows = slice(start, start + len(part))
        for name, tensors in seen.items():
            arrays[name][rows] = _boxed(np.stack([t.to(torch.float16).numpy() for t in tensors], axis=1), name, length)
        arrays["embed"][rows] = _boxed(out.hidden_states[0].to(torch.float16).numpy(), "embed", length)


def _padded(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, texts))
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
    return torch.tensor([t + [0] * (longest - len(t)) for t in texts]), mask


def _boxed(x: np.ndarray, name: str, length: int) -> np.ndarray:
    """Tokens filled up with zeros to `length`: the last axis but one, for attention the last too."""
    missing = length - x.shape[-2]
    last = (0, missing) if name == "attn" else (0, 0)
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), last]) if missing else x


@contextmanager
def _watched(model: Any, anatomy: Anatomy) -> Iterator[dict[str, list[torch.Tensor]]]:
    seen: dict[str, list[torch.Tensor]] = {
        n: [] for n in ("q", "k", "v", "resid_pre_attn", "resid_post_attn", "resid_post_mlp")
    }

    def heard(call: AttentionCall) -> None:
        for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
            seen[name].append(x)

    def entering(name: str) -> Any:
        return lambda module, args, kwargs: seen[name].append(first_input(args, kwargs))

    with ExitStack() as stack:
        stack.enter_context(listen_to_attention(model, heard))
        for layer in anatomy.main.layers:
            for handle in (
                layer.block.register_forward_pre_hook(entering("resid_pre_attn"), with_kwargs=True),
                layer.hook_points["resid.post_attn"].module.register_forward_pre_hook(
                    entering("resid_post_attn"), with_kwargs=True
                ),
                layer.block.register_forward_hook(lambda m, a, out: seen["resid_post_mlp"].append(first_output(out))),
            ):
                stack.callback(handle.remove)
        yield seen
