"""Capture of everything into a run against capture of the same into padded Zarr: seconds and bytes.

Ours also computes next-token diagnostics, checksums and tables, and fsyncs; the other does not.

    python benchmarks/zarr_write.py [--sequences 32] [--rounds 3]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import padded_zarr
import torch
from common import in_turns, long_texts, record

from capture import models
from capture.anatomy import examine
from capture.data.text import open_text
from capture.jobs import next_token
from warehouse.files import size_of

LENGTH, BATCH = 128, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    loaded = models.load("smollm2")
    eager = models.load("smollm2")
    eager.model.set_attn_implementation("eager")
    anatomy = examine(eager.model)
    texts = long_texts(loaded.tokenizer, LENGTH, args.sequences)
    ids = torch.tensor([loaded.tokenizer(t).input_ids[:LENGTH] for t in texts])
    with tempfile.TemporaryDirectory() as folder:
        root, other = Path(folder) / "runs", Path(folder) / "zarr"
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        source = open_text(str(path), "text")
        options = next_token.Options(capture="hidden,resid,qkv,attn", max_len=LENGTH, batch_tokens=LENGTH * BATCH)

        def ours() -> None:
            shutil.rmtree(root, ignore_errors=True)
            next_token.run(loaded, source, options, root=root, run_id="r")

        def theirs() -> None:
            shutil.rmtree(other, ignore_errors=True)
            padded_zarr.write(eager.model, anatomy, ids, BATCH, other)

        mine, other_seconds = in_turns(ours, theirs, args.rounds)
        ratios = [b / a for a, b in zip(mine, other_seconds, strict=True)]
        sizes = size_of(root), size_of(other)
    tokens = ids.numel()
    record(
        "zarr_write",
        "the same and attention and q, k, v (written)",
        "padded Zarr v3, float16, default codec: attention, q, k, v, hidden, embed, three residual streams",
        f"{tokens / statistics.median(mine):.0f} tokens/s, {sizes[0] / tokens / 1e3:.0f} KB a token",
        f"{tokens / statistics.median(other_seconds):.0f} tokens/s, {sizes[1] / tokens / 1e3:.0f} KB a token",
        f"{statistics.median(ratios):.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f}), {sizes[0] / sizes[1]:.2f} of the bytes",
        "at least 1.7 times faster, at most half the bytes",
    )


if __name__ == "__main__":
    main()
