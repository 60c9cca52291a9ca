"""What `--store-dtype int8` saves and costs: bytes of the residual streams, and what the logit lens then reads, layer by layer.

The same paragraphs are captured twice, in float16 and in int8. Bytes are of the residual tensors in the shards, centres, scales and
exact values included. KL is of every layer's distribution over the next token, float16's from int8's, through the model's own norm and
head, in nats, mean over tokens.

    python benchmarks/scale_int8.py [--texts 100] [--length 512]
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from common import parsed, record
from inputs import texts

from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading
from capture.model.examine import examine
from capture.model.final_norm import FinalNorm
from warehouse.storage.blobs import DTYPES
from warehouse.storage.paths import run_dir
from warehouse.storage.trace_store import TraceStore

STEP = 7
"""Every seventh token's distribution is compared, first tokens apart."""


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--length", type=int, default=512, help="tokens at most that are read of each")
    args = parsed(parser, texts=3, length=64)
    loaded = loading.load("smollm2", device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join([t for t in texts() if len(t) > 200][: args.texts]), encoding="utf-8")
        for dtype in ("float16", "int8"):
            options = next_token.Options(capture="hidden", max_len=args.length, store_dtype=dtype)
            next_token.run(loaded, open_text(str(path), "text"), options, root=Path(folder), run_id=dtype)
        fp16, int8 = (TraceStore(run_dir(Path(folder), d)) for d in ("float16", "int8"))
        ratio = _bytes(int8) / _bytes(fp16)
        kl = _kl(loaded, fp16, int8)
        tokens, full = fp16.meta.counts.tokens, 2 * fp16.meta.model.d_model
    print("KL by layer, the last one after the final norm:", " ".join(f"{x:.1e}" for x in kl))
    read = f"SmolLM2's residual streams of {tokens:,} tokens of WikiText-2"
    record(
        "scale_int8#bytes", f"{read} in int8, all that lies beside the codes included", "in float16",
        f"{ratio * full:,.0f} bytes a token and layer", f"{full:,}", f"{ratio:.3f} of the bytes", "0.51",
    )  # fmt: skip
    record(
        "scale_int8#median", f"{read}: KL of the logit lens from int8, median layer", "from float16",
        f"{statistics.median(kl):.1e} nats", "0", f"{statistics.median(kl):.1e} nats", "under 3e-4",
    )  # fmt: skip
    record(
        "scale_int8#worst", f"{read}: KL of the logit lens from int8, worst layer", "from float16",
        f"{max(kl):.1e} nats (layer {int(np.argmax(kl)) - 1})", "0", f"{max(kl):.1e} nats", "under 1e-2",
    )  # fmt: skip


def _bytes(store: TraceStore) -> int:
    """Bytes of all tensors in a run's shards."""
    total = 0
    for f in store.meta.files:
        if f.path.startswith("blobs/"):
            blob = store.blob(f.path)
            total += sum(
                int(np.prod(shape)) * DTYPES[dtype].itemsize
                for dtype, shape in (blob.tensors | blob.companions).values()
            )
    return total


def _kl(loaded: loading.Loaded, fp16: TraceStore, int8: TraceStore) -> list[float]:
    """The mean KL of each state, from the embedding to the one after the final norm."""
    norm, head = FinalNorm(examine(loaded.model)), loaded.model.get_output_embeddings()
    n = fp16.meta.model.n_layers
    keys = [fp16.key("hidden", i) for i in range(n + 1)]
    found = []
    for i, key in enumerate(keys):
        kept: list[np.ndarray] = []
        for store in (fp16, int8):
            rows = [
                store.rows(key, s.example_id, s.seq)[1::STEP].astype(np.float32)
                for s in sorted(store.slices(keys[0]), key=lambda s: (s.example_id, s.seq))
            ]
            kept.append(np.concatenate(rows))
        sums, count = 0.0, 0
        for start in range(0, len(kept[0]), 256):
            with torch.no_grad():
                states = [torch.from_numpy(x[start : start + 256]) for x in kept]
                log_p, log_q = (torch.log_softmax(head(x if i == n else norm(x)).double(), -1) for x in states)
                sums += float((log_p.exp() * (log_p - log_q)).sum())
                count += len(log_p)
        found.append(sums / count)
    return found


if __name__ == "__main__":
    main()
