"""What roles cost: a next-token capture of chats, against one of the same texts as the chat template writes them.

Questions with their answers, each a chat of a system message, a user's and an assistant's. Both captures read the same tokens, which
is checked; that of chats writes each chat with marks, tells every token whose it is, and has the table `messages`. SmolLM2.

    python benchmarks/chats.py [--rounds 5] [--chats 200]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import islice
from pathlib import Path

from common import in_turns, parsed, record
from inputs import model_name, opened

from capture.data.example import Source
from capture.data.memory import open_chats, open_texts
from capture.jobs import next_token
from capture.model import loading
from warehouse import TraceStore
from warehouse.storage.paths import run_dir

SYSTEM = {"role": "system", "content": "You answer questions in a few words."}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chats", type=int, default=200)
    args = parsed(parser, rounds=1, chats=4)
    loaded = loading.load(model_name(), device="cpu")
    chats = [
        [
            SYSTEM,
            {"role": "user", "content": row.text},
            {"role": "assistant", "content": row.choices[row.answer or 0].text},
        ]
        for row in islice(opened("csqa").rows(), args.chats)
    ]
    texts = [loaded.tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    with tempfile.TemporaryDirectory() as folder:
        root, runs = Path(folder), list[str]()

        def capture(source: Source) -> None:
            runs.append(f"run-{len(runs)}")
            next_token.run(loaded, source, next_token.Options(), root=root, run_id=runs[-1])

        mine, other = in_turns(lambda: capture(open_chats(chats)), lambda: capture(open_texts(texts)), args.rounds)
        ids = "SELECT list(token_id ORDER BY idx, pos) FROM tokens JOIN examples USING (example_id)"
        told, plain, *_ = (TraceStore(run_dir(root, run)).query(ids).fetchone() for run in runs)
        assert told == plain
        tokens = len(told[0]) if told else 0
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    record(
        "chats#capture",
        f"next-token capture of {len(chats):,} chats, {tokens:,} tokens, with roles and turns",
        "the same texts, as the template writes them",
        f"{statistics.median(mine):.1f} s",
        f"{statistics.median(other):.1f} s",
        f"{statistics.median(ratios):.3f} times its time ({min(ratios):.3f} to {max(ratios):.3f} in {args.rounds} rounds)",
        "at most 1.02",
    )


if __name__ == "__main__":
    main()
