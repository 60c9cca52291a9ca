"""Encoding a run's states with a dictionary of 4,096 features, against the bare product of the same states with its matrix.

The states are real ones, of one layer of SmolLM2; the dictionary's directions are random, with biases by which 32 features are active at a
token. Both sides read the states from the run and widen them. Ours finds what is active, gives the states back from it and measures the
error; then the whole command, which also writes both tables, sorted, and publishes the run.

    python benchmarks/feature_encode.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import in_turns, parsed, record
from residuals import KEY, LAYER, real, shrink

from capture.features import encode_run
from capture.features.dictionary import Dictionary
from capture.features.fit import fit
from capture.features.state_encoder import StateEncoder
from capture.jobs.in_order import in_order
from capture.model.torch_threads import torch_in_threads
from warehouse import TraceStore
from warehouse.schema import sites
from warehouse.storage.grouping import group_by_size

FEATURES, ACTIVE = 4096, 32
PIECE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parsed(parser, rounds=1)
    if asked.small:
        shrink()
    store = real()
    for architecture in ("standard", "topk"):
        compare(store, dictionary(store, architecture), asked.rounds)


def dictionary(store: TraceStore, architecture: str) -> Dictionary:
    """Random directions, of which `ACTIVE` a token are active on average."""
    of = torch.Generator().manual_seed(0)
    width = store.row_shape(KEY)[0]
    directions = torch.nn.functional.normalize(torch.randn(FEATURES, width, generator=of), dim=1)
    x = torch.cat([states(store, s) for s in store.slices(KEY)[:40]])
    least = (x @ directions.T).quantile(1 - ACTIVE / FEATURES, dim=0)
    weights = {"W_enc": directions.T.contiguous(), "W_dec": directions, "b_dec": torch.zeros(width), "b_enc": -least}
    k = ACTIVE if architecture == "topk" else None
    hook = f"blocks.{LAYER}.hook_resid_post"
    return Dictionary("random", architecture=architecture, weights=weights, hook_name=hook, k=k)


def states(store: TraceStore, s) -> torch.Tensor:
    return torch.from_numpy(store.blob(s.blob).rows(sites.tensor_name(*KEY), s.start, s.end).astype(np.float32))


def compare(store: TraceStore, d: Dictionary, rounds: int) -> None:
    sequences = sorted(store.slices(KEY), key=lambda s: (s.example_id, s.seq))
    tokens = sum(s.n_rows for s in sequences)
    encoder = StateEncoder(store, fit(store, [d]), sequences, torch.device("cpu"))
    active = 0

    def bare() -> None:
        for piece in group_by_size(sequences, lambda s: s.n_rows, PIECE):
            encoder.states(KEY, piece) @ d.weights["W_enc"]

    def encode() -> None:
        nonlocal active
        with torch_in_threads(torch.device("cpu")) as threads:
            pieces = group_by_size(sequences, lambda s: s.n_rows, PIECE)
            active = sum(encoded.n_active for encoded in in_order(encoder, pieces, threads))

    def command() -> None:
        with tempfile.TemporaryDirectory() as folder:
            encode_run.run(store.path, [d], encode_run.Options(device="cpu"), root=Path(folder), run_id="features")

    what = f"{tokens:,} tokens, {FEATURES:,} features ({d.architecture})"
    for name, claim, ours in (("encode", "found and given back", encode), ("command", "the whole command", command)):
        fast, plain = (statistics.median(seconds) for seconds in in_turns(ours, bare, rounds))
        record(
            f"feature_encode#{d.architecture}-{name}",
            f"{what}, {active / tokens:.0f} active: {claim}",
            "the bare matrix product of the same states",
            f"{fast:.2f} s",
            f"{plain:.2f} s",
            f"{plain / fast:.2f} of its speed",
            "at least 0.7" if name == "encode" else "no target: rows are written, sorted in two orders",
        )


if __name__ == "__main__":
    main()
