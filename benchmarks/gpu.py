"""Capture on a GPU against the bare forward pass there: copies to pinned memory on a stream of their own.

The same comparison as `overhead.py`, with batches that fill a GPU. Needs CUDA, and says so where there is none.

    python benchmarks/gpu.py [--sequences 1024] [--batch 64] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from common import in_turns, left_out, parsed, record
from inputs import long_texts

from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading

LENGTH = 128
CASES = {"resid": "hidden,resid", "qkv": "hidden,resid,qkv,attn"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parsed(parser, sequences=2, batch=2, rounds=1)
    if not torch.cuda.is_available():
        left_out("a CUDA device")
    loaded = loading.load("smollm2", device="cuda")
    texts = long_texts(loaded.tokenizer, LENGTH, args.sequences)
    ids = torch.tensor([loaded.tokenizer(t).input_ids[:LENGTH] for t in texts])

    def bare() -> None:
        with torch.no_grad():
            for batch in ids.split(args.batch):
                batch = batch.cuda()
                loaded.model(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)
        torch.cuda.synchronize()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        source = open_text(str(path), "text")
        for name, capture in CASES.items():
            options = next_token.Options(capture=capture, max_len=LENGTH, batch_tokens=LENGTH * args.batch)
            made: list[str] = []

            def ours(name: str = name, options: next_token.Options = options, made: list[str] = made) -> None:
                made.append(f"{name}-{len(made)}")
                next_token.run(loaded, source, options, root=Path(folder) / "runs", run_id=made[-1])

            mine, other = in_turns(ours, bare, args.rounds)
            ratios = [a / b for a, b in zip(mine, other, strict=True)]
            record(
                f"gpu#{name}",
                f"on a GPU ({torch.cuda.get_device_name()}): capture of {capture}",
                "the bare forward pass there",
                f"{ids.numel() / statistics.median(mine):.0f} tokens/s",
                f"{ids.numel() / statistics.median(other):.0f} tokens/s",
                f"{statistics.median(ratios):.2f} times its time",
                "bounded by the disk",
            )


if __name__ == "__main__":
    main()
