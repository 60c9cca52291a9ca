"""Import of padded Zarr stores into a run, against reading the stores' files: how much of the disk's speed is left.

SmolLM2 over WikiText-2, cut at 128 tokens, in the layout of the first decision-trace tools. Each round drops the files from the page cache and
reads them from their first byte to their last; then drops them again and imports them: decoded, padding left out, checked for NaN, written with
checksums, fsynced.

    python benchmarks/import_zarr.py [--rounds 3] [--texts 48]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import padded_zarr
import pandas as pd
from common import in_turns, parsed, record
from inputs import model_name, texts
from zarr_write import BATCH, LENGTH

from capture.imports import import_run
from capture.imports.padded_zarr import open_padded_zarr
from capture.model import loading
from capture.model.examine import examine
from warehouse.storage.files import folder_size

STORES = {
    "attn": "dec_self_attn.zarr/attn", "q": "dec_self_qkv.zarr/q", "k": "dec_self_qkv.zarr/k", "v": "dec_self_qkv.zarr/v",
    "hidden": "dec_hidden.zarr/h", "embed": "dec_res_embed.zarr/x",
    **{f"resid_{stage}": f"dec_res_{stage}.zarr/x" for stage in ("pre_attn", "post_attn", "post_mlp")},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=48)
    args = parsed(parser, rounds=1, texts=3)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        stores = Path(folder) / "stores"
        tokens = _write(stores, args.texts)
        size, root = folder_size(stores), Path(folder) / "runs"

        def ours() -> None:
            shutil.rmtree(root, ignore_errors=True)
            import_run.run(open_padded_zarr(stores), str(stores), root=root, run_id="r")

        mine, other = in_turns(_cold(stores, ours), _cold(stores, lambda: _read(stores)), args.rounds)
        after = folder_size(root)
    shares = [b / a for a, b in zip(mine, other, strict=True)]
    record(
        "import_zarr",
        f"`traces import` of padded Zarr stores, {size / 1e6:,.0f} MB of {tokens:,} tokens, {after / 1e6:,.0f} MB as a run",
        "reading the stores' files, neither in the page cache",
        f"{size / statistics.median(mine) / 1e6:,.0f} MB/s",
        f"{size / statistics.median(other) / 1e6:,.0f} MB/s",
        f"{statistics.median(shares):.2f} of the speed ({min(shares):.2f} to {max(shares):.2f} in {args.rounds} rounds)",
        "at least 0.5",
    )


def _write(stores: Path, count: int) -> int:
    """Writes the stores and the tokens of `count` texts; returns how many tokens they are."""
    eager = loading.load(model_name())
    eager.model.set_attn_implementation("eager")
    ids = [eager.tokenizer(text).input_ids[:LENGTH] for text in texts()[:count]]
    made = stores.parent / "made"
    padded_zarr.write(eager.model, examine(eager.model), ids, LENGTH, BATCH, made)
    for name, place in STORES.items():
        target = stores / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "zarr.json", target.parent / "zarr.json")
        (made / name).rename(target)
    rows = [
        {"example_id": str(n), "text": eager.tokenizer.decode(x), "encodings": {"input_ids": x}}
        for n, x in enumerate(ids)
    ]
    pd.DataFrame(rows).to_parquet(stores / "tokens.parquet")
    return sum(map(len, ids))


def _cold(folder: Path, work: Callable[[], None]) -> Callable[[], None]:
    """The work, with none of a folder's files in the page cache."""

    def cold() -> None:
        os.sync()
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as f:
                    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        work()

    return cold


def _read(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as f:
                while f.read(1 << 20):
                    pass


if __name__ == "__main__":
    main()
