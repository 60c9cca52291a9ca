"""What made one prediction, from a stored run, against the model's bare forward pass over the same prompt.

Ours is what is done for one prediction once the model is loaded and taken apart: stored states read from disk, the logit difference in
parts by head and source token, shares of information flow with the dependency graph, and the rows of the tables. The other is the model
called on the prompt. SmolLM2, the prompt of an indirect object.

    python benchmarks/influence.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from common import in_turns, parsed, record

from capture.data.text import one_text
from capture.influences.identities import IdentityErrors
from capture.influences.influence_run import Explainer
from capture.influences.options import Options
from capture.influences.rows import make_tables
from capture.influences.targets import group_targets
from capture.jobs import next_token
from capture.model import loading
from warehouse.storage.paths import run_dir
from warehouse.storage.trace_store import TraceStore

PROMPT = "When Mary and John went to the store, John gave a bottle of milk to"
TOKEN, AGAINST = " Mary", " John"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    args = parsed(parser, rounds=1)
    loaded = loading.load("smollm2", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        captured = next_token.Options(capture="resid,qkv")
        next_token.run(loaded, one_text(PROMPT), captured, root=root, run_id="prompt")
        store = TraceStore(run_dir(root, "prompt"))
        ids = torch.tensor(store.encodings(store.find_example(""))["input_ids"])[None].long()

        def forward() -> None:
            with torch.no_grad():
                loaded.model(input_ids=ids)

        for name, measures in (("influence", ("logit",)), ("influence#ifr", ("logit", "ifr"))):
            options = Options(token=TOKEN, against=AGAINST, measures=measures)
            explainer = Explainer(loaded, store, options)
            [[sequence]] = group_targets(store, options)

            def ours(explainer: Explainer = explainer, sequence=sequence) -> None:
                make_tables("prompt", loaded.tokenizer, explainer.explain(sequence, IdentityErrors()), True)

            mine, other = in_turns(ours, forward, args.rounds)
            ratios = [a / b for a, b in zip(mine, other, strict=True)]
            what = (
                "exact parts of its logit"
                if len(measures) == 1
                else "those, and shares of information flow with the graph"
            )
            record(
                name,
                f"what made one prediction, {ids.shape[1]} tokens, from a stored run: {what}",
                "a bare forward pass",
                f"{statistics.median(mine) * 1e3:.0f} ms",
                f"{statistics.median(other) * 1e3:.0f} ms",
                f"{statistics.median(ratios):.2f} of a forward (median of {args.rounds} rounds)",
                "less than 1",
            )


if __name__ == "__main__":
    main()
