"""Next-token capture of SmolLM2 against the bare forward pass over the same batches.

Ours is the whole job after the model is loaded: looking at the model, hashing its weights, tokenizing, diagnostics, tensors
written and fsynced, tables merged, run published, views refreshed. The other is the model's own forward with its default
attention, logits computed, nothing kept. WikiText-2, 128 tokens, batch 8.

    python benchmarks/overhead.py [--sequences 128] [--rounds 3] [--only resid|qkv]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from common import in_turns, long_texts, parsed, record

from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading

LENGTH, BATCH = 128, 8
CASES = {
    "resid": (
        "hidden,resid",
        "next-token capture with hidden and all residual streams, diagnostics, fsynced",
        "at most 1.15",
    ),
    "qkv": ("hidden,resid,qkv,attn", "the same and attention and q, k, v", "at most 1.25"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CASES)
    args = parsed(parser, sequences=2, rounds=1)
    loaded = loading.load("smollm2")
    texts = long_texts(loaded.tokenizer, LENGTH, args.sequences)
    ids = torch.tensor([loaded.tokenizer(t).input_ids[:LENGTH] for t in texts])

    def bare() -> None:
        with torch.no_grad():
            for batch in ids.split(BATCH):
                loaded.model(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        source = open_text(str(path), "text")
        for name, (capture, claim, target) in CASES.items():
            if args.only in (None, name):
                options = next_token.Options(capture=capture, max_len=LENGTH, batch_tokens=LENGTH * BATCH)
                sizes: list[int] = []

                def ours(name: str = name, options: next_token.Options = options, sizes: list[int] = sizes) -> None:
                    root = Path(folder) / "runs"
                    sizes.append(
                        next_token.run(loaded, source, options, root=root, run_id=f"{name}-{len(sizes)}").bytes
                    )

                mine, other = in_turns(ours, bare, args.rounds)
                ratios = [a / b for a, b in zip(mine, other, strict=True)]
                tokens = ids.numel()
                record(
                    f"overhead#{name}",
                    claim,
                    "the bare forward pass",
                    f"{tokens / statistics.median(mine):.0f} tokens/s, {sizes[-1] / tokens / 1e3:.0f} KB a token",
                    f"{tokens / statistics.median(other):.0f} tokens/s",
                    f"{statistics.median(ratios):.2f} times its time ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)",
                    target,
                )


if __name__ == "__main__":
    main()
