"""What repeng and steering-vectors make of our vectors, and what they then change in a model. Runs in their environment.

    python steering.py WAREHOUSE RUN FILE.gguf OUT.json

OUT holds by library the vectors by layer, and what each adds to the output of block 1 of a random Llama: `added`, (D,).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from repeng import ControlModel, ControlVector
from transformers import LlamaConfig, LlamaForCausalLM

from capture.exports import repeng_vector, steering_vector
from warehouse import Warehouse

IDS = torch.tensor([[1, 2, 3]])


def after_block_1(model: LlamaForCausalLM) -> torch.Tensor:
    """Return what block 2 reads of the last token, (D,): transformers notes the states of a block before anything is added."""
    seen: list[torch.Tensor] = []
    handle = model.model.layers[2].register_forward_pre_hook(lambda module, args: seen.append(args[0][0, -1].clone()))
    with torch.no_grad():
        model(input_ids=IDS)
    handle.remove()
    return seen[0]


def main(root: str, run: str, file: str, out: str) -> None:
    torch.manual_seed(0)
    with Warehouse(root) as wh:
        ours, steering, one = repeng_vector(wh, run), steering_vector(wh, run), steering_vector(wh, run, layers=[1])
    read = ControlVector.import_gguf(file)
    size = len(next(iter(ours.directions.values())))
    config = LlamaConfig(
        vocab_size=8, hidden_size=size, intermediate_size=8, num_hidden_layers=4, num_attention_heads=2, head_dim=4
    )
    model = LlamaForCausalLM(config).eval()
    handle = one.patch_activations(model)
    steered = after_block_1(model)
    handle.remove()
    found = {
        "steering": {n: x.tolist() for n, x in steering.layer_activations.items()},
        "steering_added": (steered - after_block_1(model)).tolist(),
        "repeng": {n: x.tolist() for n, x in ours.directions.items()},
        "gguf": {n: x.tolist() for n, x in read.directions.items()},
        "model_type": read.model_type,
    }
    before = after_block_1(model)
    controlled = ControlModel(model, [1])
    controlled.set_control(read, 1.0)
    found["repeng_added"] = (after_block_1(model) - before).tolist()
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
