"""Describes a loaded model and its stacks for the manifest of a run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from capture.model import loading
from capture.model.anatomy import Anatomy, Stack
from capture.model.attention_hook import attention_implementation
from capture.model.body import vocabulary_size
from capture.model.hashes import body_hash, tokenizer_hash, weights_hash
from capture.model.tolerances import formula_tolerance
from warehouse.storage.model_info import LayerAttention, ModelInfo, StackInfo


def model_info(loaded: loading.Loaded, anatomy: Anatomy) -> ModelInfo:
    """Describe a model for the manifest: name, architecture, hashes, dtype, and its main stack's shapes."""
    main = anatomy.main
    encoder = anatomy.stacks.get("enc") if main.side == "dec" else None
    return ModelInfo(
        **stack_info(main, loaded.model.dtype).model_dump(),
        name=loaded.name,
        revision=loaded.revision,
        architecture=type(loaded.model).__name__,
        weights_hash=weights_hash(loaded.model),
        body_hash=body_hash(loaded.model),
        tokenizer_hash=tokenizer_hash(loaded.tokenizer),
        dtype=loaded.dtype,
        device=loaded.device,
        attn_implementation=attention_implementation(loaded.model),
        trust_remote_code=loaded.trust_remote_code,
        untrained=list(loaded.untrained),
        vocab_size=vocabulary_size(loaded.model),
        window=loaded.window,
        side="dec" if main.side == "dec" else "enc",
        encoder=stack_info(encoder, loaded.model.dtype) if encoder is not None else None,
    )


def stack_info(stack: Stack, dtype: torch.dtype) -> StackInfo:
    """Describe a stack for the manifest.

    Args:
        stack: The stack.
        dtype: The dtype that the model computes in.

    Returns:
        Its shapes, convention and attention formulas, and why sites are missing.
    """
    shapes = [stack.layers[i].shapes for i in stack.attention_layers]
    first = shapes[0] if shapes else {}
    heads_of, none = first.get("q", first.get("attn", (0,))), (0, 0)
    heads = [layer.shapes.get("q", layer.shapes.get("attn", (0,)))[0] for layer in stack.layers]

    def formulas(
        of_layer: Callable[[int], LayerAttention | None], derivable: bool
    ) -> list[LayerAttention | None] | None:
        return [of_layer(i) for i in range(len(stack.layers))] if derivable else None

    cross = any("cross.attn" in layer.shapes for layer in stack.layers)
    return StackInfo(
        n_layers=len(stack.layers),
        d_model=stack.width[-1],
        n_heads=heads_of[0],
        layer_heads=None if set(heads) <= {0, heads_of[0]} else heads,
        n_kv_heads=first.get("k", none)[0],
        d_head=first.get("q", none)[1],
        d_value=first.get("v", none)[1],
        convention="post-norm" if stack.post_norm else "pre-norm",
        parallel=any(layer.parallel for layer in stack.layers),
        final_norm=stack.final_norm,
        embeds=stack.embeds,
        causal=stack.causal,
        attention=formulas(lambda i: stack.layers[i].formula, stack.derivable),
        cross_attention=formulas(lambda i: stack.layers[i].cross_formula, cross and stack.cross_derivable),
        attention_error=stack.attention_error if stack.registered else None,
        attention_tolerance=formula_tolerance(dtype) if stack.registered else None,
        missing=dict(stack.missing),
    )
