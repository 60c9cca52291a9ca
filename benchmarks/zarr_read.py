"""One head's attention, and one layer's residual stream, of one example: from a run against from padded Zarr.

Both are open already; what is read is copied into memory of its own, not left a view. Attention is derived from the stored
q and k in ours, and was stored in the other.

    python benchmarks/zarr_read.py [--times 300]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import padded_zarr
import zarr
from common import median_ms, parsed, record
from inputs import long_texts

from capture.data.text import open_text
from capture.jobs import next_token
from capture.model import loading
from capture.model.examine import examine
from warehouse import TraceStore
from warehouse.storage.paths import run_dir

LENGTH, BATCH = 128, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--sequences", type=int, default=16)
    args = parsed(parser, times=2, sequences=2)
    loaded = loading.load("smollm2")
    texts = long_texts(loaded.tokenizer, LENGTH, args.sequences)
    ids = [loaded.tokenizer(t).input_ids[:LENGTH] for t in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        options = next_token.Options(capture="hidden,resid,qkv,attn", max_len=LENGTH, batch_tokens=LENGTH * BATCH)
        next_token.run(loaded, open_text(str(path), "text"), options, root=Path(folder), run_id="r")
        store = TraceStore(run_dir(Path(folder), "r"))
        loaded.model.set_attn_implementation("eager")
        padded_zarr.write(loaded.model, examine(loaded.model), ids, LENGTH, BATCH, Path(folder) / "zarr")
        group = zarr.open_group(str(Path(folder) / "zarr"), mode="r")
        attn, resid = group["attn"], group["resid_post_mlp"]
        examples = list(dict.fromkeys(store.tokens.example_id))
        # The two hold the same: or there is nothing to compare.
        for n in (0, args.sequences // 2, args.sequences - 1):
            a, b = store.resid(examples[n], layer=15).astype(np.float32), resid[n, 15].astype(np.float32)
            np.testing.assert_allclose(a, b, rtol=5e-3, atol=0.2)
            np.testing.assert_allclose(store.attn(examples[n], 12, 4), attn[n, 12, 4], atol=5e-3)
        turn = itertools.cycle(range(args.sequences))
        layer = itertools.cycle(range(30))
        cases = {
            "residual": (
                lambda: np.array(store.resid(examples[next(turn)], layer=next(layer))),
                lambda: resid[next(turn), next(layer)],
                "one layer's residual, one example (read)",
                "20 times faster, under 0.1 ms at the median",
            ),
            "attention": (
                lambda: store.attn(examples[next(turn)], next(layer), 4),
                lambda: attn[next(turn), next(layer), 4],
                "one head's attention, one example (read; derived)",
                "no slower",
            ),
        }
        for name, (ours, theirs, claim, target) in cases.items():
            mine, other = median_ms(ours, args.times), median_ms(theirs, args.times)
            record(
                f"zarr_read#{name}", claim, "the same from that Zarr", f"{mine:.3f} ms", f"{other:.2f} ms",
                f"{other / mine:.1f} times faster", target,
            )  # fmt: skip


if __name__ == "__main__":
    main()
