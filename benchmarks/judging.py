"""Judging over a server that takes its time: 20 concurrent requests keep 20 in flight.

A server on loopback, in a process of its own, answers every request after the same delay, and counts what is in flight. Ours is
`judge_run` over a run made for it, rows written and fsynced shard by shard; the other is what 20 requests at a time could do at
most if nothing but that delay took any time: 20 / delay.

    python benchmarks/judging.py [--rounds 3] [--responses 400] [--delay 0.25]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from common import HERE, parsed, record

sys.path.insert(0, str(HERE.parent / "tests"))

from judge_server import Reply, completion, serve
from synthetic import add_run

from capture.traits.judge_clients import open_judge
from capture.traits.judge_run import judge_run

CONCURRENCY = 20
DEFINITION = {
    "name": "made",
    "instruction": [{"pos": "Do.", "neg": "Don't."}],
    "questions": ["What?"],
    "eval_prompt": "{question} {answer}",
}
ANSWER = "The lamp is lit every night, and the keeper writes the hour into his book. " * 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--responses", type=int, default=400)
    parser.add_argument("--delay", type=float, default=0.25, help="seconds that the server takes for an answer")
    args = parsed(parser, rounds=1, responses=40, delay=0.01)
    rates, means, most = [], [], 0
    for n in range(args.rounds + 1):
        rate, mean, seen = _round(args.responses, args.delay)
        if n:  # the first warms up
            rates.append(rate)
            means.append(mean)
            most = max(most, seen)
    limit = CONCURRENCY / args.delay
    ratios = [rate / limit for rate in rates]
    record(
        "judging",
        f"judging {args.responses} responses, {CONCURRENCY} requests at a time: in flight {statistics.median(means):.2f} on "
        f"average, {most} at most",
        f"{CONCURRENCY} at a time and nothing but the server's {args.delay:g} s",
        f"{statistics.median(rates):.1f} requests/s",
        f"{limit:.1f} requests/s",
        f"{statistics.median(ratios):.3f} of it ({min(ratios):.3f} to {max(ratios):.3f} in {args.rounds} rounds)",
        f"{CONCURRENCY} in flight",
    )


def _round(responses: int, delay: float) -> tuple[float, float, int]:
    """Requests a second, mean in flight between a tenth and nine tenths of the time, and the most."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, delay))
    server.start()
    there.close()  # so that a server that dies is noticed
    try:
        url = here.recv()
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            rows = [
                {"example_id": f"e{i:05d}", "prompt": "What of the lamp?", "response": ANSWER, "trait": "made"}
                for i in range(responses)
            ]
            add_run(root, "made", "trait-responses", {"responses": rows}, options={"trait": DEFINITION})
            judge = open_judge(f"{url}/v1:made")
            start = time.perf_counter()
            judge_run(root, "made", judge, name="judged", concurrency=CONCURRENCY)
            seconds = time.perf_counter() - start
        here.send(None)
        mean, most = here.recv()
    finally:
        server.terminate()
        server.join()
    return 2 * responses / seconds, mean, most


def _serve(connection: Connection, delay: float) -> None:
    def reply(_: dict) -> Reply:
        time.sleep(delay)
        return completion("50")

    with serve(reply) as front:
        connection.send(front.url)
        connection.recv()
        connection.send((front.mean(skip=0.1), front.most))


if __name__ == "__main__":
    main()
