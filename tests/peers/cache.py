"""What another library sees inside a model, and what the model gives when that library changes it, written to a safetensors file.

Runs in that library's environment, not in ours.

    python cache.py transformer_lens|nnsight MODEL_FOLDER IDS.json OUT.safetensors

IDS.json holds `input_ids` and `other_ids`, sequences of T tokens each, and `vector` (D,). All runs in float32 on the CPU. OUT holds of
the first sequence, for each layer:

    resid.embed            (T, D)       what enters the first block
    resid.post_attn.L00    (T, D)       the residual stream between attention and MLP
    resid.post_mlp.L00     (T, D)       the residual stream after the block
    hidden.L03             (T, D)       after the final norm; the number is that of the layers
    q.L00                  (T, H, d)    after rotary position encoding, where the model has one
    k.L00, v.L00           (T, H_kv, d) the same, not repeated for the query heads that share them
    attn.L00               (H, T, T)    attention probabilities
    attn_out.L00           (T, D)       what attention adds to the residual stream
    mlp_out.L00            (T, D)       what the MLP adds
    logits                 (T, V)

and the logits (T, V) after one change each, at layer 1; "the other" is what the other sequence has there:

    edited.head=zero       head 2's output, before the output projection, is zero
    edited.head=mean       … is by position the mean of both sequences
    edited.head=other      … is the other
    edited.mlp=zero        the MLP adds nothing
    edited.stream=other    the residual stream after the block is, at token 5, the other
    edited.stream=add      twice the vector is added to it, at all tokens

Its metadata tells the versions it was made with. What the library has no name for is left out, and printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

LAYER, HEAD, TOKEN = 1, 2, 5
"""Where the model is changed."""

LAYERED = ("resid.post_attn", "resid.post_mlp", "q", "k", "v", "attn", "attn_out", "mlp_out")


def build_lens(model: PreTrainedModel) -> Any:
    """Its own implementation of the model with the weights as they are: no norm folded in, nothing centered.

    Its loader takes only the names of models that it knows, so the configuration is spelt out here; its own conversion
    brings the weights into its layout. Rotary position encoding turns dimension i with i + d/2, as in transformers
    (`rotary_adjacent_pairs` is off), so q and k need no permutation. Keys and values of grouped heads are not repeated.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights

    c = model.config
    common = {
        "d_model": c.hidden_size,
        "n_layers": c.num_hidden_layers,
        "n_heads": c.num_attention_heads,
        "n_ctx": c.max_position_embeddings,
        "d_vocab": c.vocab_size,
        "original_architecture": type(model).__name__,
        "init_weights": False,
        "device": "cpu",
        "dtype": torch.float32,
    }
    if c.model_type == "gpt2":
        config = HookedTransformerConfig(
            **common,
            d_head=c.n_embd // c.n_head,
            d_mlp=c.n_inner or 4 * c.n_embd,
            act_fn=c.activation_function,
            normalization_type="LN",
            eps=c.layer_norm_epsilon,
        )
        state = convert_gpt2_weights(model, config)
    else:
        config = HookedTransformerConfig(
            **common,
            d_head=c.head_dim,
            n_key_value_heads=c.num_key_value_heads,
            d_mlp=c.intermediate_size,
            gated_mlp=True,
            act_fn=c.hidden_act,
            normalization_type="RMS",
            final_rms=True,
            eps=c.rms_norm_eps,
            positional_embedding_type="rotary",
            rotary_dim=c.head_dim,
            rotary_base=c.rope_parameters["rope_theta"],
            rotary_adjacent_pairs=False,
        )
        state = convert_llama_weights(model, config)
    lens = HookedTransformer(config)
    lens.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    return lens


def transformer_lens(
    model: PreTrainedModel, ids: torch.Tensor, other: torch.Tensor, vector: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What `build_lens` makes of the model, with hooks of its own."""
    lens = build_lens(model)
    logits, cache = lens.run_with_cache(ids)

    config = lens.cfg
    rotary = "rot_" if config.positional_embedding_type == "rotary" else ""
    names = {
        "resid.post_attn": "hook_resid_mid",
        "resid.post_mlp": "hook_resid_post",
        "q": f"attn.hook_{rotary}q",
        "k": f"attn.hook_{rotary}k",
        "v": "attn.hook_v",
        "attn": "attn.hook_pattern",
        "attn_out": "hook_attn_out",
        "mlp_out": "hook_mlp_out",
    }
    wanted = {
        "resid.embed": "blocks.0.hook_resid_pre",
        f"hidden.L{config.n_layers:02}": "unembed.hook_in",
        **{f"{site}.L{i:02}": f"blocks.{i}.{hook}" for site, hook in names.items() for i in range(config.n_layers)},
    }
    seen = {name: cache[hook][0] for name, hook in wanted.items() if hook in cache} | {"logits": logits[0]}

    head, stream = f"blocks.{LAYER}.attn.hook_z", f"blocks.{LAYER}.hook_resid_post"
    _, there = lens.run_with_cache(other)
    mean = (cache[head] + there[head])[:, :, HEAD] / 2
    edits = {
        "head=zero": (head, lambda z: z.index_fill(2, torch.tensor(HEAD), 0)),
        "head=mean": (head, lambda z: _with(z, (slice(None), slice(None), HEAD), mean)),
        "head=other": (head, lambda z: _with(z, (slice(None), slice(None), HEAD), there[head][:, :, HEAD])),
        "mlp=zero": (f"blocks.{LAYER}.hook_mlp_out", torch.zeros_like),
        "stream=other": (stream, lambda x: _with(x, (slice(None), TOKEN), there[stream][:, TOKEN])),
        "stream=add": (stream, lambda x: x + 2 * vector),
    }
    for name, (place, edit) in edits.items():
        hooks = [(place, lambda x, hook, edit=edit: edit(x))]
        seen[f"edited.{name}"] = lens.run_with_hooks(ids, fwd_hooks=hooks)[0]
    return seen


def _with(x: torch.Tensor, where: tuple[slice | int, ...], value: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[where] = value
    return x


def nnsight(
    model: PreTrainedModel, ids: torch.Tensor, other: torch.Tensor, vector: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The model of transformers, traced. Values are asked for in the order in which the model computes them.

    q, k and v are arguments of the call of `attention_interface` in the source of the attention's `forward`, where position
    encoding has been applied; nnsight numbers the places of a name in that source, and the call is number 1.
    """
    from nnsight import NNsight, save

    traced = NNsight(model)
    gpt2 = model.config.model_type == "gpt2"
    blocks, final_norm = (
        (traced.transformer.h, traced.transformer.ln_f) if gpt2 else (traced.model.layers, traced.model.norm)
    )
    n = len(blocks)
    with torch.no_grad(), traced.trace(input_ids=ids, use_cache=False):
        found = save({})
        found["resid.embed"] = blocks[0].input[0]
        for i in range(n):
            block = blocks[i]
            attention = block.attn if gpt2 else block.self_attn
            (_, q, k, v, *_), _ = attention.source.attention_interface_1.inputs
            for site, x in (("q", q), ("k", k), ("v", v)):
                found[f"{site}.L{i:02}"] = x[0].transpose(0, 1)
            out, probabilities = attention.output
            found[f"attn.L{i:02}"] = probabilities[0]
            found[f"attn_out.L{i:02}"] = out[0]
            found[f"resid.post_attn.L{i:02}"] = (block.ln_2 if gpt2 else block.post_attention_layernorm).input[0]
            found[f"mlp_out.L{i:02}"] = block.mlp.output[0]
            found[f"resid.post_mlp.L{i:02}"] = block.output[0]
        found[f"hidden.L{n:02}"] = final_norm.output[0]
        found["logits"] = traced.output.logits[0]
    return found | _nnsight_edited(traced, blocks[LAYER], ids, other, vector)


def _nnsight_edited(
    traced: Any, block: Any, ids: torch.Tensor, other: torch.Tensor, vector: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Heads are changed where the output projection reads them, side by side."""
    from nnsight import save

    config = traced.config
    width = config.hidden_size // config.num_attention_heads
    projection = block.attn.c_proj if config.model_type == "gpt2" else block.self_attn.o_proj
    head = (slice(None), slice(None), slice(HEAD * width, (HEAD + 1) * width))
    heads, streams = [], []
    with torch.no_grad():
        for tokens in (ids, other):
            with traced.trace(input_ids=tokens, use_cache=False):
                z = save(projection.input.clone())
                stream = save(block.output.clone())
            heads.append(z[head])
            streams.append(stream)
        found = {}
        for name, value in (("zero", 0), ("mean", (heads[0] + heads[1]) / 2), ("other", heads[1])):
            with traced.trace(input_ids=ids, use_cache=False):
                projection.input[head] = value
                found[f"edited.head={name}"] = save(traced.output.logits[0])
        with traced.trace(input_ids=ids, use_cache=False):
            block.mlp.output = torch.zeros_like(block.mlp.output)
            found["edited.mlp=zero"] = save(traced.output.logits[0])
        with traced.trace(input_ids=ids, use_cache=False):
            block.output[:, TOKEN] = streams[1][:, TOKEN]
            found["edited.stream=other"] = save(traced.output.logits[0])
        with traced.trace(input_ids=ids, use_cache=False):
            block.output = block.output + 2 * vector
            found["edited.stream=add"] = save(traced.output.logits[0])
    return found


PEERS: dict[str, Callable[[PreTrainedModel, torch.Tensor, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]] = {
    "transformer_lens": transformer_lens,
    "nnsight": nnsight,
}


def main(peer: str, folder: str, ids: str, out: str) -> None:
    given = json.loads(Path(ids).read_text(encoding="utf-8"))
    sequences = (torch.tensor([given[name]]) for name in ("input_ids", "other_ids"))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    found = PEERS[peer](model, *sequences, torch.tensor(given["vector"]))

    n = model.config.num_hidden_layers
    names = ["resid.embed", f"hidden.L{n:02}", "logits", *(f"{site}.L{i:02}" for site in LAYERED for i in range(n))]
    if missing := [name for name in names if name not in found]:
        print(f"{peer} has no {', '.join(missing)}")
    versions = {package: version(package) for package in ("torch", "transformers", peer)}
    save_file({name: x.detach().contiguous() for name, x in found.items()}, out, metadata=versions)


if __name__ == "__main__":
    main(*sys.argv[1:])
