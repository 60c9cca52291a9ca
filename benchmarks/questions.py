"""Multiple-choice questions put to a decoder: each prompt read once for all its choices, against every choice read whole.

Both give every choice's log-probability for the first questions of CommonsenseQA's validation part, the same figures within
rounding: ours goes on from the prompt's keys and values, the other runs prompt and choice through the model in padded batches of
as many tokens. SmolLM2.

    python benchmarks/questions.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
from itertools import islice

from common import in_turns, parsed, record
from inputs import opened

from capture.model import loading
from capture.model.continuations import ContinuationReader
from capture.model.examine import examine
from capture.sequences.question_prompts import PromptMaker

BATCH_TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=48)
    args = parsed(parser, rounds=1, questions=2)
    loaded = loading.load("smollm2", device="cpu")
    asked = PromptMaker(loaded.tokenizer, "smollm2").choices(list(islice(opened("csqa").read(), args.questions)))
    once = ContinuationReader(examine(loaded.model), BATCH_TOKENS)
    whole = ContinuationReader(examine(loaded.model), BATCH_TOKENS)
    if not once.reads_prompts_once:
        raise SystemExit("prompts of this model cannot be shared")
    whole.reads_prompts_once = False
    apart = max(
        float((x - y).abs().max() / y.abs().max())
        for of, of_whole in zip(once.states(asked), whole.states(asked), strict=True)
        for x, y in zip(of, of_whole, strict=True)
    )
    mine, other = in_turns(lambda: once.states(asked), lambda: whole.states(asked), args.rounds)
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    print(f"states differ by at most {apart:.1e} of their largest value")
    record(
        "questions",
        "log-probabilities of the choices of multiple-choice questions, each prompt read once",
        "each choice read with its prompt",
        f"{args.questions / statistics.median(mine):.1f} questions/s",
        f"{args.questions / statistics.median(other):.1f} questions/s",
        f"{statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f} in {args.rounds} rounds)",
        "no slower",
    )


if __name__ == "__main__":
    main()
