"""The logit lens of 30 layers at top-50 against the matrix products alone that it cannot do without.

Ours is the whole job after the model is loaded: looking at the model and at its weights, states read from disk, final norm,
logits, probabilities, ranks, entropy, divergence from the final distribution, the 50 likeliest tokens decoded, rows written,
fsynced, sorted and published. The other multiplies as many rows by the unembedding, in the same slices, into one buffer that is
kept, and looks at none of it. SmolLM2 on WikiText-2.

    python benchmarks/lens.py [--positions 4092] [--rounds 3]
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
from capture.logit_lens import layer_reader, lens_run
from capture.model import loading
from capture.model.body import vocabulary_size
from warehouse.schema.sites import Key
from warehouse.storage.paths import run_dir
from warehouse.storage.trace_store import TraceStore

LENGTH, LAYERS, TOP_K = 124, 30, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=33 * LENGTH, help="Tokens that are looked at, in each layer.")
    parser.add_argument("--rounds", type=int, default=3)
    args = parsed(parser, rounds=1, positions=LENGTH)
    loaded = loading.load("smollm2", device="cpu")
    count = -(-args.positions // LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder) / "runs", Path(folder) / "texts.txt"
        path.write_text("\n".join(long_texts(loaded.tokenizer, LENGTH, count)), encoding="utf-8")
        captured = next_token.Options(capture="hidden", max_len=LENGTH)
        next_token.run(loaded, open_text(str(path), "text"), captured, root=root, run_id="hidden")
        store = TraceStore(run_dir(root, "hidden"))
        positions = store.meta.counts.tokens
        options = lens_run.Options(TOP_K, ",".join(map(str, range(LAYERS))))
        made: list[str] = []

        def ours() -> None:
            made.append(f"lens-{len(made)}")
            lens_run.run(loaded, run_dir(root, "hidden"), options, root=root, run_id=made[-1])

        weight = loaded.model.get_output_embeddings().weight
        key = Key("dec", "hidden", LAYERS)
        rows = torch.cat([torch.tensor(store.rows(key, s.example_id, s.seq)) for s in store.slices(key)]).float()
        slices = rows.split(layer_reader.slice_rows(vocabulary_size(loaded.model)))
        buffer = torch.empty((len(slices[0]), len(weight)))

        def products() -> None:
            with torch.no_grad():
                for x in slices:
                    for _ in range(LAYERS):
                        torch.mm(x, weight.t(), out=buffer[: len(x)])

        mine, other = in_turns(ours, products, args.rounds)
        size = TraceStore(run_dir(root, made[-1])).meta.bytes
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    total = positions * LAYERS
    record(
        "lens",
        f"logit lens of {LAYERS} layers at top-{TOP_K}, {positions} tokens, from stored residuals to a published run",
        "the matrix products alone",
        f"{total / statistics.median(mine):.0f} rows/s, {size / total:.0f} bytes a row",
        f"{total / statistics.median(other):.0f} rows/s",
        f"{statistics.median(ratios):.2f} times its time ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)",
        "at most 1.3",
    )


if __name__ == "__main__":
    main()
