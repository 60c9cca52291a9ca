"""Files as TransformerLens and nnsight users save them. Runs in their environment.

    python saved.py transformer_lens MODEL_FOLDER IDS.json OUT.pt

saves `run_with_cache` over the ids as `torch.save(dict(cache))`, with the tokens beside.

    python saved.py nnsight MODEL_FOLDER IDS.json OUT.pt

saves the outputs of the embedding and of every block that nnsight saved of one trace.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def transformer_lens(folder: str, ids: list[int], out: str) -> None:
    from cache import build_lens
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    _, cache = build_lens(model).run_with_cache(torch.tensor([ids]))
    torch.save({**cache.cache_dict, "tokens": torch.tensor([ids])}, out)


def nnsight(folder: str, ids: list[int], out: str) -> None:
    from nnsight import LanguageModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lm = LanguageModel(model, tokenizer=AutoTokenizer.from_pretrained(folder))
    saved = {}
    with torch.no_grad(), lm.trace(torch.tensor([ids])):
        saved["model.embed_tokens.output"] = lm.model.embed_tokens.output.save()
        for i, layer in enumerate(lm.model.layers):
            saved[f"model.layers.{i}.self_attn.output"] = layer.self_attn.output.save()
            saved[f"model.layers.{i}.output"] = layer.output.save()
    torch.save({**saved, "input_ids": torch.tensor([ids])}, out)


if __name__ == "__main__":
    what, folder, ids, out = sys.argv[1:]
    {"transformer_lens": transformer_lens, "nnsight": nnsight}[what](folder, json.loads(Path(ids).read_text()), out)
