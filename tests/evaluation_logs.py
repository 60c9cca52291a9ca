"""Small logs of evaluations, written as Inspect and lm-evaluation-harness document them, and damaged where a test wants that."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa


def sample(sample_id: Any = "one", epoch: int = 1, value: Any = "C", **fields: Any) -> dict[str, Any]:
    """A sample of Inspect, with a question and its answer."""
    return {
        "id": sample_id,
        "epoch": epoch,
        "input": "What is 1 + 1?",
        "target": "2",
        "messages": [
            {"id": f"u{epoch}", "role": "user", "content": "What is 1 + 1?", "source": "input"},
            {"id": f"a{epoch}", "role": "assistant", "content": "2", "source": "generate", "model": "some/model"},
        ],
        "scores": {"match": {"value": value, "answer": "2", "explanation": "It is said."}},
        "metadata": {"level": 1},
    } | fields


def header(**fields: Any) -> dict[str, Any]:
    spec = {"task": "sums", "model": "some/model", "dataset": {"name": "sums", "sample_ids": ["one", "two"]}}
    return {"version": 2, "status": "success", "eval": spec} | fields


def write_eval(
    path: Path,
    samples: list[dict[str, Any]],
    head: dict[str, Any] | None = None,
    zstd: bool = False,
    head_name: str = "header.json",
) -> Path:
    """Write a `.eval`; of Zstandard's entries as Inspect does it, else deflated."""
    entries = {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in samples} | {head_name: head or header()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if zstd else zipfile.ZIP_DEFLATED) as z:
        for name, contents in entries.items():
            raw = json.dumps(contents).encode()
            z.writestr(name, pa.compress(raw, "zstd", asbytes=True) if zstd else raw)
    if zstd:
        _mark_zstandard(path, entries)
    return path


def _mark_zstandard(path: Path, entries: dict[str, Any]) -> None:
    """Make stored entries, whose contents are compressed already, what a writer that knows Zstandard writes."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        at = z.start_dir
        for info in z.infolist():
            raw = json.dumps(entries[info.filename]).encode()
            facts = struct.pack("<LLL", zlib.crc32(raw), info.compress_size, len(raw))
            for start, method in ((info.header_offset + 14, info.header_offset + 8), (at + 16, at + 10)):
                data[start : start + 12] = facts
                data[method : method + 2] = struct.pack("<H", 93)
            at += 46 + len(info.filename)
    path.write_bytes(data)


def document(doc_id: int = 0, **fields: Any) -> dict[str, Any]:
    """A line of the harness: a question with two choices."""
    return {
        "doc_id": doc_id,
        "doc": {"q": "The lamp was", "gold": 0},
        "target": "0",
        "arguments": {
            "gen_args_0": {"arg_0": "The lamp was ", "arg_1": "lit"},
            "gen_args_1": {"arg_0": "The lamp was ", "arg_1": "a fish"},
        },
        "resps": [[["-1.5", "True"]], [["-7.25", "False"]]],
        "filtered_resps": [["-1.5", "True"], ["-7.25", "False"]],
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "acc": 1.0,
        "acc_norm": 0.0,
    } | fields


def generated(doc_id: int = 0, judged_by: str = "strict-match", score: float = 0.0, **fields: Any) -> dict[str, Any]:
    """A line of the harness: a prompt that the model went on with."""
    return document(
        doc_id,
        target="lit",
        arguments={"gen_args_0": {"arg_0": "The lamp was", "arg_1": {"until": ["\n"]}}},
        resps=[[" out."]],
        filtered_resps=["out"],
        filter=judged_by,
        metrics=["exact_match"],
        exact_match=score,
        **fields,
    )


def write_samples(folder: Path, lines: list[dict[str, Any]], task: str = "lamps", results: dict | None = None) -> Path:
    """Write a file of samples as `--log_samples` does, with the results beside it where there are any."""
    date = "2026-11-28T13-15-32.297771"
    if results is not None:
        (folder / f"results_{date}.json").write_text(json.dumps(results), encoding="utf-8")
    path = folder / f"samples_{task}_{date}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
