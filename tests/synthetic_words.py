"""Random sentences cut into random tokens, with their words and labels: no model, and no tokenizer."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import add_run

Rows = dict[str, list[dict[str, Any]]]

FORMS = ("cat", "naïve", "👍🏽", "10 000", "e\u0301te\u0301", "n't", "10\u00a0000", "a", "日本")
GAPS = ("", " ", "  ", "\u00a0", "\n", "\u3000")
TAGS = ("NOUN", "VERB", "PUNCT", None)


def sentence(rng: random.Random, example_id: str) -> Rows:
    """A random sentence cut into random tokens: words with white space in them, contractions whose words share their
    characters, empty nodes, tokens of several words or of white space alone; in chunks, or cut off, or with a first token."""
    text, words = "", []
    for _ in range(rng.randrange(1, 8)):
        start, form = len(text), rng.choice(FORMS)
        text += form
        for part in range(rng.choice((1, 1, 1, 2))):
            words.append({"form": form, "lemma": f"{form}{part}", "char_start": start, "char_end": len(text)})
        if rng.random() < 0.2:
            words.append({"form": None, "lemma": None, "char_start": None, "char_end": None})
        text += rng.choice(GAPS)
    for i, word in enumerate(words):
        word |= {"example_id": example_id, "word_idx": i, "word_id": str(i + 1)}
        word |= {"upos": rng.choice(TAGS), "deprel": rng.choice(("nsubj", "obj"))}
    at = sorted({0, len(text), *rng.sample(range(len(text)), min(len(text), rng.randrange(1, 14)))})
    spans: list[tuple[int, int] | None] = list(pairwise(at))
    if rng.random() < 0.5:
        spans.insert(0, None)
    if rng.random() < 0.3:
        spans = spans[: rng.randrange(1, len(spans) + 1)]
    per_sequence = rng.choice((3, 5, 100))
    tokens = [
        {
            "example_id": example_id,
            "seq": i // per_sequence,
            "pos": i % per_sequence,
            "side": "dec",
            "token": "<s>" if span is None else text[span[0] : span[1]],
            "char_start": span and span[0],
            "char_end": span and span[1],
            "word_idx": begins_in(span, words),
            "is_special": span is None,
        }
        for i, span in enumerate(spans)
    ]
    predictions = [
        {
            "example_id": example_id,
            "seq": after["seq"],
            "pos": after["pos"] - 1,
            "true_token": after["token"],
            "loss": float(np.float32(rng.expovariate(0.5))),
            "entropy": float(np.float32(rng.expovariate(0.5))),
            "correct": rng.random() < 0.6,
        }
        for after in tokens
        if after["pos"] > 0
    ]
    example = {"example_id": example_id, "text": text, "dataset": "made", "n_tokens": len(tokens)}
    return {"examples": [example], "words": words, "tokens": tokens, "next_token": predictions}


def begins_in(span: tuple[int, int] | None, words: list[dict[str, Any]]) -> int | None:
    """The first word of the first of its characters that is in any."""
    for character in range(*(span or (0, 0))):
        for i, word in enumerate(words):
            if word["char_start"] is not None and word["char_start"] <= character < word["char_end"]:
                return i
    return None


def sentences(n: int) -> Rows:
    """The rows of n sentences; every one has no label, one or two."""
    rng = random.Random(0)
    rows: Rows = defaultdict(list)
    for i in range(n):
        for table, found in sentence(rng, f"{i:016x}").items():
            rows[table] += found
        for label in rng.sample(("joy", "fear", "neutral"), rng.choice((0, 1, 1, 2))):
            rows["labels"].append({"example_id": f"{i:016x}", "label_id": len(label), "label": label})
    return dict(rows)


def add_words(root: Path, rows: Rows) -> None:
    """The run `words`; the same without predictions and without annotation; a newer one of another kind."""
    add_run(root, "words", "next-token", rows, minute=1)
    add_run(root, "encoded", "encode", {t: rows[t] for t in ("examples", "words", "tokens")}, minute=2)
    add_run(root, "plain", "next-token", {t: rows[t] for t in ("examples", "tokens", "next_token")}, minute=3)
