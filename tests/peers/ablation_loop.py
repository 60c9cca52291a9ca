"""How long TransformerLens takes for every head and MLP cut in turn, printed as JSON. Runs in its environment, not in ours.

    python ablation_loop.py MODEL_FOLDER IDS.json LAYERS

A hook and a forward pass for each head and MLP of the last LAYERS layers, as its users write it: `loop`, seconds. As many forward
passes without hooks: `bare`. IDS.json holds `input_ids`, and as `other_ids` the prompt whose values are put in.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cache import build_lens
from transformers import AutoModelForCausalLM


def main(folder: str, ids: str, layers: str) -> None:
    given = json.loads(Path(ids).read_text(encoding="utf-8"))
    lens = build_lens(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    prompt, other = (torch.tensor([given[name]]) for name in ("input_ids", "other_ids"))
    with torch.no_grad():
        _, there = lens.run_with_cache(other)
        hooks: list[tuple[str, Callable[..., Any]]] = []
        for layer in range(lens.cfg.n_layers - int(layers), lens.cfg.n_layers):
            z, mlp = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.hook_mlp_out"

            for head in range(lens.cfg.n_heads):

                def put(x: torch.Tensor, hook: object, head: int = head, z: str = z) -> torch.Tensor:
                    x[:, :, head] = there[z][:, :, head]
                    return x

                hooks.append((z, put))
            hooks.append((mlp, lambda x, hook, mlp=mlp: there[mlp]))

        def bare() -> None:
            for _ in hooks:
                lens(prompt)

        def loop() -> None:
            for hook in hooks:
                lens.run_with_hooks(prompt, fwd_hooks=[hook])

        seconds: dict[str, list[float]] = {"bare": [], "loop": []}
        for n in range(3):
            for name, work in (("bare", bare), ("loop", loop)):
                start = time.perf_counter()
                work()
                if n:
                    seconds[name].append(time.perf_counter() - start)
    print(json.dumps({name: min(found) for name, found in seconds.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
