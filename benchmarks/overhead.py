"""Next-token capture of SmolLM2 against the bare forward pass over the same batches: what a token costs, and what a run does.

Ours is the whole job after the model is loaded: looking at the model, hashing its weights, tokenizing, diagnostics, tensors
written and fsynced, tables merged, run published, views refreshed. Its batches are timed within the run, from the end of the
first to the moment when the last one's tensors are durable; what is left of the whole is what a run of any size costs. The other
is the model's own forward over the same batches, with its default attention, logits computed, nothing kept. WikiText-2, 128
tokens, batch 8.

The floor is the bare forward that keeps as many bytes: after each pass the main thread converts that many numbers from float32 to
float16 and checks that they are finite, and another thread writes them to files of 256 MB and sums them, as the job's does, while
the model goes on.

    python benchmarks/overhead.py [--sequences 48] [--batch 8] [--rounds 3] [--only nothing|resid|qkv]
"""

from __future__ import annotations

import argparse
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import parsed, record
from inputs import long_texts, model_name

from capture.data.example import Source
from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading
from capture.model.examine import examine
from capture.recording.plan import plan
from warehouse.schema.sites import tensor_name
from warehouse.storage.blobs import ShardFile, TensorSpec
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.sequence_checksums import slice_digests

LENGTH = 128
CASES = {
    "nothing": ("", "next-token capture with diagnostics and no tensors", "at most 1.05 a token"),
    "resid": (
        "hidden,resid",
        "next-token capture with hidden and all residual streams, diagnostics, fsynced",
        "at most 1.10 a token",
    ),
    "qkv": ("hidden,resid,qkv,attn", "the same and attention and q, k, v", "at most 1.20 a token"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CASES)
    args = parsed(parser, sequences=2, batch=1, rounds=1, only="resid")
    loaded = loading.load(model_name())
    texts = long_texts(loaded.tokenizer, LENGTH, args.sequences)
    batches = torch.tensor([loaded.tokenizer(t).input_ids[:LENGTH] for t in texts]).split(args.batch)
    tokens = LENGTH * args.sequences
    later = tokens - batches[0].numel()
    anatomy = examine(loaded.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        source = open_text(str(path), "text")
        for name, (capture, claim, target) in CASES.items():
            if args.only not in (None, name):
                continue
            stored = plan(anatomy, capture, "auto", "F16").stored
            specs = {tensor_name(*key): spec for key, spec in stored.items()}
            options = next_token.Options(capture=capture, max_len=LENGTH, batch_tokens=LENGTH * args.batch)
            ours, fixed, bare, floors = [], [], [], []
            for n in range(args.rounds):
                bare.append(bare_seconds(loaded.model, batches))
                floors.append(floor_seconds(loaded.model, batches, specs, Path(folder) / "floor.safetensors"))
                whole, mine = job_seconds(loaded, source, options, Path(folder) / name, f"run-{n}")
                ours.append(mine)
                fixed.append(whole - mine * tokens / later)
            ratios = [a / b for a, b in zip(ours, bare, strict=True)]
            floor = statistics.median(a / b for a, b in zip(floors, bare, strict=True))
            record(
                f"overhead#{name}",
                claim,
                "the bare forward pass",
                f"{later / statistics.median(ours):.0f} tokens/s, {sum(s.row_bytes for s in specs.values()) / 1e3:.0f} KB a token",
                f"{later / statistics.median(bare):.0f} tokens/s",
                f"{statistics.median(ratios):.2f} times its time a token ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds) "
                f"and {statistics.median(fixed):.1f} s a run" + (f"; the floor is {floor:.2f}" if capture else ""),
                target,
            )


def bare_seconds(model: Any, batches: tuple[torch.Tensor, ...]) -> float:
    """Return how long the model takes for all batches but the first."""
    forward(model, batches[0])
    start = time.perf_counter()
    for batch in batches[1:]:
        forward(model, batch)
    return time.perf_counter() - start


def forward(model: Any, batch: torch.Tensor) -> None:
    with torch.no_grad():
        model(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)


def job_seconds(
    loaded: loading.Loaded, source: Source, options: next_token.Options, root: Path, run_id: str
) -> tuple[float, float]:
    """Return how long a job takes, and how long for all batches but the first."""
    times, publish = [time.perf_counter()], RunWriter.publish

    def publish_written(writer: RunWriter, describe: Any) -> Any:
        writer._wait()
        times.append(time.perf_counter())
        return publish(writer, describe)

    with patch.object(RunWriter, "publish", publish_written):
        note = lambda _: times.append(time.perf_counter())  # noqa: E731
        next_token.run(loaded, source, options, root=root, run_id=run_id, report=note)
    return time.perf_counter() - times[0], times[-1] - times[1]


def floor_seconds(model: Any, batches: tuple[torch.Tensor, ...], specs: Mapping[str, TensorSpec], path: Path) -> float:
    """Return how long the model takes for all batches but the first while as many bytes are converted, summed and written."""
    shapes = {spec.row_shape for spec in specs.values()}
    rows = batches[0].numel()
    computed = {shape: torch.randn(rows, *shape) for shape in shapes}
    free: queue.SimpleQueue[dict[str, torch.Tensor]] = queue.SimpleQueue()
    full: queue.SimpleQueue[dict[str, torch.Tensor]] = queue.SimpleQueue()
    for _ in range(3):
        free.put({k: torch.zeros(rows, *s.row_shape, dtype=torch.float16) for k, s in specs.items()})
    starts = np.arange(0, rows, LENGTH)

    def write() -> None:
        most = max(
            1, (next_token.Options().shard_mb << 20) // (rows * max(1, sum(s.row_bytes for s in specs.values())))
        )
        for first in range(0, len(batches), most):
            count = min(most, len(batches) - first)
            shard = ShardFile(path, specs, dict.fromkeys(specs, rows * count))
            for n in range(count):
                tensors = full.get()
                for name, x in tensors.items():
                    shard.put(name, n * rows, x.numpy())
                    slice_digests(x.numpy(), starts, starts + LENGTH)
                free.put(tensors)
            shard.close()

    writer = threading.Thread(target=write)
    writer.start()
    start = 0.0
    for batch in batches:
        forward(model, batch)
        tensors = free.get()
        for x in tensors.values():
            x.copy_(computed[x.shape[1:]])
            assert all(v.isfinite() for v in torch.aminmax(x))
        full.put(tensors)
        start = start or time.perf_counter()
    writer.join()
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


if __name__ == "__main__":
    main()
