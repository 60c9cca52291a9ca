"""All heads and MLPs of SmolLM2 cut one by one on one prompt, against a bare forward pass each.

Ours is what `traces ablate` does once the model is loaded and it is known that passes can begin at a layer: both prompts read, every
head and MLP with the other prompt's values put in, the metric of each. The other is the model called on the prompt. Beside it
the loop that is written by hand: a PyTorch hook and a forward pass for each, on the same model; it must find the same effects. Where
the environment of `make peers` is there, TransformerLens' own, against its own forward passes.

    python benchmarks/ablation.py [--layers 30] [--forwards 20] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, in_turns, parsed, record

import capture
from capture.effects.measure import Measurer
from capture.effects.options import Options, expand
from capture.effects.task_pairs import PromptPair
from capture.interventions.restart import Restart
from capture.model import loading

CLEAN = "When Mary and John went to the store, John gave a bottle of milk to"
CORRUPTED = "When Mary and John went to the store, Mary gave a bottle of milk to"
ANSWERS = {" Mary": 1, " John": -1}
PEER = HERE.parent / ".venv-peers" / "bin" / "python"
LENS_LAYERS = 6
"""The most layers that TransformerLens cuts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30, help="The last layers, whose heads and MLPs are cut.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forwards", type=int, default=20, help="Bare forward passes in a round.")
    args = parsed(parser, layers=1, forwards=2, rounds=1)
    loaded = loading.load("smollm2", device="cpu")
    both = [np.array(loaded.tokenizer(text).input_ids) for text in (CLEAN, CORRUPTED)]
    targets = {loaded.tokenizer(word).input_ids[0]: sign for word, sign in ANSWERS.items()}
    pair = PromptPair("ioi", (both[0], both[1]), targets)
    n = len(loaded.anatomy.main.layers)
    layers = range(n - args.layers, n)
    options = Options(layers=",".join(map(str, layers)))
    changes = expand(loaded.anatomy, options, len(pair))
    measurer = Measurer(loaded, Restart(loaded.anatomy), changes, options, "logit_diff", None, False, None)
    ids = torch.tensor(both[0])[None]
    effects: dict[str, list[float]] = {}

    def ours() -> None:
        effects["ours"] = [e.effect for part in measurer([pair]) for e in part]

    def bare() -> None:
        with torch.no_grad():
            for _ in range(args.forwards):
                loaded.model(input_ids=ids, use_cache=False)

    def hooks() -> None:
        effects["hooks"] = cut_by_hand(loaded.model, ids, torch.tensor(both[1])[None], targets, layers)

    mine, forwards = in_turns(ours, bare, args.rounds)
    looped, again = in_turns(hooks, bare, 1)
    furthest = max(abs(a - b) for a, b in zip(sorted(effects["ours"]), sorted(effects["hooks"]), strict=True))
    if furthest > 1e-3 or max(map(abs, effects["ours"])) < 0.1:
        raise SystemExit(f"the loop finds other effects, by up to {furthest:.1e}")
    ratios = [a / len(changes) / (b / args.forwards) for a, b in zip(mine, forwards, strict=True)]
    by_hand = looped[0] / len(changes) / (again[0] / args.forwards)
    each = statistics.median(mine) / len(changes) * 1e3
    other_each = statistics.median(forwards) / args.forwards * 1e3
    record(
        "ablation",
        f"{len(changes)} heads and MLPs cut one by one on a prompt of {len(pair)} tokens, values from its pair put in",
        f"a bare forward pass each; a loop of PyTorch hooks{'; that of TransformerLens' if PEER.exists() else ''}",
        f"{each:.1f} ms each",
        f"{other_each:.1f} ms; {by_hand:.2f} of a forward{lens(loaded.model, both, min(args.layers, LENS_LAYERS))}",
        f"{statistics.median(ratios):.2f} of a forward each ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)",
        "at most 0.33",
    )

    def empty() -> None:
        with capture.intervene(loaded):
            bare()

    mine, forwards = in_turns(empty, bare, args.rounds)
    ratios = [a / b for a, b in zip(mine, forwards, strict=True)]
    record(
        "ablation#empty",
        f"{args.forwards} forward passes inside `capture.intervene` with nothing in it",
        "the same outside",
        f"{statistics.median(mine) / args.forwards * 1e3:.1f} ms each",
        f"{statistics.median(forwards) / args.forwards * 1e3:.1f} ms each",
        f"{statistics.median(ratios):.2f} times its time ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)",
        "at most 1.1",
    )


def cut_by_hand(
    model: Any, ids: torch.Tensor, other: torch.Tensor, targets: dict[int, int], layers: range
) -> list[float]:
    """The effects of each head and MLP, by a hook and a forward pass each."""
    heads = model.config.num_attention_heads
    width = model.config.hidden_size // heads
    plus, minus = ([token for token, sign in targets.items() if sign == s] for s in (1, -1))
    there: dict[tuple[int, str], torch.Tensor] = {}

    def score() -> float:
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]
        return float(logits[plus].mean() - logits[minus].mean())

    def keep(key: tuple[int, str]) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            there[key] = (args[0] if key[1] == "heads" else output).clone()

        return hook

    def put_head(layer: int, head: int) -> Callable[..., Any]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x, part = args[0].clone(), slice(head * width, (head + 1) * width)
            x[..., part] = there[layer, "heads"][..., part]
            return (x,)

        return hook

    blocks = model.model.layers
    with torch.no_grad():
        handles = [blocks[i].self_attn.o_proj.register_forward_hook(keep((i, "heads"))) for i in layers]
        handles += [blocks[i].mlp.register_forward_hook(keep((i, "mlp"))) for i in layers]
        model(input_ids=other, use_cache=False)
        for handle in handles:
            handle.remove()
        baseline, found = score(), []
        for i in layers:
            for head in range(heads):
                handle = blocks[i].self_attn.o_proj.register_forward_pre_hook(put_head(i, head))
                found.append(score() - baseline)
                handle.remove()
            handle = blocks[i].mlp.register_forward_hook(lambda m, args, out, i=i: there[i, "mlp"])
            found.append(score() - baseline)
            handle.remove()
    return found


def lens(model: Any, both: list[np.ndarray], layers: int) -> str:
    """TransformerLens' loop as a part of its own forward passes, in words; empty where it is not installed."""
    if not PEER.exists():
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path, ids = Path(folder) / "model", Path(folder) / "ids.json"
        model.save_pretrained(path)
        ids.write_text(json.dumps({"input_ids": both[0].tolist(), "other_ids": both[1].tolist()}), encoding="utf-8")
        script = HERE.parent / "tests" / "peers" / "ablation_loop.py"
        done = subprocess.run(
            [PEER, script, path, ids, str(layers)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"},
        )
        seconds = json.loads(done.stdout.splitlines()[-1])
    return f"; TransformerLens {seconds['loop'] / seconds['bare']:.2f} of its own"


if __name__ == "__main__":
    main()
