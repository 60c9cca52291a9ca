"""What TransformerLens and SAELens read from files that we exported. Runs in their environment.

    python exported.py transformer_lens MODEL_FOLDER FILE.safetensors OUT.safetensors

reads the file as an ActivationCache of the model, and has the model read the same tokens itself. OUT holds `theirs.HOOK`, what the model
has at each hook of the file, and `stack` (L + 1, 1, T, D), the cache's own `accumulated_resid`.

    python exported.py sae_lens FOLDER HOOK CONTEXT D OUT.safetensors

has SAELens' ActivationsStore read the folder. OUT holds `acts` (n, D) and `token_ids` (n,), in order.
"""

from __future__ import annotations

import json
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def transformer_lens(folder: str, file: str, out: str) -> None:
    from cache import build_lens
    from transformer_lens import ActivationCache
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    lens = build_lens(model)
    ours = ActivationCache(load_file(file), lens)
    with safe_open(file, "pt") as f:
        ids = json.loads(f.metadata()["token_ids"])
    _, theirs = lens.run_with_cache(torch.tensor([ids]))
    found = {f"theirs.{hook}": theirs[hook].clone().contiguous() for hook in ours}
    found["stack"] = ours.accumulated_resid(layer=-1, incl_mid=False).contiguous()
    save_file(found, out)


def sae_lens(folder: str, hook: str, context: str, d: str, out: str) -> None:
    from sae_lens.training.activations_store import ActivationsStore
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=1, d_model=int(d), n_ctx=int(context), d_head=4, d_vocab=8, act_fn="relu", device="cpu"
    )
    store = ActivationsStore(
        model=HookedTransformer(config), dataset=None, streaming=False, hook_name=hook, hook_head_index=None,
        context_size=int(context), d_in=int(d), n_batches_in_buffer=2, total_training_tokens=8, store_batch_size_prompts=1,
        train_batch_size_tokens=4, prepend_bos=False, normalize_activations="none", device=torch.device("cpu"),
        dtype="float32", cached_activations_path=folder,
    )  # fmt: skip
    assert store.cached_activation_dataset is not None
    n = len(store.cached_activation_dataset)
    acts, ids = zip(*(store.get_raw_llm_batch() for _ in range(n)), strict=True)
    save_file({"acts": torch.cat(acts), "token_ids": torch.cat(ids)}, out)


if __name__ == "__main__":
    {"transformer_lens": transformer_lens, "sae_lens": sae_lens}[sys.argv[1]](*sys.argv[2:])
