"""Two models compared from what two runs have stored, against the matrix products alone that this cannot do without.

KL by token: SmolLM2 and a copy with noise on its weights, on WikiText-2. Ours reads the tokens that both share, both last states, makes
both models' logits, compares the distributions, and writes the rows (`comparisons`), sorted and published; what is done once for
each model beside loading it, hashing its weights and proving its head, is measured too and told apart. The other multiplies as many rows by
the two heads, in the same slices, into one buffer each that is kept, and looks at none of it.

Layers: debiased CKA of all 31 x 31 pairs of layers with its intervals, against the 62 Gram matrices alone, and how long Procrustes takes
for the 31 pairs of one number.

    python benchmarks/compare.py [--tokens 2108] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from common import in_turns, is_small, parsed, record
from inputs import long_texts

from capture.comparisons import predictions
from capture.comparisons.cka import debiased_cka
from capture.comparisons.compare_run import run
from capture.comparisons.options import Options, state_key
from capture.comparisons.predictions import PredictionRows
from capture.comparisons.predictor import Predictor, read_states
from capture.comparisons.procrustes import procrustes
from capture.comparisons.run_pair import open_pair
from capture.comparisons.sample import draw_sample
from capture.comparisons.shared_tokens import group_shared
from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading
from warehouse.schema.sites import Key
from warehouse.storage.parquet import write_part
from warehouse.storage.paths import run_dir
from warehouse.storage.trace_store import TraceStore

LENGTH, LAYERS = 124, 30


def noisy(loaded: loading.Loaded) -> loading.Loaded:
    model = deepcopy(loaded.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * weight.std() * torch.randn(weight.shape, generator=generator)
    return loading.Loaded(model, loaded.tokenizer, "noisy", None, "cpu", trust_remote_code=False)


def ratio_text(mine: list[float], other: list[float]) -> str:
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    return f"{statistics.median(ratios):.2f} times its time ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"


def compare_tokens(root: Path, models: list[loading.Loaded], rounds: int) -> None:
    pair = open_pair(run_dir(root, "a"), run_dir(root, "b"))
    start = time.perf_counter()
    predictors = [Predictor(model, store, None) for model, store in zip(models, pair.stores, strict=True)]
    once = time.perf_counter() - start
    part = root / "rows.parquet"

    def ours() -> None:
        rows = PredictionRows(pair.names, (predictors[0], predictors[1]))
        for shard in group_shared(pair):
            write_part("comparisons", part, rows.table(shard))

    key = Key("dec", "hidden", LAYERS)
    slices = []
    for store in pair.stores:
        states = torch.cat([torch.tensor(store.rows(key, s.example_id, s.seq)) for s in store.slices(key)]).float()
        slices.append(states.split(max(1, predictions._SLICE_BYTES // (predictors[0].vocabulary * 4))))
    weights = [model.model.get_output_embeddings().weight for model in models]
    buffers = [torch.empty((len(slices[0][0]), len(weights[0]))) for _ in models]
    tokens = sum(len(x) for x in slices[0])

    def products() -> None:
        with torch.no_grad():
            for x, y in zip(*slices, strict=True):
                torch.mm(x, weights[0].t(), out=buffers[0][: len(x)])
                torch.mm(y, weights[1].t(), out=buffers[1][: len(y)])

    mine, other = in_turns(ours, products, rounds)
    start = time.perf_counter()
    run(
        run_dir(root, "a"), run_dir(root, "b"), lambda side: models[side], Options("predictions"), root=root, run_id="whole"
    )  # fmt: skip
    whole = time.perf_counter() - start
    size = TraceStore(run_dir(root, "whole")).meta.bytes
    record(
        "compare",
        f"KL and top-1 by token of two runs, {tokens} tokens of SmolLM2, from stored states to rows on disk",
        "the two heads' matrix products alone",
        f"{tokens / statistics.median(mine):.0f} tokens/s, {size / tokens:.0f} bytes a token; proving the heads takes {once:.1f} s once, the "
        f"whole job {whole:.1f} s",
        f"{tokens / statistics.median(other):.0f} tokens/s",
        ratio_text(mine, other),
        "at most 1.2",
    )


def compare_layers(root: Path, rounds: int) -> None:
    pair = open_pair(run_dir(root, "a"), run_dir(root, "b"))
    sample = draw_sample(pair, 2048, 0)
    layers = (None, *range(LAYERS))
    places = [(p.example_id, p.seq, p.positions) for p in sample.pieces]
    a, b = ([read_states(store, state_key(layer), places) for layer in layers] for store in pair.stores)
    gram = np.empty((sample.tokens, sample.tokens), np.float32)

    def products() -> None:
        for x in (*a, *b):
            np.matmul(x, x.T, out=gram)

    mine, other = in_turns(lambda: debiased_cka(a, b, sample.bounds), products, rounds)
    shuffled = np.random.default_rng(0).permutation(sample.tokens)
    start = time.perf_counter()
    for x, y in zip(a, b, strict=True):
        procrustes(x, y, sample.bounds, shuffled)
        if is_small():
            break
    rotated = time.perf_counter() - start
    record(
        "compare#layers",
        f"debiased CKA of {len(a)} x {len(b)} layers with intervals, {sample.tokens} tokens of SmolLM2, in memory",
        "the Gram matrices alone",
        f"{statistics.median(mine):.1f} s; Procrustes of the {len(a)} pairs of one number takes {rotated:.1f} s",
        f"{statistics.median(other):.1f} s",
        ratio_text(mine, other),
        "said, not set",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=17 * LENGTH, help="Tokens that are compared.")
    parser.add_argument("--rounds", type=int, default=7)
    args = parsed(parser, rounds=1, tokens=2 * LENGTH)
    models = [loading.load("smollm2", device="cpu")]
    models.append(noisy(models[0]))
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder) / "runs", Path(folder) / "texts.txt"
        texts = long_texts(models[0].tokenizer, LENGTH, -(-args.tokens // LENGTH))
        path.write_text("\n".join(texts), encoding="utf-8")
        for name, model in zip("ab", models, strict=True):
            options = next_token.Options(capture="hidden", max_len=LENGTH)
            next_token.run(model, open_text(str(path), "text"), options, root=root, run_id=name)
        compare_tokens(root, models, args.rounds)
        compare_layers(root, min(3, args.rounds))


if __name__ == "__main__":
    main()
