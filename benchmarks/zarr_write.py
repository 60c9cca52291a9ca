"""Capture of everything into a run against capture of the same into padded Zarr: seconds and bytes.

Two cases: WikiText-2 as it comes, paragraphs and headings in their order, cut at 128 tokens; and only texts of 128 tokens or
more, where nothing is padding. Ours also computes next-token diagnostics, checksums and tables, and fsyncs; the other does not.

    python benchmarks/zarr_write.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import padded_zarr
from common import in_turns, parsed, record
from inputs import long_texts, model_name
from inputs import texts as all_texts

from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from warehouse.storage.files import folder_size

LENGTH, BATCH = 128, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.set_defaults(paragraphs=96, full=64)
    args = parsed(parser, rounds=1, paragraphs=4, full=2)
    loaded = loading.load(model_name())
    eager = loading.load(model_name())
    eager.model.set_attn_implementation("eager")
    anatomy = examine(eager.model)
    cases = {
        "mixed": (all_texts()[: args.paragraphs], "the same, into padded Zarr or a run: paragraphs as they come"),
        "full": (
            long_texts(loaded.tokenizer, LENGTH, args.full),
            "the same where every text fills its 128 tokens, no padding",
        ),
    }
    for name, (texts, claim) in cases.items():
        compare(name, claim, texts, loaded, eager, anatomy, args.rounds)


def compare(
    name: str,
    claim: str,
    texts: list[str],
    loaded: loading.Loaded,
    eager: loading.Loaded,
    anatomy: Anatomy,
    rounds: int,
) -> None:
    ids = [loaded.tokenizer(t).input_ids[:LENGTH] for t in texts]
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
            padded_zarr.write(eager.model, anatomy, ids, LENGTH, BATCH, other)

        mine, other_seconds = in_turns(ours, theirs, rounds)
        ratios = [b / a for a, b in zip(mine, other_seconds, strict=True)]
        sizes = folder_size(root), folder_size(other)
    tokens = sum(map(len, ids))
    record(
        f"zarr_write#{name}",
        claim,
        "padded Zarr v3, float16, default codec: attention, q, k, v, hidden, embed, three residual streams",
        f"{tokens / statistics.median(mine):.0f} tokens/s, {sizes[0] / tokens / 1e3:.0f} KB a token",
        f"{tokens / statistics.median(other_seconds):.0f} tokens/s, {sizes[1] / tokens / 1e3:.0f} KB a token",
        f"{statistics.median(ratios):.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f}), {sizes[0] / sizes[1]:.2f} of the bytes",
        "at least 1.7 times faster, at most half the bytes",
    )


if __name__ == "__main__":
    main()
