"""Viewer JSON of 100 examples, attention and a logit lens, against json.dump of the same documents.

Ours reads the run from the disk, derives attention from q and k, and writes the folder that `traces export viewer` writes. The other
writes the same documents, number for number, a file each: `export_json` from dictionaries that are in memory already, and
`export_json#reading` makes those dictionaries from the run first. SmolLM2 on WikiText-2, a lens of all layers with 50 tokens each.

    python benchmarks/export_json.py [--examples 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import in_turns, parsed, record
from inputs import long_texts

from capture.data.text import open_text
from capture.jobs import next_token
from capture.logit_lens import lens_run
from capture.model import loading
from warehouse import TraceStore, Warehouse, exports
from warehouse.storage.paths import run_dir

LENGTH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parsed(parser, examples=2, rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "runs", Path(folder) / "out"
        capture(root, args.examples)
        with Warehouse(root) as wh:
            exports.viewer(wh, "r", out)
            files = sorted(p.relative_to(out) for p in out.rglob("*-*.json"))
            size = sum((out / p).stat().st_size for p in files)
            documents = {p: json.loads((out / p).read_bytes()) for p in files}
            store, lens = wh.run("r"), wh.run("lens")

            def ours() -> None:
                exports.viewer(wh, "r", out, force=True)

            def dump_from_memory() -> None:
                dump(documents, Path(folder) / "other")

            def read_and_dump() -> None:
                for p in files:
                    dump({p: make(store, lens, p)}, Path(folder) / "other", fresh=p == files[0])

            mine, other = in_turns(ours, dump_from_memory, args.rounds)
            report("export_json", "in memory already", mine, other, size, args)
            for p in (files[0], files[-1]):  # the two hold the same: or there is nothing to compare
                assert as_float32(make(store, lens, p)) == as_float32(documents[p])
            documents.clear()
            mine, other = in_turns(ours, read_and_dump, args.rounds)
            report("export_json#reading", "made from the run", mine, other, size, args)


def capture(root: Path, examples: int) -> None:
    """Capture short texts and look at them through a lens."""
    loaded = loading.load("smollm2", device="cpu")
    path = root.parent / "texts.txt"
    path.write_text("\n".join(long_texts(loaded.tokenizer, LENGTH, examples)), encoding="utf-8")
    options = next_token.Options(capture="hidden,qkv", max_len=LENGTH)
    next_token.run(loaded, open_text(str(path), "text"), options, root=root, run_id="r")
    lens_run.run(loaded, run_dir(root, "r"), lens_run.Options(50), root=root, run_id="lens")


def dump(documents: dict[Path, Any], folder: Path, fresh: bool = True) -> None:
    """Write documents with json.dump, a file each."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    for name, document in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w", encoding="utf-8") as f:
            json.dump(document, f, ensure_ascii=False)


def make(store: TraceStore, lens: TraceStore, path: Path) -> dict[str, Any]:
    """Make a document as one would by hand: arrays to lists, rows to dictionaries."""
    example, _, seq = path.stem.rpartition("-")
    tokens = store.encodings(example, int(seq))["tokens"]
    document: dict[str, Any] = {"tokens": tokens, "n_prompt_tokens": len(tokens), "n_response_tokens": 0}
    if path.parts[0] == "attention":
        attn = store.attn(example, seq=int(seq))
        document["attention"] = [
            {"token_idx": t, "context_size": t + 1, "by_layer": attn[:, :, t, : t + 1].tolist()}
            for t in range(len(tokens))
        ]
        return document
    rows = lens.query(
        "SELECT pos, actual_token, layer, topk_tokens, topk_probs, actual_rank, actual_prob FROM logit_lens "
        "WHERE example_id = ? AND seq = ? ORDER BY pos, layer NULLS FIRST",
        [example, int(seq)],
    ).fetchall()
    predictions: list[dict[str, Any]] = []
    for pos, actual, layer, top_tokens, top_probs, rank, prob in rows:
        if not predictions or predictions[-1]["token_idx"] != pos:
            predictions.append({"token_idx": pos, "actual_next_token": actual, "by_layer": []})
        top = [{"token": t, "prob": p} for t, p in zip(top_tokens, top_probs, strict=True)]
        by_layer = {"layer": layer, "top_k": top, "actual_rank": rank, "actual_prob": prob}
        predictions[-1]["by_layer"].append(by_layer)
    document["predictions"] = predictions
    return document


def as_float32(value: Any) -> Any:
    """Return a document with its numbers as float32, which both have."""
    if isinstance(value, dict):
        return {name: as_float32(x) for name, x in value.items()}
    if isinstance(value, list):
        return [as_float32(x) for x in value]
    return np.float32(value) if isinstance(value, float) else value


def report(
    name: str, documents: str, mine: list[float], other: list[float], size: int, args: argparse.Namespace
) -> None:
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    record(
        name,
        f"viewer JSON of {args.examples} examples of {LENGTH} tokens, attention and lens, {size / 1e6:.0f} MB, from the run to the folder",
        f"json.dump of the same documents, {documents}",
        f"{statistics.median(mine):.2f} s",
        f"{statistics.median(other):.2f} s",
        f"{statistics.median(ratios):.2f} times its time ({min(ratios):.2f} to {max(ratios):.2f} in {args.rounds} rounds)",
        "at most 1",
    )


if __name__ == "__main__":
    main()
