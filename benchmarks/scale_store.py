"""A warehouse in an object store: a tensor of one layer and example against a bare ranged GET; a capture into the store against one
into a folder; and 32 writers who publish at once. The store is moto's S3 server on this machine, in a process of its own.

    python benchmarks/scale_store.py [--tokens 20000] [--times 30] [--rounds 3] [--writers 32]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common import in_turns, left_out, parsed, record
from inputs import opened

from warehouse.catalog import build
from warehouse.storage import object_log, paths
from warehouse.storage.objects import ObjectPath, any_path
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@contextmanager
def s3_server() -> Iterator[ObjectPath]:
    """Runs a server and gives an empty root in it."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "boto3", "obstore")):
        left_out("moto's S3 server and the extra s3: pip install 'trace-warehouse[s3]' 'moto[s3]' flask flask-cors")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        import boto3
        from botocore.exceptions import BotoCoreError

        for _ in range(300):
            try:
                boto3.client("s3").create_bucket(Bucket="bucket")
                break
            except BotoCoreError:
                time.sleep(0.2)
        root = any_path("s3://bucket/runs")
        assert isinstance(root, ObjectPath)
        yield root
    finally:
        server.kill()
        server.wait()


def _capture(model: Loaded, roots: list[Path | ObjectPath], tokens: int, rounds: int) -> None:
    """Records what a capture into the store takes, against one into a folder."""
    import torch

    from capture.jobs import next_token

    torch.set_num_threads(
        max(1, (os.cpu_count() or 2) // 2)
    )  # the others are the server's, which is elsewhere otherwise
    numbers = iter(range(1000))
    options = next_token.Options(capture="resid", limit=max(1, tokens // 128), max_len=128, batch_tokens=1024)

    def capture(root: Path | ObjectPath) -> None:
        next_token.run(model, opened("wikitext2"), options, root=root, run_id=f"run-{next(numbers)}")

    folder, store = roots
    ours, other = in_turns(lambda: capture(store), lambda: capture(folder), rounds)
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    record(
        "scale_store#capture", f"a capture of {tokens:,} tokens with all residual streams into an object store, the model on half of the cores, the server on the others", "into a folder",
        f"{statistics.median(ours):.1f} s", f"{statistics.median(other):.1f} s",
        f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})", "at most 1.1 times",
    )  # fmt: skip


def _read(root: ObjectPath, times: int) -> None:
    """Records what a layer of an example takes, against asking the store for the same bytes."""
    import obstore
    from obstore.store import S3Store

    name = next(iter(object_log.read(root).sections["runs"]))
    run = TraceStore(paths.run_dir(root, name))
    examples = [e for (e,) in run.query("SELECT example_id FROM examples ORDER BY n_tokens DESC LIMIT 8").fetchall()]
    run.resid(examples[0], layer=0)
    blob, start, _ = run.place(run.key("resid.post_mlp", 1, "dec"), examples[0])
    size = run.resid(examples[0], layer=1).nbytes
    plain = S3Store("bucket", client_options={"allow_http": True})
    name = f"runs/{paths.run_dir(root, name).name}/{blob}"
    layers = iter([*range(2, 30)] * 1000)
    ours, other = in_turns(
        lambda: run.resid(examples[next(layers) % len(examples)], layer=next(layers)),
        lambda: obstore.get_range(plain, name, start=4096 + start, length=size),
        times,
    )
    a, b = statistics.median(ours) * 1e3, statistics.median(other) * 1e3
    record(
        "scale_store#read", "one layer of one example from an object store", "a bare ranged GET of as many bytes",
        f"{a:.2f} ms", f"{b:.2f} ms", f"{a / b:.2f} times its time", "under 2 times",
    )  # fmt: skip


def _write_at_once(root: ObjectPath, writers: int) -> None:
    """Records what 32 writers make of one list, while a reader looks on."""
    place = root.parent / "at-once"
    seen, errors = [0], []

    def read() -> None:
        while seen[-1] < writers and not errors:
            try:
                object_log._read.pop(place, None)
                seen.append(len(object_log.read(place).sections["runs"]))
            except Exception as e:
                errors.append(e)

    start = time.perf_counter()
    with ThreadPoolExecutor(writers + 1) as pool:
        reader = pool.submit(read)
        list(pool.map(lambda i: object_log.append(place, {"runs": {f"run-{i}": {"i": i}}}), range(writers)))
        reader.result()
    seconds = time.perf_counter() - start
    listed = len(object_log.read(place).sections["runs"])
    grew = seen == sorted(seen)
    record(
        "scale_store#writers", f"{writers} writers who put a run on the list of an object store at once, and a reader",
        "one after another", f"{listed} of {writers} runs listed, {len(errors)} errors of the reader, who saw the list "
        f"{'only grow' if grew else 'shrink'}", "", f"{seconds:.1f} s", f"{writers} runs, no error",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=int, default=32)
    args = parsed(parser, tokens=128, times=2, rounds=1, writers=4)
    from capture.model import loading

    model = loading.load("smollm2")  # unpacked in the cache that is there, and not in the empty one
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        with s3_server() as root:
            _write_at_once(root, args.writers)
            _capture(model, [Path(folder) / "runs", root], args.tokens, args.rounds)
            build.refresh(root)
            _read(root, args.times)


if __name__ == "__main__":
    main()
