"""The table `heads` from stored q and k against the forward pass that would have to be run again for it.

Ours is `traces derive heads` on a published run: q and k read from disk, attention derived, six statistics of each head, rows
written and fsynced, the derived run published. The other is the model's bare forward over the same sequences, which does not
even look at its attention. SmolLM2 on WikiText-2.

    python benchmarks/heads.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from common import in_turns, parsed, record
from inputs import long_texts

from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading
from warehouse.analysis.derive_heads import derive_heads
from warehouse.storage.paths import run_dir

CASES = ((128, 64), (256, 24))
"""Tokens in a sequence, and how many sequences."""
BATCH_TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.set_defaults(cases=CASES)
    args = parsed(parser, rounds=1, cases=((16, 4), (24, 2)))
    loaded = loading.load("smollm2", device="cpu")
    for length, count in args.cases:
        texts = long_texts(loaded.tokenizer, length, count)
        ids = torch.tensor([loaded.tokenizer(t).input_ids[:length] for t in texts])
        batches = ids.split(BATCH_TOKENS // length)

        def forward(batches: tuple[torch.Tensor, ...] = batches) -> None:
            with torch.no_grad():
                for batch in batches:
                    loaded.model(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)

        with tempfile.TemporaryDirectory() as folder:
            root, path = Path(folder) / "runs", Path(folder) / "texts.txt"
            path.write_text("\n".join(texts), encoding="utf-8")
            options = next_token.Options(capture="attn", max_len=length, batch_tokens=BATCH_TOKENS)
            next_token.run(loaded, open_text(str(path), "text"), options, root=root, run_id="qk")
            made: list[str] = []

            def ours(root: Path = root, made: list[str] = made) -> None:
                made.append(f"heads-{len(made)}")
                derive_heads(run_dir(root, "qk"), root=root, run_id=made[-1])

            mine, other = in_turns(ours, forward, args.rounds)
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        tokens = ids.numel()
        record(
            f"heads#{length}",
            f"heads of {length}-token sequences, from stored q and k",
            "the forward pass that it replaces",
            f"{tokens / statistics.median(mine):.0f} tokens/s",
            f"{tokens / statistics.median(other):.0f} tokens/s",
            f"{statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f} in {args.rounds} rounds)",
            "no slower",
        )


if __name__ == "__main__":
    main()
